"""A simulated tomogram beside a real one: do spectrum, grey values and noise look alike?"""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import kurtosis, norm, skew

from cryoden.errors import CryodenError
from cryoden.inference.contrast import look
from cryoden.pictures import STYLES, plain_axis, scale_bar, show_slice
from cryoden.volume import Volume, measure

_LAGS = 8  # voxels
_TILE = 16  # voxels: where the noise of a tomogram is looked at, tile by tile
_BINS = 40  # of frequencies up to Nyquist
_NODES = 11  # of a gain, from 0 to Nyquist
_FAINTEST = 1e-6  # power that counts as none, of white noise


@dataclass(frozen=True, eq=False)
class Character:
    """What the voxels of a tomogram are like, in units of their standard deviation, protein bright.

    Attributes:
        data: (D, H, W).
        frequency: (40,), cycles per voxel.
        power: (40,), mean power at each frequency over all directions, the missing wedge among them; 1 is white noise.
        noise: (3, 9), correlation of voxels 0 to 8 apart along z, y, x where the tomogram is emptiest.
        skewness: of the grey values; 0 for Gaussian noise.
        kurtosis: of the grey values, in excess of Gaussian noise.
    """

    data: NDArray[np.float64]
    frequency: NDArray[np.float64]
    power: NDArray[np.float64]
    noise: NDArray[np.float64]
    skewness: float
    kurtosis: float


def describe(volume: Volume, name: str) -> Character:
    """Measure a tomogram.

    Args:
        volume: of any grey scale and sign; at least 16 voxels along each axis.
        name: what to call it in an error.

    Raises:
        CryodenError: it is too small, constant, or has voxels that are not finite.
    """
    statistics = measure(volume.data)
    statistics.require_finite(name)
    if min(volume.data.shape) < _TILE or statistics.std == 0:
        raise CryodenError(
            f"{name}: a tomogram of {' × '.join(map(str, volume.data.shape))} voxels and standard deviation "
            f"{statistics.std:.3g}; needed are {_TILE} voxels along each axis, and some contrast"
        )
    sign = -1 if look(volume.data).contrast == "dark" else 1
    data = sign * (volume.data.astype(np.float64) - statistics.mean) / statistics.std
    frequency, power = power_spectrum(data)
    return Character(
        data, frequency, power, _noise(data), float(skew(data, axis=None)), float(kurtosis(data, axis=None))
    )


