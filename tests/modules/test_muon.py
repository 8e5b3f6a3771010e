"""Muon: steps that turn all directions alike, as torch's own makes them for matrices."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from cryoden.modules.muon import Muon, orthogonal


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("shape", [(4, 4), (3, 40), (40, 3), (16, 432)])
def test_a_turned_matrix_keeps_its_directions_and_loses_their_sizes(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.t() @ orthogonal(matrix) @ right.t()
    sizes = turned.diagonal()
    assert ((sizes > 0.5) & (sizes < 1.3)).all()
    torch.testing.assert_close(turned, torch.diag(sizes), atol=1e-4, rtol=0.0)


def test_nothing_turned_is_nothing() -> None:
    assert not orthogonal(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("size", [1e-36, 1e-25, 1e25])
def test_the_size_of_a_gradient_does_not_matter(size: float) -> None:
    matrix = torch.randn(6, 20)
    torch.testing.assert_close(orthogonal(size * matrix), orthogonal(matrix), atol=1e-3, rtol=0.0)


def test_a_gradient_that_is_no_number_after_scaling_is_skipped_by_all_parameters() -> None:
    network = _network()
    before = copy.deepcopy(network)
    optimizer = Muon(network.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(_loss(network, torch.full((1, 1, 8, 8, 8), torch.inf))).backward()
    scaler.step(optimizer)
    scaler.update()
    for parameter, kept in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, kept)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_a_matrix_takes_the_steps_of_torchs_own(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    one = Muon([ours], lr=0.01)
    other = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # torch turns in bfloat16


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Conv3d(4, 6, 3), nn.ReLU(), nn.Conv3d(6, 1, 1))


def _loss(network: nn.Module, volumes: Tensor) -> Tensor:
    loss: Tensor = (network(volumes) - 1).square().mean()
    return loss


def test_what_is_no_matrix_takes_the_steps_of_adamw() -> None:
    network, volumes = _network(), torch.randn(2, 1, 8, 8, 8)
    known = copy.deepcopy(network)
    for each, made in ((network, Muon), (known, torch.optim.AdamW)):
        _loss(each, volumes).backward()
        made(each.parameters(), lr=0.01).step()
    same = {name: torch.equal(value, known.get_parameter(name)) for name, value in network.named_parameters()}
    assert same == {name: name != "2.weight" for name in same}
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_it_goes_on_as_it_would_have_from_what_a_checkpoint_keeps() -> None:
    network = _network()
    batches = torch.randn(4, 2, 1, 8, 8, 8)
    optimizer = Muon(network.parameters(), lr=0.01)

    def closure(network: nn.Module, optimizer: Muon, volumes: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = _loss(network, volumes)
        loss.backward()
        return loss

    losses = [
        float(optimizer.step(lambda volumes=volumes: closure(network, optimizer, volumes)))  # type: ignore[misc, arg-type]
        for volumes in batches[:2]
    ]
    assert losses[1] < losses[0]
    other = copy.deepcopy(network)
    resumed = Muon(other.parameters(), lr=0.01)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for volumes in batches[2:]:
        for each, its in ((network, optimizer), (other, resumed)):
            closure(each, its, volumes)
            its.step()
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
