"""What holds for every network: a record that builds it again, how far it looks, and a linear end."""

import json
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.networks import (
    CompactUnet,
    DenoisingNetwork,
    OriginalUnet,
    SimpleAutoEncoder,
    Unet,
    UpsampleUnet,
)
from cryoden.networks.base import build_network, network_record


class Filter(DenoisingNetwork):
    """A user's network: one convolution, and no word on `multiple` and `nonnegative`."""

    def __init__(self, widths: tuple[int, ...] = (3, 5), *, bias: bool = True, slope: float | None = None) -> None:
        super().__init__()
        self.widths = widths
        self.bias = bias
        self.slope = slope
        self.layer = nn.Conv3d(1, 1, widths[0], padding=widths[0] // 2, bias=bias)

    def forward(self, volumes: Tensor) -> Tensor:
        self.check_box(volumes)
        return self.layer(volumes)


class Identity(DenoisingNetwork):
    """A user's network without a constructor."""

    def forward(self, volumes: Tensor) -> Tensor:
        return volumes


class Forgetful(DenoisingNetwork):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, width, 1)

    def forward(self, volumes: Tensor) -> Tensor:
        return self.layer(volumes)


class Activated(Identity):
    def __init__(self, activation: nn.Module | list[nn.Module]) -> None:
        super().__init__()
        self.activation = activation


class Anything(Identity):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.widths = widths


class Optional(Identity):
    def __init__(self, **options: int) -> None:
        super().__init__()
        self.options = options


@pytest.mark.parametrize(
    "network",
    [
        Filter(),
        Filter((5, 3), bias=False, slope=0.1),
        Filter((np.int64(5),), slope=np.float64(0.1)),
        Identity(),
        CompactUnet(3, levels=1),
    ],
)
def test_a_record_survives_a_file_and_builds_the_network_again(network: DenoisingNetwork) -> None:
    record = json.loads(json.dumps(network_record(network)))
    assert all(type(each) in (int, float, bool, list, type(None)) for each in record["init_args"].values())
    again = build_network(record)
    again.load_state_dict(network.state_dict())
    volumes = torch.randn(1, 1, 6, 8, 10)
    assert network_record(again) == record
    assert torch.equal(network.eval()(volumes), again.eval()(volumes))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Forgetful(), "'width' is not kept as an attribute; write self.width = width in __init__"),
        (Activated(nn.ReLU()), "'activation' must be int, float, str, bool, None or a list of these, .* got a ReLU"),
        (Activated([nn.ReLU()]), "'activation' must be int, float, str, bool, None or a list of these, .* got a list"),
        (Filter(slope=5000.0), r"'slope': got 5000\.0; a checkpoint is read with numbers from -4096 to 4096"),
        (Filter(slope=float("inf")), "'slope': got inf; a checkpoint is read with numbers"),
        (Filter((3,) * 5000), r"'widths': got \[3, 3, .*; a checkpoint is read with .* lists of at most as many"),
        (Anything(1, 2), r"'widths' is written \*widths: int; name each argument"),
        (Optional(a=1), r"'options' is written \*\*options: int; name each argument"),
    ],
    ids=["forgotten", "module", "modules", "large", "infinite", "long", "args", "kwargs"],
)
def test_a_network_that_could_not_be_built_again_is_refused_in_one_line(
    network: DenoisingNetwork, message: str
) -> None:
    with pytest.raises(CryodenError, match=f"^{type(network).__name__}: constructor argument {message}") as refusal:
        network_record(network)
    assert "\n" not in str(refusal.value)


def test_a_network_that_says_nothing_takes_any_box_and_may_answer_below_zero() -> None:
    network = Filter()
    assert not network.nonnegative
    assert network.reach is None
    network.end_linearly()
    assert network(torch.randn(1, 1, 5, 7, 9)).min() < 0


@pytest.mark.parametrize("kind", [SimpleAutoEncoder, UpsampleUnet])
def test_a_record_of_ours_outlives_the_file_that_the_network_was_in(kind: type[DenoisingNetwork]) -> None:
    record = network_record(kind(channels=2))
    record["class_path"] = f"cryoden.networks.autoencoder.{kind.__name__}"
    assert type(build_network(record)) is kind


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("no.such.Network", "not one of cryoden's, .*; import no.such first, or name it: --module no.such"),
        ("this.s", "not one of cryoden's"),  # which would print, if it were imported
        ("cryoden.networks.unet.Unett", "not one of cryoden's"),
        ("Unet", "not one of cryoden's"),
        ("torch.nn.Identity", "not a subclass of cryoden's DenoisingNetwork"),
    ],
)
def test_a_record_of_another_s_network_is_refused(class_path: str, message: str) -> None:
    with pytest.raises(CryodenError, match=f"network {class_path}: {message}"):
        build_network({"class_path": class_path, "init_args": {}})
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        [],
        {"channels": 10**6},
        {"levels": 1e9},
        {"channels": -1},
        {"channels": {}},
        {"norm": "x"},
        {"a": 1},
        {1: 1},
    ],
    ids=str,
)
def test_arguments_that_a_network_does_not_take_are_refused_in_one_line(arguments: object) -> None:
    with pytest.raises(CryodenError, match=r"network cryoden\.networks\.CompactUnet: ") as refusal:
        build_network({"class_path": "cryoden.networks.CompactUnet", "init_args": arguments})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", [UpsampleUnet, Unet, OriginalUnet])
