"""The command line: Lightning's verbs, and the tools beside them. Nobody imports this module.

Each command imports what it needs when it runs, so that `cryoden --help` answers at once.
"""

import difflib
import inspect
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import cryoden
from cryoden.errors import CryodenError


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: its name and arguments; default: the process's own.

    Raises:
        SystemExit: with code 2 after bad input, of which one line on stderr tells.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"cryoden {cryoden.__version__}")
        return
    try:
        if words[0] not in _COMMANDS:
            raise CryodenError(_unknown(words[0]))
        home, _ = _COMMANDS[words[0]]
        if home is None:
            _lightning(None if args is None else words)
        else:
            _run_tool(words[0], home, words[1:])
    except CryodenError as error:
        print(f"cryoden: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (ValueError, ModuleNotFoundError) as error:
        missing = _missing_module(error)
        if missing is not None:
            hint = f"{missing} is not installed here, and what was asked for needs it: pip install {missing}"
            print(f"cryoden: error: {hint}", file=sys.stderr)
            raise SystemExit(2) from None
        if "Does not validate against any of the Union subtypes" not in str(error):
            raise
        # jsonargparse wraps what a class says of its arguments into the list of types it tried.
        print(f"cryoden: error: {_in_one_line(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("cryoden: stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _missing_module(error: BaseException | None) -> str | None:
    """The package that could not be imported, where that is at the bottom of an error."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            requirement = re.search(r"(?:Requirement '|`)([\w-]+)", str(error))  # Lightning's ways to say it
            return requirement[1] if requirement else (error.name or str(error)).partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


class OneLine:
    """A mixin for jsonargparse's parsers: where they would print all options and all types they tried, one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the arguments.

        Raises:
            CryodenError: always.
        """
        if not self.exit_on_error:  # type: ignore[attr-defined]  # jsonargparse tries one type after another
            super().error(message, ex)  # type: ignore[misc]
        program = self.prog.replace(" [options]", "")  # type: ignore[attr-defined]
        raise CryodenError(f"{_in_one_line(message)}; see `{program} --help`")


def _in_one_line(message: str) -> str:
    """What is wrong, from the many lines in which jsonargparse tells it: the deepest key, and the first reason."""
    reason = re.search(
        r"(Option '.*' is not accepted|Group '.*' does not accept option '.*'|"
        r"Expected an? .*Got value: .*|^ *- (?!Problem|Not a|Does not).*)",
        message,
        re.M,
    )
    if reason is None:
        return " ".join(message.split())[:300]
    keys = re.findall(r'Parser key "([^"]+)"', message[: reason.start()])
    told = re.sub(r"typing\.|<class '(\w+)'>", r"\1", reason[1].strip(" -"))
    told = re.sub(r"Group '(.*)' does not accept option", r"\1 has no argument", told)
    option = re.match(r"Option '(.*)' is not accepted", told)
    kind = re.search(r"class_path '([\w.]+)'", message)
    if option and kind:
        home, _, name = kind[1].rpartition(".")
        classes = inspect.getmro(getattr(import_module(home), name))
        known = {
            parameter
            for c in classes
            if "__init__" in vars(c)
            for parameter in inspect.signature(vars(c)["__init__"]).parameters
        }
        close = difflib.get_close_matches(option[1], known, n=1)
        told = f"{name} has no argument {option[1]!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    return f"{'.'.join(keys)}: {told}" if keys else told


def _help() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: cryoden COMMAND ...",
            "",
            "Denoise cryo-electron tomograms with networks trained on volumes simulated from protein structures.",
            "",
            *lines,
            "",
            "`cryoden COMMAND --help` tells more. New here? Run `cryoden demo`: it needs no network and no GPU.",
        ]
    )


def _unknown(word: str) -> str:
    close = difflib.get_close_matches(word, _COMMANDS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no command {word!r}; {hint}allowed are {', '.join(_COMMANDS)}; see `cryoden --help`"


_LISTS = ("entries", "inputs", "runs")
_WITH_CONFIG = ("simulate",)


def _run_tool(name: str, home: str, words: list[str]) -> None:
    """Run a function with arguments from the command line and print its lines; its docstring is the help."""
    from docstring_parser import parse
    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]  # made when first asked for

    class Parser(OneLine, ArgumentParser):
        """jsonargparse's, which tells of bad input in one line."""

    tool = getattr(import_module(home), name)
    parser = Parser(prog=f"cryoden {name}")
    parameters = inspect.signature(tool).parameters
    about = {each.arg_name: each.description for each in parse(inspect.getdoc(tool) or "").params}
    flags = [word for word, parameter in parameters.items() if parameter.default is False]
    skip: set[str | int] = {*flags, *({"model", *_LISTS} & parameters.keys())}
    words_of = next((word for word in _LISTS if word in skip), None)
    configurable = name in _WITH_CONFIG
    if words_of:  # plain words, where jsonargparse would want [a,b]
        parser.add_argument("words", metavar=words_of, nargs="*", help=about[words_of])
    if configurable:
        parser.add_argument("--config", action=ActionConfigFile, help="a YAML file with any of these arguments")
        parser.add_argument(f"--{words_of}", type=list[str], default=[], help="the same as plain words, for a file")
    if "model" in skip:  # required, and yet an option: three names in a row would be easy to confuse
        parser.add_argument("--model", type=str, required=True, help=about["model"])
    for word in flags:  # bare, where jsonargparse would want true or false
        parser.add_argument(f"--{word}", action="store_true", help=about[word])
    parser.add_function_arguments(tool, as_positional=True, skip=skip)
    parser.description = (inspect.getdoc(tool) or "").partition("\nArgs:")[0].strip()
    # --dry-run is --dry_run
    plain = [re.sub(r"^--[\w-]+", lambda name: f"--{name[0][2:].replace('-', '_')}", word) for word in words]
    given = parser.instantiate(parser.parse_args(plain)).as_dict()
    given.pop("config", None)
    if words_of:
        given[words_of] = given.pop("words") or given.get(words_of, [])
        if not given[words_of]:
            parser.error(f"{words_of}: none given")
    for line in tool(**given):
        print(line)


def _lightning(args: list[str] | None) -> None:
    from lightning import LightningDataModule
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    import cryoden.data.datamodule
    import cryoden.data.pairs
    import cryoden.data.scenes
    import cryoden.data.shrec
    import cryoden.modules.recipes  # noqa: F401 - makes `--model UpsampleUnetGAN` resolve
    from cryoden.callbacks import Balance, KeepMemory, Report, SaveConfig, best_precision
    from cryoden.checkpoint import read_checkpoint
    from cryoden.console import quiet
    from cryoden.modules.denoiser import Denoiser

    quiet()

    class Parser(OneLine, LightningArgumentParser):
        """Lightning's, which tells of bad input in one line."""

    class CryodenCLI(LightningCLI):
        """Lightning's verbs over cryoden's systems and data."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_lightning_class_args(Report, "report")
            parser.add_lightning_class_args(KeepMemory, "keep_memory")
            parser.add_lightning_class_args(Balance, "balance")
            parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
            parser.set_defaults(
                {
                    "checkpoint.monitor": "val/nrmse",
                    "checkpoint.filename": "best",
                    "checkpoint.save_last": True,
                    "checkpoint.auto_insert_metric_name": False,
                }
            )

        def before_instantiate_classes(self) -> None:
            trainer = self.config[self.config.subcommand].trainer
            plugins = [each.get("class_path", "") for each in trainer.plugins or [] if hasattr(each, "get")]
            if trainer.precision is None and not any(path.endswith("Precision") for path in plugins):
                trainer.precision = best_precision(trainer.accelerator)

        def _parse_ckpt_path(self) -> None:
            # Lightning would let the checkpoint's arguments override the command line's without a word, even its
            # system. Here the configuration rules, and a checkpoint that does not fit it is refused.
            path = self.config[self.config.subcommand].get("ckpt_path")
            if path is not None and path not in ("best", "last"):
                read_checkpoint(Path(path))

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            skip = {"model", "datamodule", "weights_only", "verbose"}
            return {
                "fit": skip | {"train_dataloaders", "val_dataloaders"},
                "validate": skip | {"dataloaders"},
                "test": skip | {"dataloaders"},
            }

        # Lightning looks for methods of these names; a checkpoint may hold nothing but plain values.
        def fit(self, **kwargs: Any) -> None:
            self.trainer.fit(**kwargs, weights_only=True)

        def validate(self, **kwargs: Any) -> None:
            self.trainer.validate(**kwargs, weights_only=True, verbose=False)

        def test(self, **kwargs: Any) -> None:
            self.trainer.test(**kwargs, weights_only=True, verbose=False)

    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": ""}}
    # Without a terminal a progress bar is only noise in a log file.
    interactive = sys.stderr.isatty()
    try:
        CryodenCLI(
            Denoiser,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            trainer_defaults={
                "logger": logger,
                # by its path, not as an object, so that a run's config.yaml can be given again
                "plugins": [{"class_path": "cryoden.checkpoint.SafeCheckpointIO"}],
                "enable_progress_bar": interactive,
            },
            parser_kwargs={"prog": "cryoden"},
            parser_class=Parser,
            args=args,
        )
    except (MisconfigurationException, OSError) as error:
        raise CryodenError(" ".join(str(error).split())) from error


# name → the module that has the function of this name (None: one of Lightning's verbs), and what it does
_COMMANDS: dict[str, tuple[str | None, str]] = {
    "demo": ("cryoden.demo", "simulate, train and denoise in minutes, offline, on a CPU"),
    "fetch": ("cryoden.commands", "download PDB entries into the cache"),
    "simulate": ("cryoden.simulate", "write clean and degraded volumes as MRC files"),
    "fit": (None, "train: cryoden fit --config experiments/gan.yaml"),
    "validate": (None, "score a checkpoint on the validation volumes"),
    "test": (None, "score a checkpoint on the test volumes"),
    "compare": (
        "cryoden.evaluation.compare",
        "models and classical filters on the same volumes: tables, figures, a report",
    ),
    "calibrate": ("cryoden.evaluation.calibration", "a simulated tomogram beside a real one: how alike are they?"),
    "denoise": ("cryoden.inference.command", "denoise tomograms: cryoden denoise IN.mrc OUT.mrc --model RUN"),
    "export": ("cryoden.commands", "write a checkpoint's weights as safetensors"),
}
