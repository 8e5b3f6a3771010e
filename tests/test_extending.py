"""docs/extending.md: its commands run for real, with the files that it shows, at their smallest."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden.checkpoint import load_denoiser
from cryoden.cli import main
from cryoden.errors import CryodenError
from cryoden.metrics import MEASURES, as_measure
from cryoden.volume import Volume, write_volume
from tests.apart import cryoden
from tests.test_readme import blocks

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
COMMANDS = [line for block in blocks("bash", DOCS / "extending.md") for line in block.splitlines()]
SMALLEST = [
    *("--data.entries=[phantom:1]", "--data.holdout=[phantom:2]", "--data.copies=8", "--data.box=16"),
    *("--data.voxel_size=20", "--data.resolution=40", "--data.num_workers=0", "--trainer.accelerator=cpu"),
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the files of the page, which another test never sees."""
    for example in EXAMPLES:
        shutil.copy(example, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = set(MEASURES)
    yield tmp_path
    for name in set(MEASURES) - known:
        del MEASURES[name]


def fit(command: str) -> Path:
    """Run a training of the page at its smallest."""
    main([*shlex.split(command)[1:], *SMALLEST])
    return Path("runs/quick/version_0")


def test_each_file_is_short_and_shown() -> None:
    page = (DOCS / "extending.md").read_text(encoding="utf-8")
    for example in EXAMPLES:
        assert len(example.read_text(encoding="utf-8").splitlines()) < 30
        assert f'--8<-- "docs/examples/{example.name}"' in page
        assert any(re.search(rf"\b{example.stem}\b", command) for command in COMMANDS)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("cryoden fit")])
def test_a_training_with_something_of_ones_own_learns_and_is_kept(command: str) -> None:
    run = fit(command)
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert sum(value.abs().sum() for key, value in kept["optimizer_states"][0]["state"][0].items() if key != "step") > 0
    assert re.search(r"my_\w+\.\w+", command)[0] in (run / "config.yaml").read_text(encoding="utf-8")


def test_what_fit_tells_to_do_next_is_possible_with_a_network_of_ones_own(folder: Path) -> None:
    def run(words: list[str]) -> str:
        done = cryoden(folder, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = run([*shlex.split(next(each for each in COMMANDS if "my_network" in each))[1:], *SMALLEST])
    assert "  cryoden denoise TOMOGRAM.mrc OUT.mrc --model runs/quick/version_0 --module my_network\n" in told
    assert "  cryoden compare runs/quick/version_0 --module my_network\n" in told
    more = re.search(r"  cryoden (fit .*--trainer.max_epochs) MORE\n", told)[1].split()
    assert "epoch 2 of 2" in run([*more, "2"])


def test_a_model_of_ones_own_network_denoises_with_its_module_named(capsys: pytest.CaptureFixture[str]) -> None:
    fit(next(each for each in COMMANDS if "my_network" in each))
    noise = np.random.default_rng(0).normal(size=(16, 24, 24)).astype(np.float32)
    write_volume("tomogram.mrc", Volume(noise, voxel_size=20.0))
    words = shlex.split(next(each for each in COMMANDS if each.startswith("cryoden denoise")))[1:]
    main([*words, "--contrast", "bright"])
    assert Path("denoised.mrc").is_file()
    assert load_denoiser("runs/quick/version_0").generator.reach == 15


def test_a_measure_of_ones_own_stands_beside_the_others() -> None:
    run = fit("cryoden fit --config quick")
    main([*shlex.split(next(each for each in COMMANDS if "compare" in each))[1:], "--volumes", "2"])
    found = json.loads(Path("comparison/results.json").read_text(encoding="utf-8"))
    assert found["percentiles"]["zeros"]["all"]["mass"]["p50"] == 0
    assert np.isfinite(found["percentiles"]["input"]["all"]["mass"]["p50"])
    assert "| mass |" in Path("comparison/tables.md").read_text(encoding="utf-8")
    assert run.is_dir()


def test_a_measure_does_not_replace_another() -> None:
    with pytest.raises(CryodenError, match="measure nrmse: there is one of this name"):
        as_measure("mine", -1, name="nrmse")(lambda pair: pair.denoised.sum((1, 2, 3, 4)))


def test_the_examples_do_what_they_say() -> None:
    flicker = import_module("my_degradation").Flicker(0.1)
    ones = torch.ones(3, 1, 4, 5, 6)
    drawn = [flicker.sample(torch.Generator().manual_seed(seed)) for seed in (1, 2, 1)]
    flickered = flicker.apply(ones, drawn)
    assert torch.equal(flickered[0], flickered[2])
    assert not torch.equal(flickered[0], flickered[1])
    assert flickered.std((3, 4)).max() == 0 < flickered.std(2).min()
    charbonnier = import_module("my_loss").charbonnier
    assert charbonnier(0 * ones, ones) == pytest.approx(1, abs=0.02)
    assert charbonnier(ones, ones) < 0.02
    network = import_module("my_network").Dilated(channels=2)
    torch.nn.init.normal_(network.layers[-1].weight)
    spot = torch.zeros(1, 1, 41, 1, 1)
    spot[0, 0, 20] = 1.0
    with torch.no_grad():
        seen = (network(spot) - network(0 * spot))[0, 0, :, 0, 0].abs() > 0
    assert not seen[: 20 - network.reach].any()
    assert seen[20 - network.reach]
