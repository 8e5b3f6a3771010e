"""The SHREC data sets of simulated cryo-electron tomograms, for Lightning."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from cryoden.batch import Specimen
from cryoden.data.dataset import VolumeDataset
from cryoden.data.pairs import Pair, PairDataModule, Part, cut_pair, items_of, part_of
from cryoden.errors import CryodenError
from cryoden.simulation.degradation import Degradation
from cryoden.simulation.scene import Placement, placements_within
from cryoden.simulation.tables import read_shrec_table

_RECONSTRUCTION, _TABLE = "reconstruction.mrc", "particle_locations.txt"
_GRANDMODELS = ("grandmodel_noisefree.mrc", "grandmodel.mrc")  # 2020 has both, and the first is the density
_BRIGHTER = 1.2  # times: so much brighter must another place be than where a table says that its particles are
_THICK = 5  # sections over which brightness is averaged


class ShrecDataset(VolumeDataset):
    """Boxes around particles, one at a random place in each box; `placements` are all those with their centre in it.

    Args:
        pairs: tomograms with their ground truth.
        tables: what is where in each.
        boxes: items per tomogram, see `items_of`.
        box: voxels along each side.
        kwargs: see VolumeDataset.
    """

    def __init__(self, pairs: list[Pair], tables: list[list[Placement]], boxes: int, box: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pairs = pairs
        self.tables = tables
        self.items = items_of(pairs, boxes, box)
        self.box = box

    def __len__(self) -> int:
        return len(self.items)

    def make(self, index: int, generator: torch.Generator) -> Specimen:
        """Cut a box with the centre of a particle in its inner half."""
        number = self.items[index]
        pair, table = self.pairs[number], self.tables[number]
        chosen = table[int(torch.randint(len(table), (), generator=generator))]
        away = torch.randint(self.box // 4, self.box - self.box // 4, (3,), generator=generator).numpy()
        corner = np.clip(np.rint(chosen.position).astype(np.int64) - away, 0, np.array(pair.clean.shape) - self.box)
        part = tuple(slice(c, c + self.box) for c in corner.tolist())
        return {**cut_pair(pair, part), "entry": chosen.particle, "placements": placements_within(table, part)}


class ShrecDataModule(PairDataModule):
    """Boxes around the particles of SHREC's cryo-electron tomograms of 2020 or 2021, with their ground truth.

    A batch also has `placements`; `entry` is the class of the particle that a box was cut around, as the table calls
    it. Reconstructions and models may be whole
    (512 sections) or the slab alone, in any combination. Particles, dark in the reconstructions, are made bright.

    Args:
        folder: where model_0, model_1 and so on are, each with reconstruction.mrc, particle_locations.txt, and
            grandmodel.mrc or (2020) grandmodel_noisefree.mrc.
        tilt_range: (min, max) in degrees of the tilt series, about y; null for no missing wedge.
        kwargs: see PairDataModule.
    """

    def __init__(self, folder: str, *, tilt_range: tuple[float, float] | None = (-60.0, 60.0), **kwargs: Any) -> None:
        super().__init__(folder, tilt_range=tilt_range, **kwargs)
        self.tables: dict[str, list[Placement]] = {}

    @property
    def experiment(self) -> str | None:
        """See VolumeDataModule."""
        return "realistic" if self.box == 64 else None

    def _find(self) -> dict[str, tuple[Path, Path]]:
        """The models of the folder: name → (reconstruction, model), all their files there."""
        return find_models(self.folder)

    def _read(self, name: str, degraded: Path, clean: Path) -> Pair:
        """Read a tomogram and its table, and cut both to the sections that show something."""
        pair = super()._read(name, degraded, clean)
        table = read_shrec_table(degraded.with_name(_TABLE))
        table = find_in(pair.clean, table, degraded.with_name(_TABLE))
        shows = np.flatnonzero(np.ptp(pair.clean, axis=(1, 2)) > 0)
        first, end = int(shows[0]), int(shows[-1]) + 1
        end = min(max(end, first + self.box), pair.clean.shape[0])
        first = max(0, min(first, end - self.box))
        self.tables[name] = [p._replace(position=p.position - np.array([first, 0, 0])) for p in table]
        return replace(pair, degraded=pair.degraded[first:end].copy(), clean=pair.clean[first:end].copy())

    def _shows(self, name: str, part: Part) -> bool:
        return bool(placements_within(self.tables[name], part))

    def _volumes(self, split: int, degradation: Sequence[Degradation]) -> VolumeDataset:
        shares = self.shares[split].items()
        pairs = [part_of(self.pairs[name], part) for name, part in shares]
        tables = [placements_within(self.tables[name], part) for name, part in shares]
        return ShrecDataset(pairs, tables, self.boxes, self.box, **self._settings(split))


def find_models(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The tomograms of a SHREC data set: name → (reconstruction, model).

    Raises:
        CryodenError: there are none, or one lacks a file.
    """
    models = sorted(
        (path for path in folder.glob("model_*") if path.is_dir()), key=lambda path: (len(path.name), path.name)
    )
    if not models:
        raise CryodenError(
            f"folder {folder}: no SHREC data set; it has folders model_0, model_1 ..., each with {_RECONSTRUCTION}, "
            f"{_GRANDMODELS[-1]} and {_TABLE}"
        )
    found = {}
    for model in models:
        clean = next((path for name in _GRANDMODELS if (path := model / name).is_file()), model / _GRANDMODELS[-1])
        for path in (model / _RECONSTRUCTION, clean, model / _TABLE):
            if not path.is_file():
                raise CryodenError(f"{model.name}: there is no {path}; add it, or take the model out of the folder")
        found[model.name] = model / _RECONSTRUCTION, clean
    return found


def find_in(clean: NDArray[np.float32], table: list[Placement], path: Path) -> list[Placement]:
    """A table's particles with z counted as in a volume, be it the slab or more.

    Some tables count z from the first section of the slab, others from that of a thicker reconstruction. It is found by
    where the particles are brightest on average; as the table says, unless another place is clearly brighter.

    Args:
        clean: (D, H, W), bright, median 0.
        table: what should be in it.
        path: of the table, for errors.

    Raises:
        CryodenError: particles are outside of the volume, or it is not bright where they are.
    """
    z, y, x = np.rint([placement.position for placement in table]).astype(np.int64).T
    depth, height, width = clean.shape
    shifts = np.arange(-z.min(), depth - z.max())
    if len(shifts) == 0 or min(y.min(), x.min()) < 0 or y.max() >= height or x.max() >= width:
        raise CryodenError(
            f"{path}: it has particles outside of the model of {depth} × {height} × {width} voxels (z, y, x); the "
            "table and the model belong to different tomograms"
        )
    # Over some sections, since a particle may be hollow.
    profile = uniform_filter1d(np.array([clean[z + shift, y, x].mean() for shift in shifts]), _THICK, mode="nearest")
    best = int(shifts[np.argmax(profile)])
    if 0 in shifts and profile[shifts == 0][0] * _BRIGHTER >= profile.max():
        best = 0
    if profile.max() < _BRIGHTER * float(clean.mean()):
        raise CryodenError(
            f"{path}: the model is not bright where its particles should be; the table and the model belong to "
            "different tomograms"
        )
    return [placement._replace(position=placement.position + np.array([best, 0, 0])) for placement in table]
