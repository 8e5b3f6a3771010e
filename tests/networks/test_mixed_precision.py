"""bfloat16 on a CPU: gradients of small boxes too are those of float32, but for rounding."""

import pytest
import torch
from torch import nn

from cryoden.networks.blocks import Convolution, Doubling, MergeBlock, UpsampleBlock
from cryoden.networks.compact_unet import CompactUnet
from cryoden.networks.discriminators import DraganDiscriminator, Pix2PixDiscriminator, SimpleDiscriminator
from cryoden.networks.original_unet import OriginalUnet
from cryoden.networks.simple_autoencoder import SimpleAutoEncoder
from cryoden.networks.unet import Unet
from cryoden.networks.upsample_unet import UpsampleUnet


def gradients(network: nn.Module, *inputs: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Those of the weights in float32, and under autocast to bfloat16."""
    found = []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            answer = network(*inputs)
        answer.float().square().mean().backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.ndim > 1})
    return found


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize(
    "layer",
    [
        Convolution(8, 8, 5, 2, padding=2),
        Convolution(8, 8, 4, 2, padding=1),
        Convolution(8, 8, 4, 1, padding=1),
        Convolution(8, 8, 3, 1, padding=1),
        Doubling(8, 8),
    ],
    ids=["5/2", "4/2", "4/1", "3/1", "transposed"],
)
def test_a_tiny_volume_has_the_right_gradient(layer: nn.Module, size: int) -> None:
    torch.manual_seed(0)
    volumes = torch.randn(2, 8, size, size, size).contiguous(memory_format=torch.channels_last_3d)
    ((expected,), (found,)) = (list(each.values()) for each in gradients(layer, volumes))
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("kind", [MergeBlock, UpsampleBlock])
def test_a_tiny_split_convolution_has_the_right_gradient(
    kind: type[MergeBlock | UpsampleBlock], size: int, batch: int
) -> None:
    torch.manual_seed(0)
    block = kind(16, 16, 16)
    (block if kind is MergeBlock else block.block)[2] = nn.Identity()  # what is normalised has a constant mean square
    decoded = torch.randn(batch, 16, size, size, size)
    skip = torch.randn(batch, 16, *[size * (2 if kind is UpsampleBlock else 1)] * 3)
    ((expected,), (found,)) = (list(each.values()) for each in gradients(block, decoded, skip))
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    "make",
    [
        lambda box: SimpleAutoEncoder(4, "group"),
        lambda box: OriginalUnet(4, "group"),
        lambda box: Unet(8, "group"),
        lambda box: UpsampleUnet(8, "group"),
        lambda box: CompactUnet(8),
        lambda box: SimpleDiscriminator(6, box, "group"),
        lambda box: Pix2PixDiscriminator(8),
        lambda box: DraganDiscriminator(8, box),
    ],
    ids=["SimpleAutoEncoder", "OriginalUnet", "Unet", "UpsampleUnet", "CompactUnet", "Simple", "Pix2Pix", "Dragan"],
)
def test_gradients_of_weights_are_those_of_float32(make) -> None:
    torch.manual_seed(0)
    network = make(32)
    nn.init.normal_([p for p in network.parameters() if p.ndim > 1][-1], std=0.1)  # CompactUnet's last layer is zero
    inputs = torch.randn(2 if hasattr(network, "judgement") else 1, 2, 1, 32, 32, 32)
    in_float32, in_bfloat16 = gradients(network, *inputs)
    for name, expected in in_float32.items():
        # rounding to 8 bits through a whole network is up to a third of a gradient; garbage is all of it, or infinite
        assert (in_bfloat16[name] - expected).norm() < 0.5 * expected.norm() + 1e-6, name
