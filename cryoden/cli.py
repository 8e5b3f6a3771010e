"""The command line: Lightning's verbs, and the tools beside them. Nobody imports this module.

Each command imports what it needs when it runs, so that `cryoden --help` answers at once.
"""

import difflib
import inspect
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


def _run_tool(name: str, home: str, words: list[str]) -> None:
    """Run a function with arguments from the command line (its signature and docstring are the help), print its lines."""
    from jsonargparse import ArgumentParser

    tool = getattr(import_module(home), name)
    parser = ArgumentParser(prog=f"cryoden {name}")
    skip: set[str | int] = {"entries"} & set(inspect.signature(tool).parameters)
    if skip:  # a plain list of words, where jsonargparse would want [a,b]
        parser.add_argument("entries", nargs="+", help="PDB entries; also structure or map files and phantoms (phantom:7)")
    parser.add_function_arguments(tool, as_positional=True, skip=skip)
    parser.description = inspect.getdoc(tool).partition("\nArgs:")[0].strip()
    config = parser.instantiate_classes(parser.parse_args(words))
    for line in tool(**config.as_dict()):
        print(line)


def _lightning(args: list[str] | None) -> None:
    import logging

    from lightning import LightningDataModule
    from lightning.fabric.utilities.warnings import PossibleUserWarning
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    import cryoden.data.datamodule
    import cryoden.modules.recipes  # noqa: F401 - makes `--model UpsampleUnetGAN` resolve
    from cryoden.callbacks import Report, SaveConfig
    from cryoden.modules.denoiser import Denoiser

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

    CryodenCLI(
        Denoiser,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=SaveConfig,
        trainer_defaults={"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": ""}}, "callbacks": [Report()]},
        parser_kwargs={"prog": "cryoden"},
        args=args,
    )


# name → the module that has the function of this name (None: one of Lightning's verbs), and what it does
_COMMANDS: dict[str, tuple[str | None, str]] = {
    "demo": ("cryoden.demo", "simulate, train and denoise in minutes, offline, on a CPU"),
    "fetch": ("cryoden.commands", "download PDB entries into the cache"),
    "simulate": ("cryoden.commands", "write clean and degraded volumes as MRC files"),
    "fit": (None, "train: cryoden fit --config experiments/gan.yaml"),
    "validate": (None, "score a checkpoint on the validation volumes"),
    "test": (None, "score a checkpoint on the test volumes"),
    "denoise": ("cryoden.commands", "denoise a tomogram: cryoden denoise IN.mrc OUT.mrc --model RUN"),
    "export": ("cryoden.commands", "write a checkpoint's weights as safetensors"),
}
