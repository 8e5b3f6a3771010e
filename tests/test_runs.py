import re
from pathlib import Path

import pytest

from cryoden.errors import CryodenError
from cryoden.runs import load_data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read as YAML"),
        ("data: [", "cannot be read as YAML"),
        ("model: {}", "has no `data:` with a `class_path:`"),
        ("data: {class_path: NoSuchData}", "NoSuchData"),
        ("data: {class_path: ParticleDataModule, init_args: {copis: 3}}", "copis"),
        ("data: {class_path: ParticleDataModule, init_args: {copies: 1}}", "each must be at least 1"),
    ],
)
def test_bad_data(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CryodenError, match=re.escape(message)):
        load_data(path)
