"""Random orientations."""

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor


def random_rotation(generator: torch.Generator) -> Tensor:
    """Draw a rotation, uniform on SO(3), as a quaternion of four normal numbers (Shoemake 1992).

    Args:
        generator: on the CPU; where the randomness comes from.

    Returns:
        (3, 3) float64, acts on xyz column vectors: x' = R x.
    """
    w, x, y, z = torch.randn(4, generator=generator, dtype=torch.float64).tolist()
    return torch.from_numpy(Rotation.from_quat([x, y, z, w]).as_matrix())