def power_spectrum(data: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean power over spheres of frequency.

    Args:
        data: (D, H, W), of mean 0; its edges are faded, so that they leave no cross.

    Returns:
        Frequencies (40,) in cycles per voxel, and powers (40,): 1 for white noise of standard deviation 1.
    """
    window: NDArray[np.float64] = np.ones(())
    for size in data.shape:
        window = np.multiply.outer(window, np.hanning(size + 2)[1:-1])
    power = np.abs(np.fft.rfftn(data * window)) ** 2 / np.square(window).sum()
    axes = [np.fft.fftfreq(size) for size in data.shape[:2]]
    radius = np.sqrt(
        np.square(axes[0])[:, None, None] + np.square(axes[1])[:, None] + np.square(np.fft.rfftfreq(data.shape[2]))
    )
    shell = np.minimum((radius * 2 * _BINS).astype(int), _BINS).ravel()
    sums, counts = np.bincount(shell, power.ravel(), _BINS + 1), np.bincount(shell, minlength=_BINS + 1)
    return (np.arange(_BINS) + 0.5) / (2 * _BINS), (sums / np.maximum(counts, 1))[:_BINS]


def spectral_distance(one: Character, other: Character) -> float:
    """Root mean square difference of two power spectra in dB, where both have power."""
    both = (one.power > 0) & (other.power > 0)
    return float(np.sqrt(np.mean(np.square(10 * np.log10(one.power[both] / other.power[both])))))


def radial_gain(simulated: Character, real: Character) -> NDArray[np.float64]:
    """By what a simulated tomogram must be multiplied, frequency by frequency, to have a real one's power spectrum.

    It is 1 on the mean over the lower half of frequencies, where most of the signal is, so that that keeps its height.

    Returns:
        (11,) amplitudes at equal steps from 0 to Nyquist, for `TiltSeriesDegradation.radial_gain`.
    """
    ours, theirs = (np.maximum(each.power, _FAINTEST) for each in (simulated, real))
    nodes = np.linspace(0, 0.5, _NODES)
    near = np.maximum(1 - np.abs(nodes[:, None] - simulated.frequency) / nodes[1], 0)
    gain = near @ np.log(theirs / ours) / near.sum(axis=1) / 2
    amplitudes: NDArray[np.float64] = np.exp(gain - gain[: _NODES // 2 + 1].mean())
    return amplitudes


def _noise(data: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 9): correlation over distance along each axis, in the quarter of tiles that varies least when binned by 4."""
    tiles = [
        data[z : z + _TILE, y : y + _TILE, x : x + _TILE]
        for z in range(0, data.shape[0] - _TILE + 1, _TILE)
        for y in range(0, data.shape[1] - _TILE + 1, _TILE)
        for x in range(0, data.shape[2] - _TILE + 1, _TILE)
    ]
    quarter = _TILE // 4
    coarse = [t.reshape(quarter, 4, quarter, 4, quarter, 4).mean(axis=(1, 3, 5)).var() for t in tiles]
    quiet = [tiles[i] - tiles[i].mean() for i in np.argsort(coarse)[: max(1, len(tiles) // 4)]]
    out = np.ones((3, _LAGS + 1))
    for axis in range(3):
        for lag in range(1, _LAGS + 1):
            near = np.concatenate([np.take(t, range(_TILE - lag), axis).ravel() for t in quiet])
            far = np.concatenate([np.take(t, range(lag, _TILE), axis).ravel() for t in quiet])
            out[axis, lag] = np.mean(near * far) / np.sqrt(np.mean(near**2) * np.mean(far**2))
    return out


def calibration_figure(characters: dict[str, Character], voxel_size: float) -> Figure:
    """Slices of tomograms, and their power spectra, grey values and noise in one panel each.

    Args:
        characters: name → what was measured.
        voxel_size: Å, of the scale bar; 0: none.
    """
    figure = Figure(figsize=(4.4 + 3.6 * 3, 6.6), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 2))[0]
    slices = left.subplots(2, len(characters), height_ratios=(3, 1), squeeze=False)
    panels = right.subplots(2, 2)
    spectrum, grey, along, beam = panels.flat
    for column, ((name, it), style) in enumerate(zip(characters.items(), STYLES, strict=False)):
        for row, axis in enumerate((0, 1)):
            image = np.take(it.data, it.data.shape[axis] // 2, axis=axis)
            place = slices[row, column]
            show_slice(place, image, -3, 4)
            place.set_title(f"{name}, {('xy', 'xz')[row]}", fontsize=10)
            if voxel_size and row == 0:
                scale_bar(place, image.shape[1], voxel_size)
        line = {"color": style.color, "linestyle": style.line, "label": name}
        spectrum.semilogy(it.frequency, it.power, **line)
        density, edges = np.histogram(it.data, bins=80, range=(-5, 7), density=True)
        grey.semilogy((edges[1:] + edges[:-1]) / 2, np.where(density > 0, density, np.nan), **line)
        lags = np.arange(_LAGS + 1)
        along.plot(lags, it.noise[1:].mean(axis=0), marker=style.marker, markersize=4, **line)
        beam.plot(lags, it.noise[0], marker=style.marker, markersize=4, **line)
    values = np.linspace(-5, 7, 200)
    grey.semilogy(values, norm.pdf(values), color="#999999", linestyle=":", label="Gaussian")
    grey.set(xlabel="grey value, standard deviations", ylabel="density of voxels", ylim=(1e-6, 1), title="grey values")
    spectrum.set(xlabel="frequency, cycles per voxel", ylabel="power (white noise: 1)", title="power spectrum")
    for panel, where in ((along, "in the section"), (beam, "along the beam")):
        panel.axhline(0, color="#999999", linewidth=0.8, linestyle=":")
        panel.set(xlabel="voxels apart", ylabel="correlation", ylim=(-0.4, 1.02), title=f"noise, {where}")
    for panel in panels.flat:
        plain_axis(panel)
        panel.title.set_fontsize(10)
    grey.legend(fontsize=9, frameon=False)
    return figure
