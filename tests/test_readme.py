"""The README's Python runs, and its commands exist with the flags they are given."""

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from cryoden import cli

README = Path(__file__).parent.parent / "README.md"
LIGHTNING = ("fit", "validate", "test")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> Iterator[list[str]]:
    """The words of each `cryoden ...` in a bash block or within a line, without `cryoden`."""
    inline = re.findall(r"`(cryoden [^`\n]+)`", README.read_text(encoding="utf-8"))
    for line in [*"\n".join(blocks("bash")).replace("\\\n", " ").splitlines(), *inline]:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words[:1] == ["cryoden"]:
                yield words[1:]


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command as the command line does, without running it."""
    assert words[0] in cli.verbs()
    if words[0] in LIGHTNING:  # stop after parsing when asked for their configuration
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--print_config"])
        assert stop.value.code in (0, None)
        return
    called = []
    home = f"cryoden.commands.{words[0]}"

    @functools.wraps(getattr(import_module(home), words[0]))
    def tool(**arguments: object) -> Iterator[str]:
        called.append(arguments)
        return iter(())

    monkeypatch.setattr(f"{home}.{words[0]}", tool)
    cli.main(words)
    assert called


def test_the_readme_has_commands_and_python() -> None:
    shown = {words[0] for words in commands()}
    assert {"demo", "simulate", "fit", "denoise"} <= shown
    assert blocks("python")


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_a_command_of_the_readme_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(README.parent)
    check(words, monkeypatch)


@pytest.mark.parametrize(
    "words",
    [
        ["simulat", "1bxn"],
        ["simulate", "1bxn", "--colour", "red"],
        ["fit", "--config", "experiments/quick.yaml", "--model.colour", "red"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_would_be_caught(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(README.parent)
    with pytest.raises((SystemExit, AssertionError)) as stop:
        check(words, monkeypatch)
    assert getattr(stop.value, "code", 1) != 0


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_of_the_readme_runs(code: str, tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
