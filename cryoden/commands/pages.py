"""What `cryoden --help` and `cryoden VERB --help` print: read from the verbs' files, without running them, at once."""

import ast
import re
import shutil
import textwrap
from pathlib import Path

_FOLDER = Path(__file__).parent
_WIDEST = 100
_COLUMN = 24  # where what is said of an argument begins
_SECTION = re.compile(r"^(Args|Yields|Returns|Raises):$", re.MULTILINE)


def verbs() -> dict[str, str]:
    """What can be asked for, and what it does in a line."""
    found = {path.stem: _function(path) for path in sorted(_FOLDER.glob("*.py"))}
    return {name: _docstring(verb).partition("\n")[0] for name, verb in found.items() if verb is not None}


def overview() -> str:
    """The first page."""
    known = verbs()
    width = max(map(len, known))
    return "\n".join(
        [
            "usage: cryoden COMMAND ...",
            "",
            "Denoise cryo-electron tomograms with networks trained on volumes simulated from protein structures.",
            "",
            *(f"  {name:<{width}}  {about}" for name, about in known.items()),
            "",
            "`cryoden COMMAND --help` tells more. New here? Run `cryoden demo`: it needs no network and no GPU.",
        ]
    )


def page(name: str) -> str:
    """A verb's first page: its docstring, and a line or two for each of its arguments.

    Args:
        name: of the verb.
    """
    verb = _function(_FOLDER / f"{name}.py")
    assert verb is not None
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    about = _SECTION.split(_docstring(verb))[0]
    items = [] if verb.args.vararg else _items(verb, _FOLDER / f"{name}.py")
    plain = [shown for shown, _ in items if not shown.startswith("--")]
    lines = [f"usage: {' '.join(['cryoden', name, *plain])} [options]", "", *_wrapped(about, width), ""]
    for shown, text in items:
        lines += _item(shown, text, width)
    lines += [""] if lines[-1] else []
    return "\n".join([*lines, f"`cryoden {name} --help all`: every argument, with its type and default."])


def _function(path: Path, name: str | None = None) -> ast.FunctionDef | None:
    """A function of a file, by default the one that is called as the file is: its verb."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == (name or path.stem)), None)


def _imported(path: Path) -> dict[str, Path]:
    """Name → file of ours that a file imports it from."""
    found: dict[str, Path] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cryoden."):
            home = _FOLDER.parents[1].joinpath(*node.module.split("."))
            file = home / "__init__.py" if home.is_dir() else home.with_suffix(".py")
            found |= {alias.name: file for alias in node.names}
    return found


def _items(function: ast.FunctionDef, path: Path) -> list[tuple[str, str]]:
    """Of each argument how it is written on the command line, and what is said of it.

    Where the docstring says of `**arguments` to see another function, they are that one's; where an argument is of a
    kind of ours, which takes arguments itself, all may stand in a file.
    """
    _, *sections = _SECTION.split(_docstring(function))
    described = dict(zip(sections[::2], sections[1::2], strict=True)).get("Args", "")
    arguments, imported = _arguments(function), _imported(path)
    items = []
    for argument, text in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", described, re.MULTILINE):
        if argument in arguments:
            items.append((arguments[argument], " ".join(text.split())))
        elif function.args.kwarg is not None and argument == function.args.kwarg.arg:
            name = text.removeprefix("see ").rstrip(".")
            home = path
            while (other := _function(home, name)) is None:
                home = _imported(home)[name]
            items += [item for item in _items(other, home) if item[0].startswith("--")]
    given = [*function.args.args, *function.args.kwonlyargs]
    kinds = {node.id for each in given for node in ast.walk(each) if isinstance(node, ast.Name)}
    if kinds & {*imported} and path.parent == _FOLDER:
        items.append(("--config FILE", "a YAML file with any of these."))
    return items


def _docstring(verb: ast.FunctionDef) -> str:
    return ast.get_docstring(verb) or ""


def _arguments(verb: ast.FunctionDef) -> dict[str, str]:
    """Name → how it is written on the command line."""
    given = verb.args
    padding: list[ast.expr | None] = [None] * (len(given.args) - len(given.defaults))
    shown: dict[str, str] = {}
    for argument, default in zip(
        [*given.args, *given.kwonlyargs], [*padding, *given.defaults, *given.kw_defaults], strict=True
    ):
        kind, name = ast.unparse(argument.annotation) if argument.annotation else "", argument.arg
        flag = f"--{name.replace('_', '-')}"
        value = {"int": "N", "float": "X"}.get(kind.removesuffix(" | None"), name.upper())
        choices = re.search(r"Literal\[(.*?)\]", kind)
        if kind == "list[str]" and not shown:
            shown[name] = f"[{value} ...]" if default else f"{value} ..."
        elif argument in given.args and default is None:
            shown[name] = value
        elif isinstance(default, ast.Constant) and default.value is False:
            shown[name] = flag
        elif isinstance(default, ast.Constant) and default.value is True:
            shown[name] = f"{flag} true|false (true)"
        else:
            shown[name] = f"{flag} {'|'.join(ast.literal_eval(f'[{choices[1]}]')) if choices else value}"
            if isinstance(default, ast.Constant) and default.value not in (None, ""):
                shown[name] += " (" + str(default.value) + ")"
    return shown


def _wrapped(text: str, width: int) -> list[str]:
    """Paragraphs as wide as the terminal; what is indented, and what follows the end of a sentence, keeps its line."""
    lines: list[str] = []
    for line in text.strip().splitlines():
        joins = lines and lines[-1] and line and not line.startswith(" ") and lines[-1][-1] not in ".:"
        if joins and not lines[-1].startswith(" "):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return [part for line in lines for part in ([line] if line[:1] in ("", " ") else textwrap.wrap(line, width))]


def _item(argument: str, text: str, width: int) -> list[str]:
    head = f"  {argument}"
    first = [head] if len(head) > _COLUMN - 2 else []
    indent = " " * _COLUMN
    body = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
    return [*first, *body] if first else [f"{head:<{_COLUMN}}{body[0][_COLUMN:]}", *body[1:]]
