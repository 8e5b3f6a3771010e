import re
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
import yaml
from scipy.ndimage import gaussian_filter1d

from cryoden.cli import main
from cryoden.commands.calibrate import calibrate
from cryoden.evaluation.calibration import describe, power_spectrum, radial_gain, spectral_distance
from cryoden.simulation import TiltSeriesDegradation
from cryoden.volume import Volume, write_volume

SHAPE = (32, 48, 40)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE)


def as_volume(data: np.ndarray, voxel_size: float = 10.0) -> Volume:
    return Volume(data.astype(np.float32), voxel_size)


def with_protein(sign: int) -> np.ndarray:
    data = noise()
    data[8:16, 8:16, 8:16] += sign * 5
    return data


def test_white_noise_is_told_as_such() -> None:
    it = describe(as_volume(100 + 7 * noise()), "noise")
    np.testing.assert_allclose(it.power[8:], 1, atol=0.2)  # few waves are as long as those before
    np.testing.assert_allclose(it.noise[:, 1:], 0, atol=0.05)
    assert abs(it.skewness) < 0.05
    assert abs(it.kurtosis) < 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_noise_that_hangs_together_along_an_axis_is_found_there(axis: int) -> None:
    sigma = 1.0
    it = describe(as_volume(gaussian_filter1d(noise(), sigma, axis)), "noise")
    # white noise filtered by a Gaussian correlates as a Gaussian that is sqrt(2) times as wide
    assert it.noise[axis, 1:4] == pytest.approx(np.exp(-(np.arange(1, 4) ** 2) / (4 * sigma**2)), abs=0.06)
    others = [other for other in range(3) if other != axis]
    np.testing.assert_allclose(it.noise[others, 1], 0, atol=0.06)


def test_a_wave_has_its_power_at_its_frequency() -> None:
    wave = np.broadcast_to(2**0.5 * np.cos(2 * np.pi * 0.25 * np.arange(40)), SHAPE)
    frequency, power = power_spectrum(wave)
    assert frequency[power.argmax()] == pytest.approx(0.25, abs=0.02)
    assert power[frequency < 0.15].max() < 1e-3 * power.max()


def test_the_sign_and_the_grey_scale_do_not_matter() -> None:
    bright, dark = (describe(as_volume(scale * with_protein(sign)), "it") for sign, scale in ((1, 1.0), (-1, 40.0)))
    assert bright.skewness > 0.1
    assert dark.skewness > 0.1
    other = describe(as_volume(with_protein(1)), "it")
    assert spectral_distance(bright, other) == 0
    smooth = describe(as_volume(gaussian_filter1d(noise(), 0.5, 0)), "it")
    assert spectral_distance(describe(as_volume(noise(1)), "it"), smooth) > 0.5


def test_a_simulation_with_the_gain_has_the_spectrum_of_the_real_one() -> None:
    """The real one falls as exp(-4 f) of the frequency."""
    ours = noise()
    z, y, x = (np.fft.fftfreq(size) for size in SHAPE)
    frequency = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    theirs = np.fft.ifftn(np.fft.fftn(ours) * np.exp(-4 * frequency)).real
    one, other = (describe(as_volume(data), "it") for data in (ours, theirs))
    gain = radial_gain(one, other)
    expected = np.exp(-4 * np.linspace(0, 0.5, 11))
    np.testing.assert_allclose(gain[1:-1] / gain[4], expected[1:-1] / expected[4], rtol=0.05)
    assert np.log(gain[:6]).mean() == pytest.approx(0)
    step = TiltSeriesDegradation(radial_gain=tuple(gain.tolist()))
    parameters = {**step.sample(torch.Generator()), "colour": 0.0}
    coloured = step._coloured(torch.from_numpy(ours), parameters).numpy()
    mended = describe(as_volume(coloured), "it")
    assert spectral_distance(mended, other) < 1 < 4 < spectral_distance(one, other)


def test_the_command_writes_a_figure_and_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume("a.mrc", as_volume(with_protein(-1)))
    write_volume("b.mrc", as_volume(gaussian_filter1d(with_protein(1), 1, 0), 10.5))
    main(["calibrate", "a.mrc", "b.mrc", "--output", "figure.png"])
    printed = capfd.readouterr().out
    assert re.search(r"simulated a.mrc: noise of neighbours correlates by z -?0.0", printed)
    assert re.search(r"real +b.mrc: noise of neighbours correlates by z 0.[78]", printed)
    assert "dB apart" in printed
    (line,) = re.findall(r"^radial_gain: .*$", printed, re.MULTILINE)
    gain = yaml.safe_load(line)["radial_gain"]
    assert TiltSeriesDegradation(radial_gain=tuple(gain)).radial_gain[-1] < 1
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main(["calibrate", "a.mrc", "b.mrc", "--output", "figure.png"])
    assert "figure.png" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("voxel_size", "data", "output", "message"),
    [
        (12.0, noise(), "out.png", "b.mrc of 12 Å; what is compared must be of the same scale within 10 %"),
        (10.0, noise()[:8], "out.png", "b.mrc: a tomogram of 8 × 48 × 40 voxels"),
        (10.0, np.ones(SHAPE), "out.png", "and some contrast"),
        (10.0, np.where(noise() > 3, np.nan, noise()), "out.png", "b.mrc has .* NaN"),
        (10.0, noise(), "out.jpg", "output out.jpg: allowed are names that end in .png or .svg"),
    ],
)
def test_bad_input(voxel_size, data, output, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume("a.mrc", as_volume(noise()))
    with mrcfile.new("b.mrc") as file:  # another program's: ours writes no NaN
        file.set_data(data.astype(np.float32))
        file.voxel_size = voxel_size
    with pytest.raises(ValueError, match=message):
        list(calibrate("a.mrc", "b.mrc", output))
    assert not Path(output).exists()
