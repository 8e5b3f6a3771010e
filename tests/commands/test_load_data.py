"""What `compare --data` says of a file that it cannot use."""

import re
from pathlib import Path

import pytest

from cryoden.commands.compare import load_data
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
