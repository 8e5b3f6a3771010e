"""Classes of a user's own, given by their class paths, and what is said of those that cannot be had."""

import re
from pathlib import Path

import pytest

from cryoden.cli import main
from tests.apart import cryoden

NETWORK = """
from torch import nn
from cryoden.networks.base import DenoisingNetwork

class Plain(DenoisingNetwork):
    multiple, nonnegative = 1, False

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(nn.Conv3d(1, channels, 3, padding=1), nn.Conv3d(channels, 1, 3, padding=1))

    def forward(self, volume):
        return self.layers(volume)
"""
FIT = ("fit", "--data=ParticleDataModule", "--data.entries=[phantom:1]")


def test_a_network_in_a_file_of_the_working_folder_trains_and_denoises(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NETWORK)

    def run(*words: str) -> None:
        done = cryoden(tmp_path, *words)
        assert done.returncode == 0, done.stderr

    small = ["--data.copies=5", "--data.box=16", "--data.voxel_size=20", "--data.resolution=40", "--data.num_workers=0"]
    model = ["--model=Autoencoder", "--model.generator=mine.Plain", "--model.generator.channels=3"]
    run(*FIT, *small, *model, "--trainer.max_epochs=1", "--trainer.accelerator=cpu")
    run("simulate", "phantom:1", "--box=16", "--voxel_size=20", "--resolution=40", "--output=.")
    run("denoise", "phantom-1_0_degraded.mrc", "out.mrc", "--model=runs/version_0", "--module=mine", "--tile=16")
    assert (tmp_path / "out.mrc").is_file()


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (None, ["--model={}.Mine"], r"model: '\w+.Mine': No module named"),
        ("", ["--model={}.Mine"], r"model: '\w+.Mine': module '\w+' has no attribute 'Mine'"),
        ("import missing_package", ["--model={}.Mine"], "model: '\\w+.Mine': No module named 'missing_package'"),
        ("from torch import Tensr", ["--model={}.Mine"], "model: '\\w+.Mine': cannot import name 'Tensr' from 'torch'"),
        ("def f(:", ["--model={}.Mine"], r"model: invalid syntax \(\w+.py, line 1\); got \w+.Mine"),
        ("Mine = unknown", ["--model={}.Mine"], r"model: name 'unknown' is not defined; got \w+.Mine"),
        ("class Mine: ...", ["--model={}.Mine"], r"model: .* not correspond to a subclass of \w+; got \w+.Mine"),
        (
            "import missing_package",
            ["--model=Autoencoder", "--model.generator={}.Mine"],
            "model.generator: .*_package'",
        ),
        (
            NETWORK,
            ["--model=Autoencoder", "--model.generator={}.Plain", "--model.generator.chanels=3"],
            "model.generator: Plain has no .* 'chanels'; did you mean 'channels'",
        ),
        (
            "import missing_package",
            ["--model=SimpleAE", "--data.degradation+={}.Mine"],
            "data.degradation: .*_package'",
        ),
    ],
)
def test_a_class_that_cannot_be_had_is_told_in_one_line(
    text: str | None, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, request
) -> None:
    name = f"mine_{abs(hash(request.node.name))}"  # a module is imported once
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    refused(capsys, message, *FIT, *(word.format(name) for word in words), "--print_config")


def test_nor_is_a_step_of_a_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    message = "degradation: 'nowhere.Noise': No module named 'nowhere'"
    refused(capsys, message, "simulate", "phantom:1", "--degradation+=nowhere.Noise")


def refused(capsys, message: str, *words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert re.search(f"^cryoden: error: {message}", told), told
    assert "NoneType" not in told
