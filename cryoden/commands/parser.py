"""From words on the command line to a function's arguments, and what is wrong with them in one line."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, get_args

from docstring_parser import parse
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]  # made when first asked for

from cryoden.errors import CryodenError, closest
from cryoden.files import find_experiment
from cryoden.models import find_checkpoint


class OneLine:
    """A mixin for jsonargparse's parsers: where they would print all options and all types they tried, one line.

    A flag is written whole: the start of one, which may be the start of another tomorrow, is refused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the arguments.

        Raises:
            CryodenError: always.
        """
        if not self.exit_on_error:  # type: ignore[attr-defined]  # jsonargparse tries one type after another
            super().error(message, ex)  # type: ignore[misc]
        program = self.prog.replace(" [options]", "")  # type: ignore[attr-defined]
        flags = [*self._option_string_actions]  # type: ignore[attr-defined]
        raise CryodenError(f"{first_reason(message, flags)}; see `{program} --help`")


class _Parser(OneLine, ArgumentParser):
    """jsonargparse's, which tells of bad input in one line.

    Attributes:
        listed: the argument that plain words are, by which they stand in a file; None where there are none.
    """

    listed: str | None = None

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """What `--print_config` prints: a file that does the same again."""
        if self.listed and namespace.get("words") is not None:
            namespace = namespace.clone()
            namespace[self.listed] = namespace.pop("words") or namespace.get(self.listed)
            kwargs["skip_validation"] = True  # which was done, and would miss the words
        dumped: str = super().dump(namespace, *args, **kwargs)
        return dumped


def call(tool: Callable[..., Iterator[str]], name: str, words: Sequence[str]) -> Iterator[str]:
    """Call a function with arguments from the command line; its docstring is the help.

    A first argument that is a list takes plain words, a flag stands bare, and what is by name only is an option even
    where it is required. Where arguments have arguments of their own, all may stand in a file: `--config FILE`.

    Args:
        tool: the function.
        name: what it is called on the command line.
        words: its arguments, of `plain_words`.

    Returns:
        What the function does: its lines.

    Raises:
        CryodenError: the arguments are not the function's.
    """
    parser = _Parser(prog=f"cryoden {name}")
    parameters = list(inspect.signature(tool, eval_str=True).parameters.values())
    about = {each.arg_name: each.description for each in parse(inspect.getdoc(tool) or "").params}
    listed = next((each.name for each in parameters[:1] if each.annotation == list[str]), None)
    needed = parameters[:1] and parameters[0].default is inspect.Parameter.empty
    flags = [each.name for each in parameters if each.default is False]
    options = [each for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    parser.listed = listed
    if listed:  # plain words, where jsonargparse would want [a,b]
        words_of = parser.add_argument("words", metavar=listed, nargs="*", help=about[listed])
        words_of.required = bool(needed)
    if any(_has_arguments(each.annotation) for each in parameters):
        parser.add_argument("--config", action=ActionConfigFile, help="a YAML file with any of these arguments")
        if listed:
            parser.add_argument(f"--{listed}", type=list[str], default=[], help="the same as plain words, for a file")
    for each in options:
        parser.add_argument(f"--{each.name}", type=each.annotation, required=True, help=about[each.name])
    for flag in flags:  # bare, where jsonargparse would want true or false
        parser.add_argument(f"--{flag}", action="store_true", help=about[flag])
    skip: set[str | int] = {*flags, *(each.name for each in options), *([listed] if listed else [])}
    # jsonargparse looks for a function by its name in each package above it, and cryoden.denoise is one with torch
    tool.__qualname__ = f"the verb {name}"
    added = parser.add_function_arguments(tool, as_positional=True, skip=skip)
    bare = {f"--{name}" for name in added if parser.get_defaults()[name] is False}  # flags of what it hands on to
    parser.description = (inspect.getdoc(tool) or "").partition("\nArgs:")[0].strip()
    plain = [f"{word}=true" if word in bare else word for word in words]
    parsed = parser.parse_args(plain)
    refuse_null(tool, parsed.as_dict())
    given = parser.instantiate(parsed).as_dict()
    given.pop("config", None)
    for each in parameters:  # in a file a flag may stand as anything
        value = given.get(each.name, each.default)
        if each.name in flags and not isinstance(value, bool):
            parser.error(f"{each.name}: Expected a bool. Got value: {value}")
        if isinstance(value, str) and not value.strip():
            parser.error(f"{each.name}: got {value!r}; give a value, or leave it out")
    if listed:
        given[listed] = given.pop("words") or given.get(listed, [])
        if needed and not given[listed]:
            parser.error(f"{listed}: none given")
    return tool(**given)


def plain_words(words: Sequence[str]) -> list[str]:
    """Words as jsonargparse takes them: --dry_run for --dry-run, and the path of a file for `--config NAME`.

    Raises:
        CryodenError: `--config` names no file, or what is to be gone on from or started with is no checkpoint.
    """
    plain = [re.sub(r"^--[\w.-]+", lambda found: f"--{found[0][2:].replace('-', '_')}", word) for word in words]
    for place, word in enumerate(plain):
        flag, sign, value = word.partition("=")
        if sign and flag in _PATHS:
            plain[place] = f"{flag}={_PATHS[flag](value)}"
        elif place and plain[place - 1] in _PATHS:
            plain[place] = str(_PATHS[plain[place - 1]](word))
    return plain


def _checkpoint(word: str) -> str:
    if word not in ("best", "last", "null") and not Path(word).is_file():
        raise CryodenError(f"checkpoint {word}: no such file; give a .ckpt that `cryoden fit` wrote, or best or last")
    return word


def _weights(word: str) -> str:
    if word != "null":
        find_checkpoint(word)
    return word


# Flags that name files, and what is to be written in their place; whether they are there is seen before all else.
_PATHS: dict[str, Callable[[str], Path | str]] = {
    "--config": find_experiment,
    "--ckpt_path": _checkpoint,
    "--model.init_weights": _weights,
}


def _has_arguments(annotation: Any) -> bool:
    """Whether what is annotated is, or may be, an object of a class of ours, which takes arguments itself."""
    ours = isinstance(annotation, type) and annotation.__module__.startswith("cryoden.")
    return ours or any(map(_has_arguments, get_args(annotation)))


def refuse_null(kind: Callable[..., Any], values: Mapping[str, Any], key: str = "") -> None:
    """Refuse null where an argument may not be None, which jsonargparse takes for what was not given.

    Args:
        kind: the function or class whose arguments they are.
        values: name → value; an argument that is a class of its own is a table of `class_path` and `init_args`.
        key: what stands before the names in an error.

    Raises:
        CryodenError: one is null that may not be.
    """
    for name, value in values.items():
        for place, each in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(each, Mapping) and "class_path" in each:
                home, _, leaf = each["class_path"].rpartition(".")
                inner = f"{key}{name}." if each is value else f"{key}{name}.{place}."
                refuse_null(getattr(import_module(home), leaf), each.get("init_args") or {}, inner)
        annotation = _annotations(kind).get(name, Any) if value is None else Any
        if annotation is not Any and type(None) not in get_args(annotation):
            raise CryodenError(f"{key}{name}: got null; give a value, or leave it out")


def _annotations(kind: Callable[..., Any]) -> dict[str, Any]:
    """Name → annotation of all arguments of a function, or of a class with those that it hands on to what it inherits.

    Args:
        kind: it.
    """
    made = (
        [vars(each)["__init__"] for each in reversed(inspect.getmro(kind)) if "__init__" in vars(each)]
        if isinstance(kind, type)
        else [kind]
    )
    signatures = [inspect.signature(each, eval_str=True) for each in made]
    return {name: each.annotation for signature in signatures for name, each in signature.parameters.items()}


def in_one_line(error: Exception) -> str | None:
    """What is wrong with the input, from an error that a library made of it; None: it is no matter of input."""
    missing = _missing_module(error)
    if missing is not None:
        return f"{missing} is not installed here, and what was asked for needs it: pip install {missing}"
    if "Does not validate against any of the Union subtypes" in str(error):
        # jsonargparse wraps what a class says of its arguments into the list of types it tried.
        return first_reason(str(error))
    return None


def _missing_module(error: BaseException | None) -> str | None:
    """The package that could not be imported, where that is at the bottom of an error."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            requirement = re.search(r"(?:Requirement '|`)([\w-]+)", str(error))  # Lightning's ways to say it
            return requirement[1] if requirement else (error.name or str(error)).partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


# What says why in a message of jsonargparse's: a wrong name, a wrong value, a class that cannot be imported, or what a
# class says itself. All else tells of what was tried.
_REASON = re.compile(
    r"Option '.*' is not accepted|Group '.*' does not accept option '.*'|Expected an? .*Got value: .*|"
    r"(?<=Problem with given class_path )'[\w.]+':\n *+(?!Parser key|Option|Group|-).*|"
    r"^ *- (?!Problem|Not a|Does not|Expected a path|Expected a <class 'NoneType'>).*",
    re.MULTILINE,
)


def first_reason(message: str, flags: Sequence[str] = ()) -> str:
    """What is wrong, from the many lines in which jsonargparse tells it: the deepest key, and the first reason.

    Args:
        message: all lines.
        flags: that there are, one of which may have been meant.
    """
    unknown = re.match(r"unrecognized arguments: (--[\w.-]+)", message)
    if unknown:
        return f"no argument {_spelt(unknown[1])}{_meant(_spelt(unknown[1]), map(_spelt, flags))}"
    reason = _REASON.search(message)
    if reason is None:
        return " ".join(message.split())[:300]
    keys = re.findall(r'Parser key "([^"]+)"', message[: reason.start()])
    told = re.sub(r"typing\.|<class '(\w+)'>", r"\1", " ".join(reason[0].strip(" -").split()))
    told = told.replace("Expected a int", "Expected an int")
    if reason[0].strip().startswith("-"):
        given = re.search(r"Given value: (?!NestedArg)(.*)", message[reason.end() :])
        told += f"; got {given[1][:100]}" if given and "got " not in told else ""
    told = re.sub(r"Group '(.*)' does not accept option", r"\1 has no argument", told)
    name = re.match(r"Expected a dot import path string: (\w+)", told)
    if name:
        told = f"no class {name[1]!r}{_meant(name[1], _class_names(keys[-1] if keys else ''))}"
    option = re.match(r"Option '(.*)' is not accepted", told)
    kinds = re.findall(r"class_path '([\w.]+)'", message[: reason.start()])
    if option and kinds:
        home, _, kind = kinds[-1].rpartition(".")
        known = {*_annotations(getattr(import_module(home), kind))} - {option[1]}
        told = f"{kind} has no argument {option[1]!r}{_meant(option[1], known)}"
    return f"{'.'.join(keys)}: {told}" if keys else told


def _meant(word: str, known: Iterable[str]) -> str:
    """What else was meant, if a known word is like it."""
    close = closest(word, known)
    return f"; did you mean {close!r}?" if close else ""


def _spelt(flag: str) -> str:
    """A flag as the pages have it: --dry-run; a key of a file, --data.voxel_size, as it stands there."""
    return flag if "." in flag else flag.replace("_", "-")


_KINDS = {"model": "LightningModule", "data": "LightningDataModule"}  # what an argument must be


def _class_names(key: str) -> set[str]:
    """Of the classes that an argument may be and that were imported, cryoden's and Lightning's: no path is needed."""
    modules = [each for name, each in sys.modules.items() if name.startswith(("cryoden.", "lightning.pytorch."))]
    classes = [value for each in modules for value in vars(each).values() if isinstance(value, type)]
    kind = _KINDS.get(key, "object")
    return {each.__name__ for each in classes if kind in (base.__name__ for base in inspect.getmro(each))}
