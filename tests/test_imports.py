"""What `import cryoden` costs, what it offers, and who may import whom.

`python -m tests.test_imports` tells the number of rooms, of imports that run up and of circles.
"""

import ast
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import cryoden
from cryoden.console import loading
from cryoden.volume import Volume, write_volume

PACKAGE = Path(cryoden.__file__).parent

# The house, bottom to top. A room, a file or a folder, imports what stands on floors below it; the rooms of one floor
# do not know each other. The door, `__init__`, is the room named cryoden.
FLOORS = (
    ("console", "errors", "signals", "version"),
    ("files", "hardware"),
    ("download", "pictures", "scaling", "volume", "wedge"),
    ("metrics", "models", "networks", "particles"),
    ("losses", "simulation"),
    ("batch",),
    ("denoiser",),
    ("checkpoint",),
    ("inference",),
    ("data", "modules"),  # what stands below works without Lightning
    ("runs",),
    ("evaluation",),
    ("callbacks", "napari_reader"),
    ("commands", "napari_plugin"),
    ("cli",),
    ("__main__", "cryoden"),
)
HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def sources() -> dict[str, str]:
    """Module → its text, of the whole package."""
    files = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(("cryoden", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in files]
    return {
        name.removesuffix(".__init__"): path.read_text(encoding="utf-8")
        for name, path in zip(names, files, strict=True)
    }


def imports(text: str, modules: Mapping[str, object]) -> set[str]:
    """The modules that a text imports anywhere, within functions and for type checkers, too."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            named |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for name in named:
        while name and name not in modules:  # the last part may be a class
            name = name.rpartition(".")[0]
        found |= {name} - {""}
    return found


def graph(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Module → what it imports of the same package."""
    return {name: imports(text, texts) - {name} for name, text in texts.items()}


def room(module: str) -> str:
    return [*module.split("."), "cryoden"][1] if "." in module else module


def upwards(imported: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """What runs up, or from room to room of one floor: the importing and the imported module."""
    return [
        (module, other)
        for module, others in imported.items()
        for other in sorted(others)
        if room(module) != room(other) and HEIGHT[room(other)] >= HEIGHT[room(module)]
    ]


def circles(imported: Mapping[str, set[str]]) -> list[set[str]]:
    """Modules that come back to themselves, each set once."""
    reached = {module: set(others) for module, others in imported.items()}
    for middle in reached:
        for others in reached.values():
            if middle in others:
                others |= reached[middle]
    rings = [{other for other in reached[module] if module in reached[other]} for module in reached]
    return [ring for place, ring in enumerate(rings) if ring and ring not in rings[:place]]


def told() -> str:
    """The house in a line, to be quoted."""
    imported = graph(sources())
    return (
        f"{len(set(map(room, imported)))} rooms on {len(FLOORS)} floors, {len(upwards(imported))} imports that run up, "
        f"{len(circles(imported))} circles"
    )


def test_every_room_has_its_floor() -> None:
    assert set(map(room, sources())) == set(HEIGHT)


def test_contributors_are_told_of_every_room() -> None:
    page = (Path(__file__).parent.parent / "docs" / "contributing.md").read_text(encoding="utf-8")
    for room in set(HEIGHT) - {"cryoden", "napari_plugin"}:
        assert f"`{room}.py`" in page or f"`{room}/`" in page


def test_no_import_runs_up() -> None:
    assert upwards(graph(sources())) == []


def test_no_circle() -> None:
    assert circles(graph(sources())) == []


@pytest.mark.parametrize(
    ("text", "runs_up"),
    [
        ("from cryoden.modules.gan import GAN", True),  # of the same floor
        ("from cryoden import modules", True),
        ("def late():\n    import cryoden.evaluation.verdict", True),
        ("if TYPE_CHECKING:\n    from cryoden.cli import main", True),
        ("try:\n    from cryoden import Volume\nexcept ImportError:\n    pass", True),  # through the door
        ("from cryoden.volume import Volume\nimport cryoden.simulation.scene", False),
        ("from cryoden.data import scenes\nimport torch, database", False),
    ],
)
def test_what_runs_up_is_found(text: str, runs_up: bool) -> None:
    added = {**sources(), "cryoden.data.made_up": text}
    found = [each for each in upwards(graph(added)) if each[0] == "cryoden.data.made_up"]
    assert len(found) == runs_up


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}}) == [{"a", "b", "c"}, {"d", "e"}]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_denoising_and_what_stands_below_it_work_without_lightning() -> None:
    below = [name for name in sources() if HEIGHT[room(name)] < HEIGHT["modules"]]
    below += ["cryoden.commands.denoise", "cryoden.commands.export"]
    code = f"""
import importlib, sys
sys.modules["lightning"] = None
for name in {below}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name.startswith("lightning"), error
        print(name)
"""
    assert run(code).split() == ["cryoden.inference.distribute"]  # which spreads tomograms over devices with it


