"""What `cryoden VERB --help` prints, and what is said of a word that is not quite right."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from cryoden.cli import main
from cryoden.commands.pages import page, verbs
from cryoden.errors import CryodenError
from cryoden.files import find_experiment

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("verb", verbs())
def test_a_page_is_read_at_a_glance(verb: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = page(verb).splitlines()
    assert lines[0].startswith(f"usage: cryoden {verb}")
    assert lines[-1] == f"`cryoden {verb} --help all`: every argument, with its type and default."
    assert 8 < len(lines) <= 60
    limit = max(width, 112)  # a command, and what stands in columns, is not broken
    assert max(map(len, lines)) <= limit


def test_a_page_has_each_argument_as_it_is_typed_with_its_default() -> None:
    lines = [" ".join(line.split()) for line in page("denoise").splitlines()]
    for words in (
        "INPUTS ... IN.mrc OUT.mrc;",
        "--contrast auto|bright|dark (auto)",
        "--dry-run only print",
        "--tile N",
    ):
        assert any(line.startswith(words) for line in lines), words
    assert "_" not in "".join(line.split()[0] for line in lines if line.startswith("--"))
    assert "  OUTPUT                the file to write, ending in .safetensors." in page("export").splitlines()


def test_a_page_has_what_is_handed_on_to_another_function_and_that_all_may_stand_in_a_file() -> None:
    lines = [" ".join(line.split()) for line in page("simulate").splitlines()]
    for words in (
        "--structure-dir STRUCTURE_DIR",
        "--assembly ASSEMBLY of a",
        "--hydrogens of a",
        "--ligands true|false (true)",
    ):
        assert sum(line.startswith(words) for line in lines) == 1, words
    assert "SPEC" not in page("simulate")
    assert "--config FILE a YAML file with any of these." in lines
    takes_a_file = [verb for verb in verbs() if "\n  --config FILE " in page(verb)]
    assert takes_a_file == ["fit", "simulate", "test", "validate"]  # others take no object


@pytest.mark.parametrize("words", [["denoise", "a.mrc", "--help"], ["fit", "-h"], ["simulate", "--help"]])
def test_a_page_is_printed_without_loading_torch(words: list[str], tmp_path: Path) -> None:
    asked = f"import sys; from cryoden.cli import main; main({words}); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout == f"{page(words[0])}\nFalse\n"


@pytest.mark.parametrize(("verb", "argument"), [("fit", "--trainer.max_epochs"), ("simulate", "--contents.help")])
def test_help_all_has_the_whole(verb: str, argument: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help", "all"])
    assert stop.value.code == 0
    assert argument in capsys.readouterr().out
    assert argument not in page(verb) or verb == "fit"


@pytest.mark.parametrize("words", [["--help"], ["denoise", "--help"], ["models"]])
def test_who_reads_no_further_hears_of_no_error(words: list[str]) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "cryoden", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    run.stdout.close()
    assert run.communicate()[1] == ""
    assert run.returncode == 141


@pytest.mark.skipif(sys.platform == "win32", reason="no shell that closes streams")
@pytest.mark.parametrize(("closed", "words"), [(">&-", "models"), ("2>&-", "models"), (">&- 2>&-", "--help")])
def test_a_closed_stream_is_no_reason_to_fail(closed: str, words: str) -> None:
    run = subprocess.run(
        ["sh", "-c", f'exec "$0" -m cryoden {words} {closed}', sys.executable], capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert bool(run.stdout) == (closed == "2>&-")


def test_what_an_encoding_has_not_is_replaced() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "cryoden", "simulate", "--help"],
        capture_output=True,
        encoding="ascii",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == page("simulate").encode("ascii", "replace").decode() + "\n" != page("simulate") + "\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["denoise", "a.mrc", "b.mrc", "--prev"], "no argument --prev; did you mean '--preview'?"),
        (["denoise", "a.mrc", "b.mrc", "--voxel_siz=3"], "no argument --voxel-siz; did you mean '--voxel-size'?"),
        (["denoise", "a.mrc", "b.mrc", "--colour", "red"], "no argument --colour; see"),
        (["fit", "--trainer.max_epo=1"], "no argument --trainer.max_epo; did you mean '--trainer.max_epochs'?"),
        (["fit", "--ckpt-pat=a"], "no argument --ckpt-pat; did you mean '--ckpt-path'?"),
        (["fit", "--model=UpsampelUnetGAN"], "model: no class 'UpsampelUnetGAN'; did you mean 'UpsampleUnetGAN'?"),
        (
            ["fit", "--data=ParticelDataModule"],
            "data: no class 'ParticelDataModule'; did you mean 'ParticleDataModule'?",
        ),
        (["fit", "--model=UpsampleUnetGam"], "model: no class 'UpsampleUnetGam'; did you mean 'UpsampleUnetGAN'?"),
        (["fit", "--model=Unet"], "model: no class 'Unet'; did you mean 'UnetAE'?"),  # which is a network
        (["denoise", "a.mrc", "b.mrc", "--tile=abc"], "tile: Expected an int"),
        (["denoise", "a.mrc", "b.mrc", "--tilt-range=60"], "tilt range: got 60; give both ends, such as '[-60, 60]'"),
        (["fit", "--trainer.logger=CSVLoger"], "trainer.logger: no class 'CSVLoger'; did you mean 'CSVLogger'?"),
        (["fit", "--config=quik"], "quik: no such file; did you mean 'quick'? with cryoden come"),
        (["validate", "--config=simple_ae"], "validate: no checkpoint, so that a network which never learnt"),
        (["test", "--config=simple_ae", "--ckpt-path=best"], "ckpt_path best: of the run whose config.yaml is given"),
    ],
    ids=" ".join,
)
def test_what_was_meant_is_told_in_a_line(words: list[str], told: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cryoden: error: {told}")
    assert error.count("\n") == 1


def test_an_experiment_is_found_by_name_and_a_file_of_that_name_comes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quick", "experiments/quick.yaml", "overlays/small", "experiments/overlays/small.yaml"):
        path = EXPERIMENTS / f"{name.removeprefix('experiments/').removesuffix('.yaml')}.yaml"
        assert yaml.safe_load(find_experiment(name).read_text()) == yaml.safe_load(path.read_text())
    (tmp_path / "quick").write_text("mine")
    assert find_experiment("quick").read_text() == "mine"
    with pytest.raises(CryodenError, match=r"nothing: no such file; with cryoden come .*dragan, gan, "):
        find_experiment("nothing")


def test_experiments_are_in_the_wheel() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["sources"] == {"experiments": "cryoden/experiments"}
    assert {"cryoden", "experiments"} == set(wheel["only-include"])
    assert not any("yaml" in pattern or "overlays" in pattern for pattern in wheel["exclude"])
