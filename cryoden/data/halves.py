"""A laboratory's own tomograms in halves, for Lightning: boxes of both halves, and simulated ones beside them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from cryoden.batch import HeldOut, Item
from cryoden.data.dataset import EpochSampler, Key, Keyed, ResumableLoader, VolumeDataset, collate, item_generator
from cryoden.data.scenes import SceneDataModule
from cryoden.errors import CryodenError, check_above_zero, check_seeds
from cryoden.inference.contrast import Contrast, look, scale_of
from cryoden.inference.halves import check_halves, named_apart
from cryoden.inference.jobs import Job, bare_name, half_folder
from cryoden.inference.star import find_halves
from cryoden.inference.tiling import tell
from cryoden.inference.tilts import TiltRange, find_tilts, read_tilts
from cryoden.particles import is_archive_entry
from cryoden.particles.archive import fetch
from cryoden.scaling import Scale, sampled_rows
from cryoden.volume import central, check_length, middle, native, open_volume, release
from cryoden.wedge import wedge_mask

_PHANTOMS = tuple(f"phantom:{seed}" for seed in (1, 2, 3, 5, 8, 13, 21, 34))  # as in the training of shipped models
_SCENE = (64, 128, 128)  # voxels of a simulated tomogram: made in seconds
_JUDGING = 0.25  # of these only judge
_SAME_SIZE = 0.01
_JUDGED = 12  # tomograms of many that are judged
_HEIGHT = 48, 96  # voxels along the tilt axis, at least and at most, of what nothing is learnt from
_SHARE = 4  # it is the fourth part of a tomogram, where that is in between
_LARGEST = 192  # voxels along the other axes of what is judged, in the middle
_EMPTY = 0.5  # a box of which more is filled with one value shows too little
_TRIES = 20
_LOOKS = 64  # sections that tell where the specimen is
_WIDE = 768  # voxels along both axes of them that are looked at, in the middle
_BIN = 4  # voxels along both axes of a section: averages out noise
_BOUND = 3.0  # spreads; what is further counts as this far, so that gold does not decide alone
_SHOWS = 0.1  # of what both halves share where that is most: sections with less are beside the specimen


@dataclass(frozen=True, eq=False)
class HalfTomogram:
    """A tomogram in two halves, of which only what is asked for is read.

    Attributes:
        name: what tables call it.
        paths: of both halves.
        data: of both (D, H, W), mapped.
        voxel_size: Å, as the first half's header has it; 0 where it has none.
        tilts: between which it was measured; None: all round.
        contrast: of its protein.
        scales: of both halves.
        sections: the first that shows specimen, and the first after the last.
        mask: (D, H, W), mapped, above 0 where there is specimen; None: all over.
    """

    name: str
    paths: tuple[Path, ...]
    data: tuple[NDArray[Any], NDArray[Any]]
    voxel_size: float
    tilts: TiltRange | None
    contrast: Contrast
    scales: tuple[Scale, Scale]
    sections: tuple[int, int]
    mask: NDArray[Any] | None

    @classmethod
    def of(cls, job: Job, tilts: TiltRange | None, contrast: Contrast | Literal["auto"]) -> HalfTomogram:
        """Looks at both halves.

        Args:
            job: names them.
            tilts: where they are stated; else they are looked for.
            contrast: of protein, or told from the voxels.

        Raises:
            CryodenError: they cannot be read or are no halves, or nothing tells the contrast.
        """
        first, second = (open_volume(path) for path in job.inputs)
        check_halves(first, second, job.inputs)
        if contrast == "auto":
            mean = np.mean([central(each.data, _LARGEST).astype(np.float32) for each in (first, second)], axis=0)
            grey = look(mean)
            if grey.contrast is None:
                raise CryodenError(
                    f"{job.name}: cannot tell whether protein is bright or dark (skewness {grey.skewness:+.3f}); look "
                    "at it, and give --contrast bright or --contrast dark"
                )
            contrast = grey.contrast
        scales = scale_of(first.data), scale_of(second.data)
        tilts = tilts or find_tilts(job.inputs[0], job.tilts)
        data = first.data, second.data
        mask = _mask_beside(job, first.data.shape)
        all_of_it = 0, first.data.shape[0]
        whole = cls(job.name, job.inputs, data, first.voxel_size, tilts, contrast, scales, all_of_it, mask)
        return replace(whole, sections=whole._specimen())

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) in voxels."""
        return self.data[0].shape

    @cached_property
    def told(self) -> str:
        """All that decides what is learnt of it, in words: other words, other voxels, mask, contrast or tilts."""
        halves = " and ".join(map(_digest, self.data))
        mask = "none" if self.mask is None else _digest(self.mask)
        tilts = "unknown" if self.tilts is None else f"{self.tilts.low:g} to {self.tilts.high:g}°"
        return f"halves {halves}, mask {mask}, protein {self.contrast}, tilts {tilts}"

    @property
    def held_out(self) -> int:
        """The first voxel along the tilt axis from which on nothing is learnt."""
        least, most = _HEIGHT
        return self.shape[1] - min(most, max(least, self.shape[1] // _SHARE))

    def cut(self, part: tuple[slice, ...]) -> tuple[list[Tensor], Tensor]:
        """A part of both halves, and which of its voxels show nothing: filled with one value, or outside the mask.

        Args:
            part: its place along z, y, x.

        Returns:
            Each half (1, D, H, W) float32, background 0, spread 1, protein bright; and (1, D, H, W) bool.
        """
        boxes, empty = [], torch.zeros((), dtype=torch.bool)
        for data, scale in zip(self.data, self.scales, strict=True):
            box = torch.from_numpy(native(data[part]))[None, None]
            release(data)
            left_out = scale.left_out(box)
            box = scale.standardize(box, left_out)[0]
            boxes.append(-box if self.contrast == "dark" else box)
            empty = empty | left_out[0]
        return boxes, empty if self.mask is None else empty | ~self._masked(part)

    def _masked(self, part: tuple[slice, ...]) -> Tensor:
        """(1, D, H, W) bool, where the mask has specimen."""
        assert self.mask is not None
        inside = torch.from_numpy(native(self.mask[part]))[None] > 0
        release(self.mask)
        return inside

    def measured(self, box: int) -> Tensor:
        """(box, 1, box // 2 + 1) bool, see `cryoden.batch.HalfBoxes`."""
        tilts = (-90.0, 90.0) if self.tilts is None else self.tilts[:2]
        return wedge_mask((box, box), tilts)[:, None]

    def judged(self, voxel_size: float) -> HeldOut:
        """What nothing is learnt from, and no more of it than tells enough; of voxels of this size in Å."""
        depth, _, width = self.shape
        part = middle(depth, _LARGEST), slice(self.held_out, None), middle(width, _LARGEST)
        (first, second), _ = self.cut(part)
        mask = None if self.mask is None else self._masked(part)[0]
        return {"first": first[0], "second": second[0], "mask": mask, "voxel_size": voxel_size, "entry": self.name}

    def _specimen(self) -> tuple[int, int]:
        """Between which sections both halves share something; all, where they share nothing."""
        step = -(-self.shape[0] // _LOOKS)
        looked = range(0, self.shape[0], step)
        shared = np.array([self._shared(z) for z in looked])
        smooth = np.convolve(np.pad(shared, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
        there = np.flatnonzero(smooth > _SHOWS * np.quantile(smooth, 0.9))
        if smooth.max() <= 0:
            return 0, self.shape[0]
        return looked[int(there[0])], min(self.shape[0], looked[int(there[-1])] + step)

    def _shared(self, z: int) -> float:
        """What the halves have in common in a section, in squares of the spread."""
        _, height, width = self.shape
        (first, second), _ = self.cut((slice(z, z + 1), middle(height, _WIDE), middle(width, _WIDE)))
        one, other = (F.avg_pool2d(each[0].clamp(-_BOUND, _BOUND), _BIN) for each in (first, second))
        return float(((one - one.mean()) * (other - other.mean())).mean())


def _digest(data: NDArray[Any]) -> str:
    """8 hexadecimal digits of a volume's content: of the rows that its scale is told from, which are read anyhow."""
    depth, height, width = data.shape
    digest = hashlib.blake2b(f"{data.shape}".encode(), digest_size=4)
    for number in sampled_rows((depth, height, width)):
        digest.update(native(data[divmod(int(number), height)]).tobytes())
        release(data)
    return digest.hexdigest()


def _mask_beside(job: Job, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Where a user says that a tomogram shows specimen: TOMOGRAM_mask.mrc, beside its halves or above their folders.

    Raises:
        CryodenError: it is of another shape.
    """
    folder = job.inputs[0].parent
    for each in (folder, folder.parent) if half_folder(folder) is not None else (folder,):
        path = each / f"{bare_name(Path(job.name))}_mask.mrc"
        if path.is_file():
            mask = open_volume(path).data
            if mask.shape != shape:
                given, wanted = ((s[0], s[1], s[2]) for s in (mask.shape, shape))
                raise CryodenError(
                    f"{path}: {tell(given)} voxels (x, y, z), and the halves have {tell(wanted)}: make it of the same "
                    "size, above 0 where there is specimen, or give it another name"
                )
            return mask
    return None


class HalvesDataset:
    """Boxes from halves; which half is given and which is compared with is drawn.

    Args:
        tomograms: what to cut from.
        boxes: items of an epoch, shared by the tomograms.
        box: voxels along each side.
        seed: of where boxes are cut.
    """

    def __init__(self, tomograms: Sequence[HalfTomogram], boxes: int, box: int, seed: int) -> None:
        self.tomograms = tomograms
        self.boxes = boxes
        self.box = box
        self.seed = seed

    def __len__(self) -> int:
        return self.boxes

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        generator = item_generator((self.seed,), epoch, index)
        number = (epoch * self.boxes + index) % len(self.tomograms)
        tomogram = self.tomograms[number]
        least, halves = math.inf, []
        for _ in range(_TRIES):
            cut, shows_nothing = tomogram.cut(self._place(tomogram, generator))
            empty = float(shows_nothing.float().mean())
            if empty < least:
                least, halves = empty, cut
            if least <= _EMPTY:
                break
        if torch.rand((), generator=generator) < 0.5:
            halves.reverse()
        return {
            "given": halves[0],
            "other": halves[1],
            "measured": tomogram.measured(self.box),
            "tomogram": number,
            "entry": tomogram.name,
        }

    def _place(self, tomogram: HalfTomogram, generator: torch.Generator) -> tuple[slice, ...]:
        """Where specimen is, and something is to be learnt."""
        depth, _, width = tomogram.shape
        first, end = tomogram.sections
        more = max(0, self.box - (end - first))
        first = min(max(0, first - more // 2), depth - self.box)
        end = max(end, first + self.box)
        rooms = ((first, end), (0, tomogram.held_out), (0, width))
        corners = [low + int(torch.randint(high - low - self.box + 1, (), generator=generator)) for low, high in rooms]
        return tuple(slice(corner, corner + self.box) for corner in corners)


class HalvesDataModule(LightningDataModule):
    """Half tomograms, to learn from without a truth, and simulated boxes of the same voxel size, whose truth is known.

    Halves are mapped, and boxes read as they are needed: memory does not grow with the tomograms. From the last fourth
    of each along the tilt axis, 48 to 96 voxels, nothing is learnt: these judge, of at most 12 tomograms. Where
    there is a TOMOGRAM_mask.mrc beside the halves, above 0 where there is specimen, both happens there.

    Args:
        inputs: files, folders or 'patterns*' of half tomograms, which are paired by name (_EVN/_ODD, _half1/_half2,
            even/ and odd/); or one RELION 5 tomograms.star.
        tilt_range: degrees, [-60, 60], or a file that tells them; null: of each tomogram what lies beside it or the
            star file names. Of one of which nothing is told, nothing is taken to be missing.
        voxel_size: angstrom, where headers have none or a wrong one.
        contrast: what protein looks like; auto tells from the voxels.
        box: voxels along each side of what the network sees, an even number.
        boxes: cut from all tomograms in an epoch.
        batch_size: boxes of tomograms in a batch.
        simulated_batch_size: simulated boxes in a batch; 0: none.
        scenes: simulated tomograms of the preset "realistic", a fourth of which only judge.
        entries: what is in them.
        cache: a folder in which they are kept; null: they are made anew each time.
        num_workers: processes that make them; by default one fewer than there are cores, at most 8.
        seed: of everything random here.
    """

    def __init__(
        self,
        inputs: list[str],
        *,
        tilt_range: tuple[float, float] | str | None = None,
        voxel_size: float | None = None,
        contrast: Literal["auto", "bright", "dark"] = "auto",
        box: int = 48,
        boxes: int = 150,
        batch_size: int = 3,
        simulated_batch_size: int = 1,
        scenes: int = 8,
        entries: list[str] = list(_PHANTOMS),  # noqa: B006 - never changed; shown in the CLI's help
        cache: str | None = None,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_above_zero(box=box, boxes=boxes, batch_size=batch_size)
        check_seeds(seed=seed)
        if voxel_size is not None:
            check_length("voxel_size", voxel_size)
        if box % 2:
            raise CryodenError(f"box: got {box}; it must be even")
        if simulated_batch_size:
            check_above_zero(simulated_batch_size=simulated_batch_size, scenes=scenes)
        self.inputs = inputs
        self.tilt_range = tilt_range
        self.given_size = voxel_size
        self.contrast: Literal["auto", "bright", "dark"] = contrast
        self.box = box
        self.boxes = boxes
        self.batch_size = batch_size
        self.seed = seed
        self.simulated_batch_size = simulated_batch_size
        self.scenes = scenes
        self.entries = entries
        self.cache = cache
        self.num_workers = num_workers
        self.tomograms: list[HalfTomogram] = []
        self.beside: SceneDataModule | None = None
        self.voxel_size = voxel_size or 0.0

    def prepare_data(self) -> None:
        """Download what the simulated tomograms hold and is missing, once per machine."""
        if self.simulated_batch_size:
            fetch([entry for entry in self.entries if is_archive_entry(entry)])

    def setup(self, stage: str | None = None) -> None:
        """Look at the tomograms, and make simulated ones.

        Raises:
            CryodenError: there are no halves, one cannot be used, or they differ in voxel size.
        """
        self.look()
        if self.simulated_batch_size and self.beside is None:
            self.beside = self._scenes(self.voxel_size)

    def look(self) -> None:
        """The part of `setup` that tells what there is to learn from.

        Raises:
            CryodenError: as `setup`.
        """
        if self.tomograms:
            return
        tilts = self.tilt_range
        stated = read_tilts(tilts) if isinstance(tilts, str) else TiltRange(*tilts).check() if tilts else None
        tomograms = [HalfTomogram.of(job, stated, self.contrast) for job in named_apart(find_halves(self.inputs))]
        sizes = {each.name: self.given_size or each.voxel_size for each in tomograms}
        first, *others = sizes.items()
        if not first[1] > 0:
            raise CryodenError(f"{first[0]}: its header has no voxel size; state it with voxel_size, in Å")
        for name, size in others:
            if abs(size - first[1]) > _SAME_SIZE * first[1]:
                raise CryodenError(
                    f"{first[0]} and {name}: voxels of {first[1]:.4g} and {size:.4g} Å; a network learns one "
                    "voxel size: give them apart, or voxel_size if a header is wrong"
                )
        for each in tomograms:
            depth, height, width = each.shape
            learnt = (depth, each.held_out, width)
            if min(learnt) < self.box:
                raise CryodenError(
                    f"{each.name}: of its {tell((depth, height, width))} voxels (x, y, z) {tell(learnt)} are learnt "
                    f"from, the rest judges, and no box of {self.box} fits: give a smaller box"
                )
        self.voxel_size = first[1]
        self.tomograms = tomograms

    def _scenes(self, voxel_size: float) -> SceneDataModule:
        """Simulated tomograms, made."""
        shape = max(self.box, _SCENE[0]), max(self.box, _SCENE[1]), max(self.box, _SCENE[2])
        scenes = SceneDataModule(
            preset="realistic",
            entries=self.entries,
            scenes=self.scenes,
            val_fraction=_JUDGING,
            shape=shape,
            crops=-(-self._batches * self.simulated_batch_size // max(1, self.scenes - round(_JUDGING * self.scenes))),
            voxel_size=voxel_size,
            resolution=2 * voxel_size,
            box=self.box,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            cache=self.cache,
            seed=self.seed,
        )
        scenes.trainer = self.trainer
        scenes.setup()
        return scenes

    @property
    def _batches(self) -> int:
        """In an epoch."""
        return -(-self.boxes // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: which tomograms it learnt of, in order."""
        return {"tomograms": [each.name for each in self.tomograms], "told": [each.told for each in self.tomograms]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same ones.

        Raises:
            CryodenError: they are others.
        """
        told, own = state_dict["tomograms"], self.state_dict()["tomograms"]
        if told != own:
            raise CryodenError(
                f"the checkpoint learnt of {len(told)} tomograms ({', '.join(told)[:200]}), and there are {len(own)} "
                f"({', '.join(own)[:200]}): give the same, or begin anew"
            )
        for each, before in zip(self.tomograms, state_dict.get("told", ()), strict=False):  # older ones have names only
            if before != each.told:
                raise CryodenError(
                    f"{each.name}: the checkpoint learnt of {before}, and there are {each.told}: give the same, or "
                    "begin anew"
                )

    def train_dataloader(self) -> dict[str, DataLoader[Any]]:
        """Boxes of halves, and simulated ones; a batch of each is a `cryoden.batch.TuningBatch`."""
        boxes = HalvesDataset(self.tomograms, self._batches * self.batch_size, self.box, self.seed)
        loaders: dict[str, DataLoader[Any]] = {"halves": self._loader(boxes, self.batch_size, default_collate)}
        if self.beside is not None:
            simulated = _Spread(
                self.beside.training_volumes(), self._batches * self.simulated_batch_size, self.beside.crops
            )
            loaders["simulated"] = self._loader(simulated, self.simulated_batch_size, collate)
        return loaders

    def judged(self) -> list[HeldOut]:
        """What nothing is learnt from, of at most 12 tomograms."""
        step = -(-len(self.tomograms) // _JUDGED)
        return [each.judged(self.voxel_size) for each in self.tomograms[::step]]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """What judges: a part of each tomogram, and simulated boxes."""
        judged: Any = self.judged()
        loaders: list[DataLoader[Any]] = [DataLoader(judged, batch_size=None)]
        return loaders if self.beside is None else [*loaders, self.beside.val_dataloader()]

    def _loader(self, dataset: Keyed, batch_size: int, collate_fn: Callable[..., Any]) -> ResumableLoader:
        trainer = self.trainer
        rank, processes = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        sampler = EpochSampler(dataset, shuffle=True, seed=self.seed, rank=rank, world_size=processes)
        taken = (lambda: trainer.num_training_batches) if trainer else None
        return ResumableLoader(dataset, sampler, batch_size, taken, collate_fn=collate_fn)


class _Spread:
    """Some of the boxes that are cut from scenes, evenly from all of these.

    Args:
        volumes: boxes, those of one scene after those of another.
        count: how many.
        crops: boxes of each scene.
    """

    def __init__(self, volumes: VolumeDataset, count: int, crops: int) -> None:
        self.volumes = volumes
        self.count = count
        self.crops = crops

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: Key) -> Item:
        scenes = len(self.volumes) // self.crops
        return self.volumes[key[0], key[1] % scenes * self.crops + key[1] // scenes]