def test_denoising_imports_neither_training_nor_simulation_nor_a_compiler(tmp_path) -> None:
    write_volume(tmp_path / "in.mrc", Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), 10.0))
    code = f"""
import os, sys
from cryoden.cli import main
os.chdir({str(tmp_path)!r})
main(["denoise", "in.mrc", "out.mrc", "--contrast=bright"])
print(*{{"lightning", "cryoden.simulation", "torch._dynamo"}} & {{*sys.modules}})
"""
    *_, loaded = run(code).split("\n")[:-1]
    assert loaded == ""
    assert (tmp_path / "out.mrc").exists()


def test_import_is_light() -> None:
    code = "import sys, cryoden; print(*sorted({'lightning', 'wandb', 'torch', 'numpy'} & set(sys.modules)))"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        loaded = run(code)
        times.append(time.perf_counter() - start)
        assert loaded.split() == []
    # The aim is 0.2 s, interpreter included; the rest is for a busy machine.
    assert min(times) < 0.5, f"import cryoden took {min(times):.2f} s at best of {len(times)}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("denoise missing.mrc out.mrc", "cannot read missing.mrc"),
        ("denoise text.mrc out.mrc", "text.mrc is not an MRC file"),
        ("denoise missing.mrc --output out --overlap=2", "cannot read missing.mrc"),
        ("denoise text.mrc out.mrc --tilt-range=missing.tlt", "cannot read missing.tlt"),
        ("denoise text.mrc out.mrc --tilt-range=[60,-60]", "tilt range 60 to -60"),
        ("denoise text.mrc nowhere/out.mrc", "there is no folder nowhere"),
        ("denoise text.mrc out.mrc --overlop=2", "did you mean '--overlap'"),
        ("compare missing", "none of the runs can be used"),
        ("compare cryoden-10A --data=missing.yaml", "missing.yaml: no such file"),
        ("compare cryoden-10A --halves=missing", "no half tomograms"),
        ("calibrate missing.mrc text.mrc", "cannot read missing.mrc"),
        ("export out.safetensors --model=missing", "model missing: no such file"),
        ("models card missing", "models card: no model 'missing'"),
        ("fit --config missing.yaml", "missing.yaml: no such file"),
        ("fit --config quick --model.init_weights missing", "model missing: no such file or folder"),
        ("fit --config quick --ckpt-path=missing.ckpt", "checkpoint missing.ckpt: no such file"),
        ("validate --config missing.yaml", "missing.yaml: no such file"),
        ("test --config quick --ckpt-path missing.ckpt", "checkpoint missing.ckpt: no such file"),
        ("tune missing --halves --output=out.safetensors", "no half tomograms among the input"),
        ("simulate 1abc --config missing.yaml", "missing.yaml: no such file"),
    ],
)
def test_paths_and_headers_are_looked_at_before_anything_heavy_is_imported(words: str, told: str, tmp_path) -> None:
    (tmp_path / "text.mrc").write_text("text")
    code = f"""
import contextlib, os, sys
from cryoden.cli import main
os.chdir({str(tmp_path)!r})
with contextlib.suppress(SystemExit), contextlib.redirect_stderr(sys.stdout):
    main({words.split()})
print(*sorted({{"lightning", "matplotlib", "scipy", "torch"}} & {{*sys.modules}}))
"""
    *lines, loaded = run(code).split("\n")[:-1]
    assert told in "\n".join(lines)
    assert loaded == ""


def test_a_terminal_has_a_word_while_torch_is_imported(monkeypatch, capsys) -> None:
    with loading():
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with loading():
        assert capsys.readouterr().err == "loading torch ..."
    assert capsys.readouterr().err == "\r\x1b[K"


def test_each_public_name_is_there_once() -> None:
    block = Path(cryoden.__file__).read_text(encoding="utf-8").partition("if TYPE_CHECKING:")[2].partition("else:")[0]
    lines = block.split("\n")[1:-1]
    assert len(lines) == len(set(lines)) == len(cryoden.__all__)
    for line in lines:  # `as` makes a type checker take it for public
        name = line.rpartition(" ")[2]
        assert line.endswith(f" import {name} as {name}")
        assert name in cryoden.__all__
    assert dir(cryoden) == sorted(cryoden.__all__)


@pytest.mark.parametrize("name", cryoden.__all__)
def test_a_public_name_resolves(name: str) -> None:
    found = getattr(cryoden, name)
    if name != "__version__":
        assert found.__name__ == name
        assert found.__module__.startswith(cryoden._homes()[name])


def test_all_public_names_come_with_a_star() -> None:
    assert set(cryoden.__all__) <= set(run("from cryoden import *; print(*dir())").split())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'cryoden' has no attribute 'Unett'"):
        cryoden.Unett  # noqa: B018


if __name__ == "__main__":
    print(told())
