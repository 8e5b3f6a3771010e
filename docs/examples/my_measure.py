"""A measure of one's own: is what comes out as heavy as what went in?"""

from torch import Tensor

from cryoden.metrics import Pair, as_measure


@as_measure("mass", 0)  # better: +1 more, -1 less, 0 neither
def mass(pair: Pair) -> Tensor:
    """Sum of the density over that of the clean volume; 1 lost and added nothing."""
    return pair.denoised.sum((1, 2, 3, 4)) / pair.clean.sum((1, 2, 3, 4))
