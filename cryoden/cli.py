"""The command line: Lightning's verbs, and the tools beside them. Nobody imports this module.

Each command imports what it needs when it runs, so that `cryoden --help` answers at once.
"""

import difflib
import inspect
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

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
    except ValueError as error:
        reason = re.search(r"^\s*- (.*)$", str(error), re.MULTILINE)
        if "Does not validate against any of the Union subtypes" not in str(error) or reason is None:
            raise
        # jsonargparse wraps what a class says of its arguments into the list of types it tried.
        print(f"cryoden: error: {reason[1]}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("cryoden: stopped", file=sys.stderr)
        raise SystemExit(130) from None


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


_LISTS = ("entries", "inputs")


def _run_tool(name: str, home: str, words: list[str]) -> None:
    """Run a function with arguments from the command line and print its lines; its docstring is the help."""
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    tool = getattr(import_module(home), name)
    parser = ArgumentParser(prog=f"cryoden {name}")
    parameters = inspect.signature(tool).parameters
    about = {each.arg_name: each.description for each in parse(inspect.getdoc(tool) or "").params}
    flags = [word for word, parameter in parameters.items() if parameter.default is False]
    skip: set[str | int] = {*flags, *({"model", *_LISTS} & parameters.keys())}
    for word in _LISTS:
        if word in skip:  # plain words, where jsonargparse would want [a,b]
            parser.add_argument(word, nargs="+", help=about[word])
    if "model" in skip:  # required, and yet an option: three names in a row would be easy to confuse
        parser.add_argument("--model", type=str, required=True, help=about["model"])
    for word in flags:  # bare, where jsonargparse would want true or false
        parser.add_argument(f"--{word}", action="store_true", help=about[word])
    parser.add_function_arguments(tool, as_positional=True, skip=skip)
    parser.description = (inspect.getdoc(tool) or "").partition("\nArgs:")[0].strip()
    # --dry-run is --dry_run
    plain = [re.sub(r"^--[\w-]+", lambda name: f"--{name[0][2:].replace('-', '_')}", word) for word in words]
    config = parser.instantiate(parser.parse_args(plain))
    for line in tool(**config.as_dict()):
        print(line)


def _lightning(args: list[str] | None) -> None:
    from lightning import LightningDataModule
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    import cryoden.data.datamodule
    import cryoden.modules.recipes  # noqa: F401 - makes `--model UpsampleUnetGAN` resolve
    from cryoden.callbacks import Report, SaveConfig
    from cryoden.console import quiet
    from cryoden.modules.denoiser import Denoiser

    quiet()

    class CryodenCLI(LightningCLI):
        """Lightning's verbs over cryoden's systems and data."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
            parser.set_defaults(
                {
                    "checkpoint.monitor": "val/nrmse",
                    "checkpoint.filename": "best",
                    "checkpoint.save_last": True,
                    "checkpoint.auto_insert_metric_name": False,
                }
            )

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
            trainer_defaults={"logger": logger, "callbacks": [Report()], "enable_progress_bar": interactive},
            parser_kwargs={"prog": "cryoden"},
            args=args,
        )
    except (MisconfigurationException, ModuleNotFoundError, FileNotFoundError) as error:
        raise CryodenError(" ".join(str(error).split())) from error


# name → the module that has the function of this name (None: one of Lightning's verbs), and what it does
_COMMANDS: dict[str, tuple[str | None, str]] = {
    "demo": ("cryoden.demo", "simulate, train and denoise in minutes, offline, on a CPU"),
    "fetch": ("cryoden.commands", "download PDB entries into the cache"),
    "simulate": ("cryoden.commands", "write clean and degraded volumes as MRC files"),
    "fit": (None, "train: cryoden fit --config experiments/gan.yaml"),
    "validate": (None, "score a checkpoint on the validation volumes"),
    "test": (None, "score a checkpoint on the test volumes"),
    "denoise": ("cryoden.inference.command", "denoise tomograms: cryoden denoise IN.mrc OUT.mrc --model RUN"),
    "export": ("cryoden.commands", "write a checkpoint's weights as safetensors"),
}
