"""The door of the command line: finds a verb's file in commands/ and runs it. Nobody imports this module.

Only the file of the verb that was asked for is imported, so that `cryoden --help` answers at once.
"""

import inspect
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from cryoden.commands.pages import overview, page, verbs
from cryoden.console import fitted, loading
from cryoden.errors import CryodenError, closest
from cryoden.signals import Stopped, stoppable


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: its name and arguments; default: the process's own.

    Raises:
        SystemExit: with code 2 after bad input, of which one line on stderr tells; 143 after SIGTERM, 130 after Ctrl-C.
    """
    _prepare_streams()
    words = list(sys.argv[1:] if args is None else args)
    here = str(Path.cwd())  # in full, since files are read from within their own folders
    if here not in sys.path and not sys.flags.safe_path:
        sys.path.append(here)  # a class in a file of the working folder has a class path, as with `python -m`
    try:
        with stoppable():
            try:
                _run(words)
            finally:
                sys.stdout.flush()  # here, where it does no harm that nobody reads it any more
    except BrokenPipeError:  # whoever read what was told has heard enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (OSError, ValueError, ModuleNotFoundError) as error:
        told: str | None
        if isinstance(error, CryodenError):
            told = str(error)
        elif isinstance(error, OSError) and error.strerror:
            told = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        else:
            from cryoden.commands.parser import in_one_line

            told = in_one_line(error)
        if told is None:
            raise
        print(f"cryoden: error: {told}", file=sys.stderr)
        raise SystemExit(2) from None
    except (OverflowError, MemoryError) as error:
        told = " ".join(str(error).split()) or "this machine has not enough"
        what = "a number is too large" if isinstance(error, OverflowError) else "out of memory"
        print(f"cryoden: error: {what}: {told}", file=sys.stderr)
        raise SystemExit(2) from None
    except Stopped as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes the first tells
            print(f"cryoden: {stop}", file=sys.stderr)
        raise SystemExit(stop.code) from None
    except KeyboardInterrupt:
        print("cryoden: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        _leave_processes()


def _prepare_streams() -> None:
    """Lets anything be printed: where a stream is closed, to nobody; what its encoding has not becomes a ?."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # as after `>&-`
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _leave_processes() -> None:
    """Ends what several processes speak through: torch leaves it to the interpreter's end, where its threads abort."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _run(words: list[str]) -> None:
    name, *rest = words or ["--help"]
    known = verbs()
    if name in ("-h", "--help"):
        print(overview())
        return
    if name == "--version":
        from cryoden.version import __version__

        print(f"cryoden {__version__}")
        return
    if name not in known:
        close = closest(name, known)
        hint = f"did you mean {close!r}? " if close else ""
        raise CryodenError(f"no command {name!r}; {hint}allowed are {', '.join(known)}; see `cryoden --help`")
    if rest[-2:] == ["--help", "all"]:
        rest = ["--help"]
    elif {"-h", "--help"} & {*rest}:
        print(page(name))
        return
    empty = next((word for word in words if not re.sub(r"^--[\w.-]+=", "", word).strip()), None)
    if empty is not None:
        raise CryodenError(
            f"{name}: got {empty!r}, which is empty; give a value, or leave it out (a variable of the shell that is "
            "not set?)"
        )
    from cryoden.commands.parser import call, plain_words

    rest = plain_words(rest)  # which finds the files of --config, or refuses them, before torch is imported
    # Threads of GNU's OpenMP that wait for others turn in circles for milliseconds, also on the core that those need: a
    # tomogram took four times as long where other people's work ran. torch reads this when it is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with loading():
        verb = getattr(import_module(f"cryoden.commands.{name}"), name)
    if any(each.kind is each.VAR_POSITIONAL for each in inspect.signature(verb).parameters.values()):
        verb(*rest)
        return
    for line in call(verb, name, rest):
        print(fitted(line))
