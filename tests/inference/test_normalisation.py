from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from cryoden import denoise
from cryoden.denoiser import Denoiser
from cryoden.inference.normalisation import has_group_norm, normalised_alike
from cryoden.networks.compact_unet import CompactUnet


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def awake(levels: int) -> CompactUnet:
    """With an output that is not zero, and norms that do something."""
    torch.manual_seed(0)
    network = CompactUnet(channels=4, levels=levels, norm="group")
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_one_norm_uses_the_statistics_of_all_it_was_shown(groups, affine):
    norm = nn.GroupNorm(groups, 8, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    tiles = noise(3, 8, 4, 5, 6) * torch.tensor([1.0, 2.0, 30.0]).view(3, 1, 1, 1, 1) + 4
    joined = torch.cat(list(tiles), dim=-1)[None]  # one volume made of the three tiles
    expected = norm(joined).chunk(3, dim=-1)
    with normalised_alike(norm, lambda: [norm(tile[None]) for tile in tiles]):
        for tile, each in zip(tiles, expected, strict=True):
            torch.testing.assert_close(norm(tile[None]), each, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm(joined), torch.cat(expected, dim=-1))


@torch.no_grad()
def test_a_single_tile_is_normalised_as_ever_and_the_network_is_left_as_it_was():
    network, tile = awake(levels=3), noise(1, 1, 16, 16, 16)
    expected = network(tile)
    with normalised_alike(network, lambda: network(tile)):
        torch.testing.assert_close(network(tile), expected, atol=1e-4, rtol=1e-4)
        other = network(noise(1, 1, 16, 16, 16, seed=1) * 3)
    torch.testing.assert_close(network(tile), expected, atol=0, rtol=0)
    assert (other - network(noise(1, 1, 16, 16, 16, seed=1) * 3)).abs().max() > 0.1
    assert not any("forward" in vars(module) for module in network.modules())


def test_norms_come_back_after_an_error():
    network = awake(levels=1)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), normalised_alike(network, fail):
        pass
    assert not any("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize(("norm", "told"), [("group", True), ("instance", True), ("batch", False)])
def test_networks_whose_norms_depend_on_the_volume_are_known(norm, told):
    assert has_group_norm(CompactUnet(channels=4, norm=norm)) is told


def seam(volume: np.ndarray, model: Denoiser) -> float:
    """How much the output changes with the place of the tiles' grid: over the output's own deviation, rms."""
    settings = {"contrast": "bright", "precision": "float32", "tile": 48, "overlap": 24, "device": "cpu"}
    first = denoise(volume, model, **settings)
    shifted = denoise(volume[:, :, 8:], model, **settings)  # by what the network halves: its own grid stays
    inner = np.s_[:, :, 24:-24]
    return float((first[:, :, 8:] - shifted)[inner].std() / first.std())


def test_seams_of_a_real_network_are_small(monkeypatch):
    """A tomogram with protein on one side and empty ice on the other, where norms of single tiles differ most."""
    model = Denoiser(awake(levels=1))
    volume = noise(24, 48, 168).numpy()  # 160 have tiles of the same size, 4 voxels further
    volume[8:16, 16:32, 20:60] += 6
    shared = seam(volume, model)
    assert shared < 0.05
    alone = nullcontext  # each tile normalised on its own, as a network does
    monkeypatch.setattr("cryoden.inference.engine.normalised_alike", lambda *_: alone())
    assert seam(volume, model) > 3 * shared