def test_a_linear_end_is_that_of_a_network_built_so(kind: type[DenoisingNetwork]) -> None:
    torch.manual_seed(0)
    network = kind(channels=2)
    torch.manual_seed(0)
    built = kind(channels=2, nonnegative=False)
    network.end_linearly()
    volumes = torch.randn(1, 1, 32, 32, 32)
    assert network_record(network) == network_record(built)
    assert network_record(network)["init_args"]["nonnegative"] is False
    assert torch.equal(network(volumes), built(volumes))
    assert network(volumes).min() < 0


@pytest.mark.parametrize(
    "network", [UpsampleUnet(2, nonnegative=False), Unet(2, nonnegative=False), CompactUnet(2), Filter()]
)
def test_a_network_that_ends_linearly_stays_as_it_is(network: DenoisingNetwork) -> None:
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.end_linearly()
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_sigmoid_cannot_be_dropped() -> None:
    message = "SimpleAutoEncoder never answers below 0, .* take a network that has one, such as UpsampleUnet"
    with pytest.raises(CryodenError, match=message):
        SimpleAutoEncoder(1).end_linearly()


def where_every_path_counts(network: DenoisingNetwork) -> DenoisingNetwork:
    """The network in float64 with positive weights of gain 1: no change is cut off by a ReLU, or lost in rounding."""
    for parameter in network.double().eval().parameters():
        if parameter.ndim > 1:
            nn.init.constant_(parameter, 1 / parameter[0].numel())
        else:
            parameter.data.abs_()
    return network


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda: SimpleAutoEncoder(1),
        lambda: Unet(1),
        lambda: UpsampleUnet(1),
        lambda: OriginalUnet(1),
        *(partial(CompactUnet, 1, levels) for levels in (1, 2, 3)),
        lambda: CompactUnet(1, norm="batch"),
    ],
    ids=["SimpleAutoEncoder", "Unet", "UpsampleUnet", "OriginalUnet", "Compact1", "Compact2", "Compact3", "batch"],
)
def test_a_voxel_is_felt_within_reach_and_no_further(make: Callable[[], DenoisingNetwork], axis: int) -> None:
    network = where_every_path_counts(make())
    assert network.reach is not None
    multiple = network.multiple
    margin = -(-network.reach // multiple) * multiple
    shape = [multiple] * 3
    shape[axis] = 2 * margin + multiple
    before = torch.rand(1, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    after = before.repeat(multiple, 1, 1, 1, 1)
    changed = range(margin, margin + multiple)
    for volume, plane in zip(after, changed, strict=True):
        volume.select(axis + 1, plane).add_(1000)
    with torch.no_grad():
        felt = (network(after) - network(before)).transpose(2, axis + 2).abs().sum((1, 3, 4)) > 0
    distances = [plane - felt[number].nonzero().flatten() for number, plane in enumerate(changed)]
    assert max(int(each.abs().max()) for each in distances) == network.reach


@pytest.mark.parametrize("kind", [SimpleAutoEncoder, Unet, UpsampleUnet, OriginalUnet, CompactUnet])
def test_a_compiler_takes_a_network_as_one_graph_with_the_same_answers_and_gradients(
    kind: type[DenoisingNetwork],
) -> None:
    torch.manual_seed(0)
    network = kind(channels=1).double()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    volumes, upstream = torch.randn(2, 2, 1, 32, 32, 32, dtype=torch.float64)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    weights = list(network.parameters())
    for ours, plain in zip(
        [answer := compiled(volumes), *torch.autograd.grad(answer, weights, upstream)],
        [answer := network(volumes), *torch.autograd.grad(answer, weights, upstream)],
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10 * plain.abs().max().item())


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("kind", [SimpleAutoEncoder, Unet, UpsampleUnet, OriginalUnet, CompactUnet])
def test_what_looks_at_the_whole_volume_has_no_reach(kind: type[DenoisingNetwork], norm: str) -> None:
    assert kind(channels=1, norm=norm).reach is None
