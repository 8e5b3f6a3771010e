"""Model files of any kind, damaged or anyone's: one line each, and nothing of them is run, imported or believed."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from cryoden.checkpoint import export_weights, load_denoiser
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.networks import CompactUnet, UpsampleUnet


@pytest.fixture(scope="module")
def sound() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Record and weights of a small network."""
    denoiser = Denoiser(CompactUnet(channels=2, levels=1), voxel_size=10.0, system="CompactUnetAE")
    return denoiser.record(), denoiser.generator.state_dict()


def write(path: Path, record: Any, weights: dict[str, torch.Tensor], *, undigested: bool = True) -> Path:
    if undigested and isinstance(record, dict):
        record = {name: value for name, value in record.items() if name != "digest"}
    text = record if isinstance(record, str) else json.dumps(record)
    path.write_bytes(save(weights, metadata={"cryoden": text}))
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(CryodenError, match=message) as refusal:
        load_denoiser(path)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("model ")


def test_a_small_file_that_describes_a_huge_network_takes_no_memory(tmp_path, sound, monkeypatch):
    built = []
    begin = CompactUnet.__init__

    def watched(self: CompactUnet, **arguments: int) -> None:
        begin(self, **arguments)
        built.append(next(self.parameters()).device.type)

    monkeypatch.setattr(CompactUnet, "__init__", watched)
    network = {"class_path": "cryoden.networks.CompactUnet", "init_args": {"channels": 4000, "levels": 4}}
    refused(
        write(tmp_path / "a.safetensors", {**sound[0], "network": network}, {}),
        r"encoder\.0\.0\.weight is missing in the file and of shape \(4000, 1, 3, 3, 3\)",
    )
    assert built == ["meta"]


def test_weights_that_are_one_number_spread_out_are_no_weights(tmp_path, sound):
    """A tensor may be larger than what is stored of it, which a checkpoint can hold and no training writes."""
    record = {**sound[0], "digest": None}
    record["network"] = {"class_path": "cryoden.networks.CompactUnet", "init_args": {"channels": 64, "levels": 1}}
    state = CompactUnet(channels=64, levels=1).state_dict()
    spread = {f"denoiser.generator.{name}": torch.zeros(1).expand(value.shape) for name, value in state.items()}
    torch.save({"cryoden": record, "state_dict": spread}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "its weights are larger than the file")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 3),
        ("system", "a\nb"),
        ("network", "CompactUnet"),
        ("network", {}),
        ("standardize", "yes"),
        ("residual", None),
        ("scale", ["median"]),
        *(("voxel_size", value) for value in (float("nan"), float("inf"), 0, -1.0, "10", True, 10**40)),
        ("digest", 3),
    ],
    ids=str,
)
def test_each_field_is_checked(tmp_path, sound, name, value):
    path = write(tmp_path / "a.safetensors", {**sound[0], name: value}, sound[1], undigested=name != "digest")
    refused(path, "network" if name == "network" else f"{name} is .* in its description; allowed is")


@pytest.mark.parametrize("name", ["version", "system", "network", "standardize", "residual"])
def test_no_field_may_be_missing(tmp_path, sound, name):
    record = {key: value for key, value in sound[0].items() if key != name}
    refused(write(tmp_path / "a.safetensors", record, sound[1]), f"{name} is missing in its description")


@pytest.mark.parametrize("record", ["", "{", "[]", "3", "[" * 100_000, '{"version": "1"}'])
def test_descriptions_that_are_none(tmp_path, sound, record):
    refused(write(tmp_path / "a.safetensors", record, sound[1]), "description")


def test_shapes_and_names_are_compared(tmp_path, sound):
    record, weights = sound
    refused(write(tmp_path / "a.safetensors", record, {**weights, "more": torch.zeros(2)}), "more is of shape")
    fewer = {name: value for name, value in weights.items() if name != "head.bias"}
    refused(write(tmp_path / "b.safetensors", record, fewer), r"head\.bias is missing in the file and of shape \(1,\)")


def test_weights_whose_levels_shared_their_statistics_are_read_as_they_were(tmp_path):
    denoiser = Denoiser(UpsampleUnet(channels=2))
    record = {name: value for name, value in denoiser.record().items() if name != "digest"}
    weights = denoiser.generator.state_dict()
    before = {name: value[0].contiguous() if value.ndim == 2 else value for name, value in weights.items()}
    for name in before:
        before[name] += 0.5 if name.endswith("running_mean") else 0
    read = load_denoiser(write(tmp_path / "a.safetensors", record, before)).generator.state_dict()
    assert all(torch.equal(value, before[name].expand_as(value)) for name, value in read.items())
    export_weights(load_denoiser(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    again = load_denoiser(tmp_path / "b.safetensors").generator.state_dict()
    assert all(torch.equal(value, read[name]) for name, value in again.items())
    scalar = {**before, "narrow.2.running_mean": torch.tensor(7.0)}
    refused(write(tmp_path / "c.safetensors", record, scalar), r"running_mean is of shape \(\) in the file")


@pytest.mark.parametrize("name", ["text.txt", "text.ckpt", "text.safetensors"])
@pytest.mark.parametrize("content", [b"channels: 3\n", b"", b"PK\x03\x04", b"\x80\x02}q\x00.", bytes(range(256)) * 9])
def test_other_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "not a readable")


@pytest.mark.parametrize("state", [None, [], {"denoiser.generator.head.bias": 3}, {3: torch.zeros(1)}])
def test_checkpoints_without_weights(tmp_path, sound, state):
    torch.save({"cryoden": sound[0], "state_dict": state}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "not those that were written")
    torch.save({"cryoden": [1], "state_dict": state}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "its description is no table of fields")
    torch.save({"cryoden": {**sound[0], "digest": None}, "state_dict": state}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", r"is missing in the file")


def flips(size: int, count: int) -> list[int]:
    return np.random.default_rng(0).integers(0, 8 * size, count).tolist()


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, sound, kind):
    """200 of each: all are refused, but for those in what is not read, such as the name of the program."""
    record, weights = sound
    path = tmp_path / f"a.{kind}"
    if kind == "ckpt":
        state = {f"denoiser.generator.{name}": value for name, value in weights.items()}
        torch.save({"cryoden": record, "state_dict": state}, path)
    else:
        write(path, record, weights, undigested=False)
    expected, content = load_denoiser(path), path.read_bytes()
    passed = 0
    for bit in flips(len(content), 200):
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        try:
            found = load_denoiser(path)
        except CryodenError:
            continue
        passed += 1
        assert found.digest() == expected.digest(), bit
        for name, value in found.generator.state_dict().items():
            assert torch.equal(value, weights[name])
    assert passed < 40


def test_what_was_exported_is_what_is_loaded(tmp_path, sound):
    record, weights = sound
    export_weights(load_denoiser(write(tmp_path / "a.safetensors", record, weights)), tmp_path / "b.safetensors")
    content = (tmp_path / "b.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["cryoden"])["digest"] == record["digest"]
    assert load(content).keys() == weights.keys()
