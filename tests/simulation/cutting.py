"""The reference for what voxels can hold: a density on a finer grid, cut in Fourier space."""

import numpy as np
from numpy.typing import NDArray


def cut_in_fourier_space(fine: NDArray[np.float32], factor: int) -> NDArray[np.float64]:
    """Every `factor`-th sample along each axis, without what lies beyond the Nyquist frequency of what is left.

    The centre is sample n // 2 of each axis before and after; all lengths are even after it.
    """
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(fine)))
    kept = tuple(slice(n // 2 - n // factor // 2, n // 2 + n // factor // 2) for n in fine.shape)
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum[kept])).real) / factor**fine.ndim


def difference(volume: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Of the norms."""
    return float(np.linalg.norm(volume - reference) / np.linalg.norm(reference))


def even(voxels: int) -> int:
    """This, or one more."""
    return voxels + voxels % 2
