"""Small half tomograms of blobs, whose truth is known."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryoden.volume import Volume, write_volume
from cryoden.wedge import wedge_mask

SHAPE = (40, 112, 40)


def blobs(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.float32]:
    """A tomogram without noise: bright blobs on a background of 0."""
    rng = np.random.default_rng(seed)
    volume = gaussian_filter((rng.random(shape) > 0.997).astype(np.float32), 1.5)
    return volume / volume.std()


def measured(volume: NDArray[np.float32], tilts: tuple[float, float]) -> NDArray[np.float32]:
    """What tilts leave of a volume."""
    mask = wedge_mask((volume.shape[0], volume.shape[2]), tilts)[:, None]
    spectrum = torch.fft.rfftn(torch.from_numpy(volume)) * mask
    return torch.fft.irfftn(spectrum, s=volume.shape).numpy()


def write_halves(
    folder: Path,
    name: str = "TS_1",
    *,
    seed: int = 0,
    noise: float = 1.0,
    gain: float = -3.0,
    tilts: tuple[float, float] | None = None,
    voxel_size: float = 10.0,
    shape: tuple[int, int, int] = SHAPE,
) -> NDArray[np.float32]:
    """Two halves as Warp names them, of any unit; and what they show without noise."""
    rng = np.random.default_rng(seed + 100)
    truth = blobs(seed, shape)
    for half in ("even", "odd"):
        (folder / half).mkdir(parents=True, exist_ok=True)
        seen = truth + noise * rng.normal(size=shape).astype(np.float32)
        seen = measured(seen, tilts) if tilts else seen
        write_volume(folder / half / f"{name}.mrc", Volume(gain * seen + 70, voxel_size))
    return truth
