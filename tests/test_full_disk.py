"""A disk that fills while a result is written: one line, and nothing that was begun.

What a process sees of it is an error of the system's as it writes, here by the largest file that the system allows.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import yaml

from cryoden.checkpoint import export_weights
from cryoden.cli import main
from cryoden.modules.recipes import SimpleAE


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, a tomogram, and data to test on."""
    monkeypatch.chdir(tmp_path)
    export_weights(SimpleAE(channels=2), tmp_path / "model.safetensors")
    with mrcfile.new(tmp_path / "in.mrc") as file:
        file.set_data(np.random.default_rng(0).gamma(1, size=(12, 12, 12)).astype(np.float32))
        file.voxel_size = 10.0
    data = {"entries": ["phantom:1"], "copies": 5, "box": 16, "voxel_size": 20, "resolution": 40, "num_workers": 0}
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump({"data": {"class_path": "ParticleDataModule", "init_args": data}})
    )
    return tmp_path


@pytest.mark.parametrize(
    ("words", "size", "refused", "stay"),
    [
        (["export", "new/out.safetensors", "--model=model.safetensors"], 500, "new/out.safetensors", []),
        (
            ["denoise", "in.mrc", "--output=out", "--model=model.safetensors", "--tile=16", "--preview"],
            20_000,
            "out/in.png",
            ["out", "out/in.mrc"],  # which is whole, and took its time
        ),
        (
            ["compare", "model.safetensors", "--data=data.yaml", "--volumes=1", "--output=out"],
            20_000,
            "out/",
            [],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else None,
)
def test_one_line_and_nothing_that_was_begun(words, size, refused, stay, folder: Path, capfd) -> None:
    before = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    with largest_file(size), pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    told = capfd.readouterr().err
    assert told.startswith(f"cryoden: error: cannot write {refused}")
    assert told.endswith(": File too large\n")
    assert told.count("\n") == 1
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == before | set(stay)
    main([*words, "--overwrite"])  # and with room it is done
