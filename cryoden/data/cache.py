"""Items kept on disk, so that what is costly to make is made once."""

import hashlib
import inspect
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

import gemmi
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

from cryoden.batch import Item, Specimen
from cryoden.data.dataset import Key, VolumeDataset
from cryoden.errors import CryodenError
from cryoden.simulation.degradation import Degradation
from cryoden.simulation.scene import Placement
from cryoden.version import __version__

_log = logging.getLogger(__name__)

_REST = "item.json"
_HOST = socket.gethostname()
_VERSIONED = {"cryoden", "torch", "abc", "builtins", "typing"}  # what a class is made of and nobody edits


class CachedDataset(VolumeDataset):
    """Another dataset's items of epoch 0, each made when it is first asked for and read from disk from then on.

    The folder is named after all that determines the items, particles' atoms included, and of classes that are not
    cryoden's the file that defines them, so that what was changed finds an empty one. A class that no file defines,
    such as one of a notebook's cell, finds what it made in the same process alone, which is logged. An item is a folder
    in it with a memory-mapped .npy file for each array. It appears under its name only when it is complete: any number
    of processes may fill a cache, and any may be killed; what they leave behind is removed by the next.

    Args:
        dataset: what makes the items.
        folder: where caches are; created where it is missing.

    Raises:
        CryodenError: the folder cannot be written to.
    """

    def __init__(self, dataset: VolumeDataset, folder: str | Path) -> None:
        super().__init__(dataset.degradation, seed=dataset.seed, fresh=False, degrade=dataset.degrade)
        self.dataset = dataset
        described = json.dumps(_describe(dataset) | {"cryoden": __version__}, indent=1, sort_keys=True)
        self.folder = Path(folder).expanduser() / hashlib.sha256(described.encode()).hexdigest()[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
            (self.folder / "settings.json").write_text(described, encoding="utf-8")  # for people to read
        except OSError as error:
            raise CryodenError(f"cache {folder}: cannot be written to: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Item:
        place = self._place(key[1])
        if not place.is_dir():
            self._keep(place, self.dataset[0, key[1]])
        return _read(place)

    def make(self, index: int, generator: torch.Generator) -> Specimen:
        """As the other dataset does."""
        return self.dataset.make(index, generator)

    def fill(self, num_workers: int = 0, first: int = 0) -> None:
        """Make what is missing, and show progress on a terminal.

        Args:
            num_workers: processes that make items; 0: this one.
            first: the item to begin with, so that several machines need not begin with the same.
        """
        order = [*range(first, len(self)), *range(first)]
        missing = [(0, index) for index in order if not self._place(index).is_dir()]
        if not missing:
            return
        workers = min(num_workers, len(missing))
        what_comes_back: Any = _nothing
        loader = DataLoader(self, batch_size=None, sampler=missing, num_workers=workers, collate_fn=what_comes_back)
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            for _ in progress.track(loader, total=len(missing), description=f"making volumes in {self.folder}"):
                pass

    def _place(self, index: int) -> Path:
        return self.folder / f"{index:06d}"

    def _keep(self, place: Path, item: Item) -> None:
        partial = self.folder / f".{_HOST}~{os.getpid()}~{place.name}.part"
        try:
            # A process of the same number was killed: a container that starts again has the same host and numbers.
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            rest = {}
            for name, value in item.items():
                if isinstance(value, torch.Tensor):
                    np.save(partial / f"{name}.npy", value.numpy())
                else:
                    rest[name] = value
            (partial / _REST).write_text(json.dumps(rest, default=_plain), encoding="utf-8")
            partial.rename(place)
        except OSError as error:
            if not place.is_dir():  # otherwise another process was faster, with the same item
                raise CryodenError(f"cache {self.folder}: cannot be written to: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _clear_leftovers(self) -> None:
        """Remove what processes that were killed had begun."""
        for partial in self.folder.glob(f".{_HOST}~*~*.part"):  # of other machines nobody here knows what lives
            try:
                os.kill(int(partial.name.split("~")[1]), 0)
            except ProcessLookupError:
                shutil.rmtree(partial, ignore_errors=True)
            except PermissionError:  # alive, and another user's
                continue


def _read(place: Path) -> Item:
    try:
        item = json.loads((place / _REST).read_text(encoding="utf-8"))
        for path in place.glob("*.npy"):
            # A private mapping: what is not looked at is not read, and changes stay in memory.
            item[path.stem] = torch.from_numpy(np.load(path, mmap_mode="c"))
    except (OSError, ValueError, EOFError) as error:
        raise CryodenError(f"cache {place}: cannot be read: {error}; delete it, and it is made again") from error
    if "placements" in item:
        item["placements"] = [
            Placement(name, np.array(position, np.float64), np.array(rotation, np.float64))
            for name, position, rotation in item["placements"]
        ]
    return cast(Item, item)


def _nothing(item: Item) -> None:
    """What a worker hands over of an item: it lies on the disk."""


def _plain(value: Any) -> Any:
    """What json cannot write by itself."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"an item holds a {type(value).__name__}, which a cache cannot keep")


def _describe(value: Any) -> Any:
    """All that determines a value, for json: of what is large, a hash."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _describe(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(each) for each in value]
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(value.tobytes()).hexdigest()
        return f"{value.dtype} {value.shape} {digest}"
    if isinstance(value, gemmi.Model):
        atoms = [
            (*site.atom.pos.tolist(), site.atom.element.name, site.residue.name, site.residue.entity_type.name)
            for site in value.all()  # a residue's name tells which hydrogens it lacks
        ]
        return f"{len(atoms)} atoms {hashlib.sha256(repr(atoms).encode()).hexdigest()}"
    kind = _describe_class(type(value))
    if is_dataclass(value):
        return kind | {field.name: _describe(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, VolumeDataset | Degradation):
        return kind | {name: _describe(each) for name, each in vars(value).items()}
    raise TypeError(f"a cache cannot tell one {type(value).__name__} from another; make it a dataclass")


def _describe_class(kind: type) -> dict[str, Any]:
    """What tells a class from others: its name, and what defines it where its author may edit that at any time."""
    own = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in _VERSIONED]
    sources = {"class source": [_source_of(base) for base in own]} if own else {}
    return {"class": f"{kind.__module__}.{kind.__qualname__}"} | sources


@cache  # for each class that is defined, so that a cell that is run again is another
def _source_of(kind: type) -> str:
    """A hash of the whole file that defines a class, since methods use what stands beside it."""
    try:
        return hashlib.sha256(inspect.getsource(sys.modules[kind.__module__]).encode()).hexdigest()
    except (OSError, TypeError, KeyError):
        _log.warning(
            "%s: no file tells what this class does, so a cache keeps its volumes for this process alone; define it in "
            "a file, and import it from there",
            kind.__qualname__,
        )
        return token_hex(16)
