"""Networks that tell clean volumes from denoised ones."""

from itertools import pairwise

from torch import Tensor, nn

from cryoden.errors import CryodenError, check_whole
from cryoden.networks.base import LARGEST, DiscriminatorNetwork
from cryoden.networks.blocks import Convolution, NormName, make_norm, make_vector_norm


class SimpleDiscriminator(DiscriminatorNetwork):
    """The thesis's conditional discriminator: four strided convolutions, four linear layers, one logit.

    3,104,817 parameters with 48 channels and a box of 64.

    Args:
        channels: Channels of the first three convolutions; the fourth, and the linear layers after it, are wider or
            narrower in proportion.
        box: Voxels along each axis, a multiple of 16: the first linear layer is made for it.
        norm: "batch" (the thesis's), "instance" or "group"; in these two, linear layers get a layer norm.

    Raises:
        CryodenError: An argument is out of its range.
    """

    box: int

    def __init__(self, channels: int = 48, box: int = 64, norm: NormName = "batch") -> None:
        super().__init__()
        check_whole(1, LARGEST, channels=channels)
        _check_box(self, box)
        self.channels = channels
        self.box = box
        self.norm = norm
        last = 4 * channels // 3
        widths = [2, channels, channels, channels, last]
        features = [last * (box // 16) ** 3, 8 * last, last, 8]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Convolution(a, b, 5, 2, padding=2), nn.LeakyReLU(0.2), make_norm(norm, b))
                for a, b in pairwise(widths)
            )
        )
        self.judgement = nn.Sequential(
            nn.Flatten(),
            *(
                nn.Sequential(nn.Linear(a, b), nn.LeakyReLU(0.2), make_vector_norm(norm, b))
                for a, b in pairwise(features)
            ),
            nn.Linear(features[-1], 1),
        )

    def features(self, degraded: Tensor, candidate: Tensor) -> list[Tensor]:
        """Features (B, ...) after each convolution, and raw logits (B, 1)."""
        return _through(self.stages, self.judgement, self.pair(degraded, candidate))


class Pix2PixDiscriminator(DiscriminatorNetwork):
    """A patch discriminator: each logit judges a patch of 94 voxels along each axis, or what the box has of it.

    Isola et al. 2017 (arXiv:1611.07004), in 3D and without normalisation, which suits a critic with a gradient penalty.
    11,051,968 parameters with 64 channels, whatever the box.

    Args:
        channels: Channels of the first convolution; they double at each of the three after it.

    Raises:
        CryodenError: An argument is out of its range.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        check_whole(1, LARGEST, channels=channels)
        self.channels = channels
        widths = [2, *(channels * 2**level for level in range(4))]
        self.stages = nn.Sequential(
            *(nn.Sequential(Convolution(a, b, 4, 2, padding=1), nn.LeakyReLU(0.2)) for a, b in pairwise(widths))
        )
        # One voxel of zeros before each axis, and only there, makes one logit for each voxel that the stages leave.
        self.judgement = nn.Sequential(
            nn.ConstantPad3d((1, 0, 1, 0, 1, 0), 0.0), Convolution(widths[-1], 1, 4, padding=1, bias=False)
        )

    def features(self, degraded: Tensor, candidate: Tensor) -> list[Tensor]:
        """Features (B, ...) after each convolution, and raw logits (B, 1, D / 16, H / 16, W / 16)."""
        return _through(self.stages, self.judgement, self.pair(degraded, candidate))


class DraganDiscriminator(DiscriminatorNetwork):
    """The discriminator of DRAGAN in 3D: four strided convolutions with doubling channels, and one linear layer.

    Kodali et al. 2017, "On Convergence and Stability of GANs" (arXiv:1705.07215), who take the DCGAN's (Radford et al.
    2016, arXiv:1511.06434), but without its batch normalisation: the gradient at one volume must not depend on the
    others where there is a gradient penalty. Instance normalisation is no way out: in a nearly empty volume it divides
    by next to nothing, and the slope that is to be held at 1 starts above 20.

    Args:
        channels: Channels of the first convolution; they double at each of the three after it.
        box: Voxels along each axis, a multiple of 16: the linear layer is made for it.

    Raises:
        CryodenError: An argument is out of its range.
    """

    box: int

    def __init__(self, channels: int = 64, box: int = 64) -> None:
        super().__init__()
        check_whole(1, LARGEST, channels=channels)
        _check_box(self, box)
        self.channels = channels
        self.box = box
        widths = [2, *(channels * 2**level for level in range(4))]
        self.stages = nn.Sequential(
            *(nn.Sequential(Convolution(a, b, 5, 2, padding=2), nn.LeakyReLU(0.2)) for a, b in pairwise(widths))
        )
        self.judgement = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * (box // 16) ** 3, 1))

    def features(self, degraded: Tensor, candidate: Tensor) -> list[Tensor]:
        """Features (B, ...) after each convolution, and raw logits (B, 1)."""
        return _through(self.stages, self.judgement, self.pair(degraded, candidate))


def _through(stages: nn.Sequential, judgement: nn.Sequential, pair: Tensor) -> list[Tensor]:
    features = [pair]
    for stage in stages:
        features.append(stage(features[-1]))
    return [*features[1:], judgement(features[-1])]


def _check_box(network: DiscriminatorNetwork, box: int) -> None:
    if box <= 0 or box % 16:
        raise CryodenError(f"{type(network).__name__}'s box must be a multiple of 16 voxels, got {box}")
