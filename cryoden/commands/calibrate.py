"""The verb `calibrate`."""

from collections.abc import Iterator
from pathlib import Path

from cryoden.console import loading
from cryoden.errors import CryodenError
from cryoden.files import check_output
from cryoden.volume import read_volume


def calibrate(simulated: str, real: str, output: str = "calibration.png", overwrite: bool = False) -> Iterator[str]:
    """Draw a simulated tomogram beside a real one: slices, power spectrum, grey values, correlation of the noise.

    Grey scales may differ, and the sign: both are brought to a standard deviation of 1 and bright protein.
    Which arguments of the simulation change what, docs/calibration.md tells. What is left of the difference between
    the spectra is printed as a line for the YAML of a TiltSeriesDegradation: with this `radial_gain` such tomograms
    have the spectrum of the real one.

    Args:
        simulated: MRC file of a simulated tomogram.
        real: MRC file of a real one, of about the same voxel size.
        output: the figure, .png or .svg.
        overwrite: replace an existing figure.

    Yields:
        The figures' numbers, and where the figure is.

    Raises:
        CryodenError: a file cannot be used, the voxel sizes are more than 10 % apart, or the output exists.
    """
    path = Path(output)
    if path.suffix not in (".png", ".svg"):
        raise CryodenError(f"output {output}: allowed are names that end in .png or .svg")
    check_output(path, overwrite=overwrite)
    if Path(simulated).resolve() == Path(real).resolve():
        raise CryodenError(f"{simulated}: given as the simulated tomogram and as the real one; give two files")
    volumes = {file: read_volume(file) for file in (simulated, real)}
    sizes = [volume.voxel_size for volume in volumes.values()]
    if min(sizes) > 0 and abs(sizes[0] / sizes[1] - 1) > 0.1:
        raise CryodenError(
            f"{simulated} has voxels of {sizes[0]:.4g} Å, {real} of {sizes[1]:.4g} Å; what is compared must be of the "
            "same scale within 10 %: simulate at the real voxel size"
        )
    with loading():
        from cryoden.evaluation.calibration import calibration_figure, describe, radial_gain, spectral_distance
        from cryoden.pictures import save_figure
    characters = {file: describe(volume, file) for file, volume in volumes.items()}
    names = ("simulated", "real")
    for name, (file, it) in zip(names, characters.items(), strict=True):
        neighbours = ", ".join(f"{axis} {it.noise[i, 1]:.2f}" for i, axis in enumerate("zyx"))
        yield (
            f"{name:9s} {file}: noise of neighbours correlates by {neighbours}; "
            f"skewness {it.skewness:.2f}, excess kurtosis {it.kurtosis:.2f}"
        )
    ours, theirs = characters.values()
    yield f"power spectra: {spectral_distance(ours, theirs):.1f} dB apart, root mean square over frequencies"
    yield f"radial_gain: [{', '.join(f'{gain:.3g}' for gain in radial_gain(ours, theirs))}]"
    figure = calibration_figure(dict(zip(names, characters.values(), strict=True)), max(sizes))
    save_figure(figure, path, overwrite=overwrite)
    yield str(path)
