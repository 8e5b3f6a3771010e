"""Volumes as datasets: item `index` of epoch `epoch` is a pure function of (seed, epoch, index)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from cryoden.batch import Batch, Item, Specimen
from cryoden.errors import CryodenError
from cryoden.simulation.degradation import Degradation, Parameters, apply_all, measured_by_all, sample_all
from cryoden.simulation.ranges import seed_of
from cryoden.simulation.units import BRIGHTEST

Key = tuple[int, int]
"""(epoch, index): what a sampler hands to the dataset, so that workers need no state of their own."""


class Keyed(Protocol):
    """What such a sampler can sample."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Any: ...


class VolumeDataset(Dataset[Item], ABC):
    """Pairs of volumes: item (epoch, index) is a pure function of the seed, the epoch and the index.

    Args:
        degradation: the steps that damage a clean volume, in order.
        seed: a sequence of whole numbers from 0 up; two datasets with different seeds share nothing that is random.
        fresh: draw anew each epoch, rather than what epoch 0 drew for ever.
        degrade: apply the degradation here, on the CPU, rather than leave it to the device.

    Raises:
        CryodenError: a seed is below 0.
    """

    def __init__(self, degradation: Sequence[Degradation], *, seed: Sequence[int], fresh: bool, degrade: bool) -> None:
        item_generator(seed, 0, 0)  # refuses a seed that is none
        self.degradation = degradation
        self.seed = tuple(seed)
        self.fresh = fresh
        self.degrade = degrade

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def make(self, index: int, generator: torch.Generator) -> Specimen:
        """Make an item's clean volume and what belongs to it, with the generator as the only source of randomness."""

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        generator = item_generator(self.seed, epoch if self.fresh else 0, index)
        specimen = self.make(index, generator)
        parameters = specimen["parameters"] if "parameters" in specimen else sample_all(self.degradation, generator)
        alone = specimen["clean"][None]  # a batch of one
        item: Item = {
            **specimen,
            "parameters": parameters,
            "measured": measured_by_all(self.degradation, alone, [parameters])[0],
        }
        if self.degrade and "degraded" not in item:
            imaged = item.pop("imaged")[None] if "imaged" in item else None
            item["degraded"] = degraded_boxes(self.degradation, alone, imaged, [parameters])[0]
        if "degraded" in item:  # what is asked for: in a loss, a bead of gold would outweigh all particles
            item["clean"] = item["clean"].clamp(max=BRIGHTEST)
        return item


def item_generator(seed: Sequence[int], epoch: int, index: int) -> torch.Generator:
    """Where all randomness of an item comes from.

    Args:
        seed: whole numbers from 0 up.
        epoch: from 0 up.
        index: of the item.

    Raises:
        CryodenError: a seed is below 0.
    """
    if min(seed) < 0:
        raise CryodenError(f"seed: got {min(seed)}; allowed is a whole number from 0 up")
    return torch.Generator().manual_seed(seed_of(*seed, epoch, index))


def degraded_boxes(
    degradation: Sequence[Degradation],
    clean: Tensor,
    imaged: Tensor | None,
    parameters: Sequence[Sequence[Parameters]],
) -> Tensor:
    """Boxes as they are cut from what a microscope shows.

    Args:
        degradation: the steps.
        clean: (B, 1, D, H, W), of the boxes.
        imaged: see `Specimen`, with the boxes in its middle; None: there is nothing but what is clean.
        parameters: for each box what `sample_all` gave.

    Returns:
        (B, 1, D, H, W).
    """
    if imaged is None:
        imaged = clean
    z, y, x = ((whole - box) // 2 for whole, box in zip(imaged.shape[-3:], clean.shape[-3:], strict=True))
    return apply_all(degradation, imaged, parameters, (z, y, x))


def random_box(volume: NDArray[np.float32], box: int, generator: torch.Generator) -> tuple[slice, ...]:
    """Draw where to cut a box that shows something: one of nothing but background cannot be scored.

    Args:
        volume: (D, H, W), clean; at least as large as the box.
        box: voxels along each side.
        generator: where the randomness comes from.

    Returns:
        The box's place along z, y, x.
    """
    room = [size - box + 1 for size in volume.shape]
    for _ in range(100):
        corner = [int(torch.randint(n, (), generator=generator)) for n in room]
        part = tuple(slice(c, c + box) for c in corner)
        if shows_something(volume[part]):
            break
    return part


def shows_something(clean: NDArray[np.float32]) -> bool:
    """Whether there is more in a clean volume than background."""
    return bool(clean.max() > 0.1)


# What stays a list: plain numbers, so that no device has to be asked, and tables of any length.
_LISTS = ("parameters", "placements")


def collate(items: Sequence[Item]) -> Batch:
    """Stack items; the degradation's parameters and the tables of scenes stay lists."""
    stacked = default_collate([{k: v for k, v in item.items() if k not in _LISTS} for item in items])
    lists = {k: [cast(dict[str, Any], item)[k] for item in items] for k in _LISTS if k in items[0]}
    return cast(Batch, {**stacked, **lists})


class EpochSampler(DistributedSampler[Key]):
    """Yields (epoch, index), so that the epoch reaches every worker with each item.

    It is a `DistributedSampler` so that Lightning leaves it alone, and calls its `set_epoch` before each epoch.

    Args:
        dataset: what to sample.
        shuffle: a new order each epoch, the same on every rank.
        seed: of the order.
        rank: which process this is.
        world_size: how many processes share the items. When shuffled, for training, each gets the same number, so that
            none waits for ever (up to world_size - 1 items sit out an epoch); otherwise each item is seen exactly once.
    """

    def __init__(self, dataset: Keyed, *, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(cast(Dataset[Any], dataset), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.length = len(dataset)
        self.skip = 0  # items at the start of the next pass that were seen before
        self.end = self.length - self.length % world_size if shuffle else self.length

    def _mine(self) -> range:
        return range(self.rank, self.end, self.num_replicas)

    def __len__(self) -> int:
        return len(self._mine())

    def __iter__(self) -> Iterator[Key]:
        keys = [(0, i) for i in self._mine()]
        if self.shuffle:
            order = torch.randperm(self.length, generator=torch.Generator().manual_seed(self.seed + self.epoch))
            keys = [(self.epoch, int(order[i])) for i in self._mine()]
        return iter(keys[self.skip :])


class ResumableLoader(DataLoader[Item]):
    """A loader that a checkpoint from the middle of an epoch can resume: Lightning keeps its state.

    Args:
        dataset: what to load.
        sampler: the order.
        batch_size: volumes per batch.
        taken: tells how many batches an epoch takes, of which there may be more; None: it takes all.
        kwargs: see DataLoader.
    """

    def __init__(
        self,
        dataset: Keyed,
        sampler: EpochSampler,
        batch_size: int,
        taken: Callable[[], float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(cast(Dataset[Any], dataset), sampler=sampler, batch_size=batch_size, **kwargs)
        self._order = sampler
        self._taken = taken or self.__len__
        self._first = 0
        self._given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator serves as well
        first, self._first = self._first, 0
        self._order.skip = first * (self.batch_size or 1)
        for self._given, batch in enumerate(super().__iter__(), first + 1):
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given; 0 after the last."""
        return {"batches": self._given % int(min(len(self), self._taken()))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next pass after so many batches."""
        self._first = state["batches"]
