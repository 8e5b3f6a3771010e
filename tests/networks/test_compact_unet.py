"""A network for real tomograms is local, and starts so that it learns without a norm."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.networks import CompactUnet
from cryoden.networks.base import build_network, network_record
from cryoden.networks.blocks import NormName


def awake(network: CompactUnet) -> CompactUnet:
    """As after a training: no parameter is what it was, the last layer's zeros least of all, and norms are at rest."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm3d):
            nn.init.uniform_(norm.running_mean, 0.0, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.0)
    return network.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def answered(network: CompactUnet, volumes: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        answer: Tensor = network(volumes).float()
    return answer


@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize(("levels", "refinements"), [(1, 0), (2, 0), (3, 0), (1, 1), (3, 1)])
def test_a_crop_has_the_answer_of_the_whole_where_all_that_is_in_reach_lies_inside(
    levels: int, refinements: int, norm: NormName | None, axis: int
) -> None:
    network = awake(CompactUnet(6, levels, norm, refinements))
    assert network.reach is not None
    multiple, margin = network.multiple, 6 * network.multiple
    shape = [2 * multiple] * 3
    shape[axis - 2] = 4 * margin
    volumes = noise(*shape)
    start, size = margin // 2, 2 * margin + 3 * multiple
    inside = size - 2 * network.reach
    whole = answered(network, volumes).narrow(axis, start + network.reach, inside)
    crop = answered(network, volumes.narrow(axis, start, size)).narrow(axis, network.reach, inside)
    assert whole.std() > 0.01
    torch.testing.assert_close(crop, whole, rtol=1e-5, atol=1e-5)


def surroundings(kind: str) -> Tensor:
    """The same 32 voxels along z, in the middle of 496, between ten receptive fields of something else."""
    volumes = noise(496, 4, 4)
    outside = torch.ones(496, dtype=torch.bool)
    outside[72:-72] = False
    if kind == "empty":
        volumes[:, :, outside] = 0.0
    elif kind == "crowd":
        volumes[:, :, outside] += 20 * (noise(496, 4, 4)[:, :, outside] > 1)
    elif kind == "bead":
        volumes[:, :, 20:26] = 300.0
    return volumes


@pytest.mark.parametrize("kind", ["empty", "crowd", "bead"])
@pytest.mark.parametrize(("norm", "local"), [(None, True), ("batch", True), ("group", False), ("instance", False)])
def test_what_lies_ten_receptive_fields_away_changes_nothing_without_a_norm_over_the_volume(
    norm: NormName | None, local: bool, kind: str
) -> None:
    network = awake(CompactUnet(6, levels=1, norm=norm))
    middle = slice(232, 264)
    among_noise = answered(network, surroundings("noise"))[:, :, middle]
    among_others = answered(network, surroundings(kind))[:, :, middle]
    change = (among_others - among_noise).norm() / among_noise.norm()
    assert change < 1e-6 if local else change > 0.01


def test_a_crop_has_the_answer_of_the_whole_in_bfloat16_too() -> None:
    network = awake(CompactUnet(8, levels=2))
    volumes = noise(96, 16, 16)
    whole = answered(network, volumes, torch.bfloat16)[:, :, 39:57]
    crop = answered(network, volumes[:, :, 20:76], torch.bfloat16)[:, :, 19:37]
    assert (crop - whole).norm() < 0.01 * whole.norm()


def test_features_keep_their_scale_through_the_depth() -> None:
    """Mean squares, over weights that are drawn anew, where a broad structure fills all that a feature sees."""
    squares: list[list[float]] = []
    for seed in range(12):
        torch.manual_seed(seed)
        network = CompactUnet()
        squares.append([])
        for layer in network.modules():
            if isinstance(layer, nn.LeakyReLU):
                layer.register_forward_hook(lambda _, inputs, features: squares[-1].append(mean_square(features)))
        with torch.no_grad():
            network(torch.ones(1, 1, 64, 64, 64))
    means = torch.tensor(squares).mean(dim=0) / 4**2  # the first convolution amplifies
    assert len(means) == 10
    assert means.min() > 0.5
    assert means.max() < 2


def mean_square(features: Tensor) -> float:
    """Of the middle half along each axis, far from what zeros beyond the border take away."""
    for axis in (2, 3, 4):
        features = features.narrow(axis, features.shape[axis] // 4, features.shape[axis] // 2)
    return features.square().mean().item()


def test_no_weight_has_next_to_no_share_in_the_answer_at_the_start() -> None:
    """By how much the answer changes where a weight changes by a given share of itself; torch's own start has 2,000."""
    shares = []
    for seed in range(4):
        torch.manual_seed(seed)
        network = CompactUnet()
        nn.init.normal_(network.head.weight, std=network.channels**-0.5)
        volumes, upstream = F.interpolate(torch.randn(2, 1, 8, 8, 8), scale_factor=4).split(1)
        network(volumes).backward(upstream)
        weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
        shares.append([float(weight.grad.norm() * weight.norm()) for weight in weights])
    means = torch.tensor(shares).mean(dim=0)
    assert means.max() < 50 * means.min()


def test_it_has_fewer_parameters_without_a_norm() -> None:
    assert sum(p.numel() for p in CompactUnet().parameters()) == 581_361


def test_weights_of_a_network_with_group_norm_are_still_read() -> None:
    """What checkpoints of it hold, which say so themselves."""
    record = {
        "class_path": "cryoden.networks.compact_unet.CompactUnet",
        "init_args": {"channels": 2, "levels": 1, "norm": "group"},
    }
    network = build_network(record)
    block = ("0.weight", "1.weight", "1.bias")
    blocks = ("encoder.0", "encoder.1.0", "encoder.1.1", "decoder.0")
    named = [f"{name}.{part}" for name in blocks for part in block]
    others = ["narrow.0.weight", "narrow.0.bias", "head.weight", "head.bias"]
    assert sorted(network.state_dict()) == sorted([*named, *others])
    record["init_args"]["refinements"] = 0  # which they do not say
    assert network_record(network) == record


@pytest.mark.parametrize("levels", [0, -1, 9, 30, 1.5])
def test_levels_are_1_to_8(levels: float) -> None:
    with pytest.raises(CryodenError, match=rf"^levels: got {levels}; allowed is a whole number from 1 to 8$"):
        CompactUnet(channels=1, levels=levels)


def test_fewer_refinements_than_none_are_refused() -> None:
    with pytest.raises(CryodenError, match="refinements: got -1; allowed is a whole number from 0 up"):
        CompactUnet(refinements=-1)
