"""The networks of the thesis's later systems: the original U-Net and the critics."""

import pytest
import torch
from torch import nn

from cryoden.errors import CryodenError
from cryoden.networks.discriminators import DraganDiscriminator, Pix2PixDiscriminator, SimpleDiscriminator
from cryoden.networks.original_unet import OriginalUnet
from cryoden.networks.unet import Unet
from cryoden.networks.upsample_unet import UpsampleUnet


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: Pix2PixDiscriminator(), 11_051_968),
        (lambda: OriginalUnet(16), 5_647_857),
        (lambda: SimpleDiscriminator(48), 3_104_817),
    ],
)
def test_parameter_counts(network, expected: int) -> None:
    assert parameters(network()) == expected


def test_a_wider_simple_discriminator_is_wider_throughout() -> None:
    thin, wide = SimpleDiscriminator(24, box=32), SimpleDiscriminator(48, box=32)
    for a, b in zip(thin.parameters(), wide.parameters(), strict=True):
        assert a.numel() < b.numel() or a.shape[0] in (1, 8)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_original_unet_keeps_the_box_and_starts_near_zero(norm: str, nonnegative: bool) -> None:
    torch.manual_seed(0)
    network = OriginalUnet(4, norm=norm, nonnegative=nonnegative)
    volumes = torch.randn(2, 1, 32, 16, 48)
    denoised = network(volumes)
    assert denoised.shape == volumes.shape
    assert denoised.abs().mean() < 0.3
    assert (denoised.min() >= 0) == nonnegative
    with pytest.raises(CryodenError, match="multiples of 16 voxels"):
        network(torch.zeros(1, 1, 24, 16, 16))


@pytest.mark.parametrize("kind", [Unet, UpsampleUnet])
def test_a_linear_head_answers_below_zero(kind) -> None:
    torch.manual_seed(0)
    network = kind(4, nonnegative=False)
    assert network(torch.randn(1, 1, 32, 32, 32)).min() < 0
    assert parameters(network) == parameters(kind(4))


def test_pix2pix_gives_a_map_of_patches_of_94_voxels() -> None:
    critic = Pix2PixDiscriminator(2)
    degraded = torch.randn(1, 1, 64, 64, 64)
    candidate = torch.randn(1, 1, 64, 64, 64, requires_grad=True)
    scores = critic(degraded, candidate)
    assert scores.shape == (1, 1, 4, 4, 4)
    assert critic(degraded[..., :32], candidate[..., :32]).shape == (1, 1, 4, 4, 2)
    (gradient,) = torch.autograd.grad(scores[0, 0, 0, 0, 0], candidate)
    reach = gradient[0, 0].abs().sum((1, 2)).nonzero().flatten()
    # The first patch reaches from -47 to 46: 94 voxels, of which the box has those from 0 on.
    assert (reach.min().item(), reach.max().item()) == (0, 46)


@pytest.mark.parametrize(
    "critic", [SimpleDiscriminator(6, 32, "group"), Pix2PixDiscriminator(4), DraganDiscriminator(4, 32)]
)
def test_features_end_in_the_logits_and_see_both_volumes(critic) -> None:
    torch.manual_seed(0)
    degraded, candidate = torch.randn(2, 2, 1, 32, 32, 32)
    *features, logits = critic.features(degraded, candidate)
    assert torch.equal(logits, critic(degraded, candidate))
    assert [feature.shape[-1] for feature in features] == [16, 8, 4, 2]
    assert not torch.allclose(logits, critic(degraded.roll(5, 3), candidate))
    assert not torch.allclose(logits, critic(degraded, candidate.roll(5, 3)))
    # each volume is judged on its own
    torch.testing.assert_close(critic(degraded[:1], candidate[:1]), logits[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(CryodenError, match="candidate volumes of shape"):
        critic(degraded, candidate[..., :24])


@pytest.mark.parametrize("kind", [SimpleDiscriminator, DraganDiscriminator])
def test_boxes_that_cannot_be_halved_four_times_are_refused(kind) -> None:
    with pytest.raises(CryodenError, match=rf"{kind.__name__}'s box must be a multiple of 16 voxels, got 40"):
        kind(box=40)
