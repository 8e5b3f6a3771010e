"""What `import cryoden` costs, what it offers, and who may import whom."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cryoden

PACKAGE = Path(cryoden.__file__).parent

# room → what it must not import, each the name of a module or of a package with all that is in it
LEAVES = ("volume", "scaling", "errors", "particles", "networks", "losses", "metrics.functional", "metrics.fsc")
LEAVES += ("inference.tiling",)
RULES = {
    **{f"cryoden.{leaf}": ("lightning", "cryoden.modules", "cryoden.data", "cryoden.callbacks") for leaf in LEAVES},
    "cryoden.simulation": ("lightning", "cryoden.data", "cryoden.modules", "cryoden.networks"),
    "cryoden.data": ("cryoden.modules", "cryoden.networks"),
    "cryoden.modules": ("cryoden.data",),
}


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of all that is imported anywhere in a source, but for what only type checkers see."""
    unseen: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            unseen |= {inner for statement in node.body for inner in ast.walk(statement)}
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """Where a module imports what it must not: one line each."""
    forbidden = [name for room, names in RULES.items() if within(module, room) for name in names]
    if module != "cryoden.__main__":
        forbidden.append("cryoden.cli")
    return [
        f"{module}, line {line}: imports {name}, but must not import {rule}"
        for line, name in imported(source)
        for rule in forbidden
        if within(name, rule)
    ]


def module_name(path: Path) -> str:
    parts = ("cryoden", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_keep_to_the_rooms(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8")) == []


def test_every_room_exists() -> None:
    rooms = [PACKAGE.joinpath(*room.split(".")[1:]) for room in RULES]
    assert [room for room in rooms if not room.is_dir() and not room.with_suffix(".py").is_file()] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cryoden.data.made_up", "from cryoden.modules.gan import GAN"),
        ("cryoden.data", "def late():\n    import cryoden.networks.unet"),
        ("cryoden.modules.made_up", "from cryoden import data"),
        ("cryoden.networks.made_up", "import torch, lightning.pytorch"),
        ("cryoden.losses", "from lightning import LightningModule"),
        ("cryoden.metrics.functional", "try:\n    import lightning\nexcept ImportError:\n    pass"),
        ("cryoden.callbacks", "from cryoden.cli import main"),
    ],
)
def test_the_walker_catches_a_violation(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cryoden.__main__", "from cryoden.cli import main"),
        ("cryoden.modules.made_up", "from lightning import LightningModule\nimport database"),
        ("cryoden.networks.made_up", "if TYPE_CHECKING:\n    from cryoden.modules.gan import GAN"),
    ],
)
def test_the_walker_lets_the_rest_pass(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_import_is_light() -> None:
    code = "import sys, cryoden; print(*sorted({'lightning', 'wandb', 'torch', 'numpy'} & set(sys.modules)))"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        assert run.stdout.split() == []
    # The aim is 0.2 s, interpreter included; the rest is for a busy machine.
    assert min(times) < 0.5, f"import cryoden took {min(times):.2f} s at best of {len(times)}"


def test_the_public_names_are_those_with_a_home() -> None:
    assert set(cryoden.__all__) == {*cryoden._HOMES, "__version__"}
    assert len(cryoden.__all__) == len(set(cryoden.__all__))
    assert dir(cryoden) == sorted(cryoden.__all__)


@pytest.mark.parametrize("name", cryoden.__all__)
def test_a_public_name_resolves(name: str) -> None:
    found = getattr(cryoden, name)
    if name != "__version__":
        assert found.__name__ == name
        assert found.__module__ == f"cryoden.{cryoden._HOMES[name]}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'cryoden' has no attribute 'Unett'"):
        cryoden.Unett  # noqa: B018
