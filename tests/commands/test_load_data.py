"""What `compare --data` says of a file that it cannot use."""

import re
from pathlib import Path

import pytest

from cryoden.commands.comparison import load_data
from cryoden.errors import CryodenError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read as YAML"),
        ("data: [", "cannot be read as YAML"),
        ("model: {}", "has no `data:` with a `class_path:`"),
        ("data: {class_path: NoSuchData}", "NoSuchData"),
        ("data: {class_path: ParticleDataModule, init_args: {copis: 3}}", "copis"),
        ("data: {class_path: ParticleDataModule, init_args: {copies: 1}}", "each must be at least 1"),
        ("data: {class_path: nowhere.Data}", "'nowhere.Data': No module named 'nowhere'"),
        (
            "data: {class_path: ParticleDataModule, init_args: {degradation: [{class_path: nowhere.Noise}]}}",
            "data.degradation: 'nowhere.Noise': No module named 'nowhere'",
        ),
    ],
)
def test_bad_data(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CryodenError, match=re.escape(message)):
        load_data(path)


@pytest.mark.parametrize(
    "data",
    [
        "{class_path: evil.Data}",
        "{class_path: ParticleDataModule, init_args: {degradation: [{class_path: evil.Noise}]}}",
        "{class_path: ParticleDataModule, init_args: {degradation: [evil.Noise]}}",
        "{class_path: ParticleDataModule, init_args: {degradation: evil.Noise}}",
    ],
)
def test_a_run_that_others_compare_imports_nothing(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {data}")
    with pytest.raises(CryodenError, match=r"evil\.\w+ is not of cryoden, .* name the module with --module evil if"):
        load_data(path, shared=True)


def test_a_run_that_others_compare_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    arguments = "{entries: ['phantom:1'], copies: 10, box: 32, voxel_size: 10, cache: %s}" % (tmp_path / "cache")
    path.write_text(f"data: {{class_path: ParticleDataModule, init_args: {arguments}}}")
    module, described = load_data(path, shared=True)
    assert module.test_volumes()[0, 0]["clean"].shape == (1, 32, 32, 32)
    assert "cache" not in described["init_args"]
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]
