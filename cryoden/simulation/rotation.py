"""Random orientations."""

import torch
from torch import Tensor


def random_rotation(generator: torch.Generator) -> Tensor:
    """Draw a rotation, uniform on SO(3), as a normalised quaternion of four normal numbers (Shoemake 1992).

    Args:
        generator: on the CPU; where the randomness comes from.

    Returns:
        (3, 3) float64, acts on xyz column vectors: x' = R x.
    """
    quaternion = torch.randn(4, generator=generator, dtype=torch.float64)
    w, x, y, z = (quaternion / quaternion.norm()).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
