"""The README's Python runs, and the commands of all pages exist with the flags they are given."""

import functools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from cryoden import cli
from cryoden.commands.parser import _PATHS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    *sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "extending.md"}),  # which is run, as the tutorials are
    *sorted((ROOT / "experiments").rglob("*.md")),
    *sorted((ROOT / "experiments").rglob("*.yaml")),  # in their comments
    *sorted((ROOT / "experiments").rglob("*.json")),
    *sorted(Path(cli.__file__).parent.rglob("*.md")),
]
LIGHTNING = ("fit", "validate", "test")


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def lines(page: Path) -> Iterator[str]:
    """What a page would have typed: its bash blocks, what is in backticks, and a comment that is a command."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".json":
        yield from json.loads(text)["commands"]
    for block in blocks("bash", page):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"^#\s+(cryoden .*)$", text, re.MULTILINE)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", plain))


def commands(program: str) -> list[tuple[str, ...]]:
    """The words after a program's name in all pages, each command once; a name alone is no command."""
    found: dict[tuple[str, ...], None] = {}
    for line in (line for page in PAGES for line in lines(page) if f"{program} " in line):
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            while words and "=" in words[0]:  # NAME=VALUE before the program
                words.pop(0)
            if words[:1] == [program] and len(words) > 1:
                found[tuple(words[1:])] = None
    return list(found)


def check(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command as the command line does, without running it."""
    assert words[0] in cli.verbs()
    if words[0] in LIGHTNING:  # stop after parsing when asked for their configuration
        for flag in ("--ckpt_path", "--model.init_weights"):  # of runs that are not here
            monkeypatch.setitem(_PATHS, flag, str)
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


def test_the_pages_have_commands_and_python() -> None:
    assert {words[0] for words in commands("cryoden")} >= set(cli.verbs())
    assert any("benchmarks" in words[0] for words in commands("python"))
    assert blocks("python")


@pytest.mark.parametrize("words", commands("cryoden"), ids=" ".join)
def test_a_command_parses(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if len(words) == 1 or "--help" in words:  # only named
        assert words[0] in (*cli.verbs(), "--help", "COMMAND")
    else:  # NAME.yaml stands for any experiment
        check([re.sub(r"^experiments/[A-Z]+[.]yaml$", "experiments/gan.yaml", word) for word in words], monkeypatch)


@pytest.mark.parametrize("words", commands("python"), ids=" ".join)
def test_a_script_is_there_and_has_its_flags(words: tuple[str, ...]) -> None:
    if words[0] == "-c":
        compile(words[1], "a page", "exec")
        return
    if words[0] == "-m":
        script = f"{words[1].replace('.', '/')}.py"
        if not (ROOT / script).exists():  # Python's own, such as venv
            assert find_spec(words[1]) is not None
            return
        words = script, *words[2:]
    script, *rest = words
    text = (ROOT / script).read_text(encoding="utf-8")
    for word in rest:
        assert not word.startswith("--") or f'"{word}"' in text


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
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, AssertionError)) as stop:
        check(words, monkeypatch)
    assert getattr(stop.value, "code", 1) != 0


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_of_the_readme_runs(code: str, tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
