"""How much structure was taken away with the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.scaling import BOUND, Scale
from cryoden.volume import central, native, release

SUSPICIOUS = 0.7  # docs/judging.md says what was measured

_SMOOTH = 1.5  # voxels, standard deviation: noise of single voxels averages out, and a protein does not


def structure_removed(before: NDArray[Any], after: NDArray[Any]) -> float:
    """The correlation of what was taken away with what was there, both low-passed.

    Noise that was taken away is unlike the low-passed tomogram, in which little of it is left; structure is like it.
    Nothing brings the two volumes to one scale: `after` must have the grey scale of `before`, as denoised volumes have.

    Args:
        before: (D, H, W), any unit; of a volume larger than 192 voxels along an axis, the middle is taken; may be
            mapped.
        after: The same, denoised.

    Returns:
        From -1 to 1, over voxels that are not filled with one value; 1 for an empty volume, and 0 where nothing was
        taken away.
    """
    from scipy.ndimage import gaussian_filter  # takes long to import, and only what was denoised needs it

    given = torch.from_numpy(native(central(before)))[None, None].float()
    scale = Scale.of(given)
    left_out = scale.left_out(given)
    was = scale.standardize(given, left_out).clamp(-BOUND, BOUND)
    denoised = torch.from_numpy(native(central(after)))[None, None]
    for mapped in (before, after):
        release(mapped)
    now = scale.relative(denoised).masked_fill(left_out, 0.0).clamp(-BOUND, BOUND)
    specimen = ~left_out[0, 0].numpy()
    there, removed = (gaussian_filter(each[0, 0].numpy(), _SMOOTH)[specimen] for each in (was, was - now))
    if min(there.std(), removed.std()) <= 1e-6:
        return 0.0
    return float(np.corrcoef(there, removed)[0, 1])


def tell_removed(share: float, where: str = "--preview") -> str:
    """What `structure_removed` found, in words; `where` what was taken away can be seen."""
    told = f"what was taken away correlates {share:.2f} with what was there"
    if share > SUSPICIOUS:
        told += f", and above {SUSPICIOUS:g} structure went with the noise: look at it ({where}), try the other "
        told += "contrast, or another model"
    return told
