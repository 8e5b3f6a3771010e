"""Train a model that comes with cryoden, from nothing, for as many minutes as there are.

    python experiments/models/train.py experiments/models/cryoden-10A.yaml --minutes 10 --out DIR
    python experiments/models/release.py cryoden-10A DIR/last.ckpt

The file says what is trained on what; --structures and --maps are the folders where that is, as far as it is not to be
fetched. Scenes of the preset `realistic` are made by all cores but one and kept in DIR/scenes, while the network
already learns from those that are there. A scene is imaged over and over, on the device, each time by another
microscope, and gives a few boxes before another takes its turn: no network sees the same noise twice. Whatever ends the
training, the same command goes on with it: the minutes count what was trained.

In nine minutes an H100 learns from 64,000 boxes, and the error still falls. A core of a CPU takes 2.4 seconds a box (an
AMD EPYC, bfloat16; --batch-size 1): a night for 12,000.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from cryoden import CompactUnetAE
from cryoden.batch import Batch
from cryoden.callbacks import best_precision
from cryoden.data.dataset import collate, item_generator, random_box
from cryoden.hardware import choose_device, keep_freed_memory
from cryoden.particles import Particle, load_particle
from cryoden.simulation.degradation import measured_by_all
from cryoden.simulation.presets import PRESETS
from cryoden.simulation.ranges import Range, WholeRange
from cryoden.simulation.scene import Scene
from cryoden.simulation.tilt_series import TiltScheme, TiltSeriesDegradation
from cryoden.simulation.units import BRIGHTEST

VALIDATION = 6  # scenes that nothing is learnt from
LEAST = 4  # scenes with which learning begins
POOL = 48  # tomograms that boxes are cut from at a time
COARSE = 8  # voxels between the places in which boxes that show something are looked for
COOLING = 0.35  # share of the minutes at the end, over which the learning rate falls to nothing
WARMING = 200  # steps


@dataclass(frozen=True)
class Recipe:
    """What a model is trained on.

    Args:
        entries: structures and phantoms, as `load_particle` takes them.
        maps: files of density maps, and their masses in kDa.
        voxel_size: Å.
        channels: of the network at full resolution.
        refinements: of the network, see `CompactUnet`.
        occupancy: of the particles in a scene.
        microtubules: in a scene.
        shape: (z, y, x), voxels of a scene.
        box: voxels along each side of what the network sees.
        boxes: that a tomogram gives before another takes its place.
        usual: share of the tomograms from a good microscope on a thin specimen, the rest from any of the preset's.
        empty: share of the tomograms without the background: of purified particles.
        scenes: how many.
        optimizer: see `CompactUnetAE`.
        learning_rate: of it.
        average: of the weights, exponential, from step to step.
        loss: see `CompactUnetAE`.
    """

    entries: list[str]
    voxel_size: float
    maps: dict[str, float] = field(default_factory=dict)
    channels: int = 32
    refinements: int = 1
    occupancy: Range = (0.005, 0.15)
    microtubules: WholeRange = (0, 2)
    shape: tuple[int, int, int] = (96, 192, 192)
    box: int = 80
    boxes: int = 48
    usual: float = 0.5
    empty: float = 0.3
    scenes: int = 400
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 1.0e-3
    average: float = 0.999
    loss: dict[str, float] = field(default_factory=lambda: {"mse": 1.0})

    def scene(self, structures: Path | None, maps: Path) -> Scene:
        """What is imaged."""
        particles: list[Particle] = [load_particle(entry, structure_dir=structures) for entry in self.entries]
        particles += [load_particle(f"{maps / name}:{mass:g}") for name, mass in self.maps.items()]
        preset = PRESETS["realistic"](self.voxel_size, self.shape)
        contents = replace(preset.contents, occupancy=self.occupancy, microtubules=self.microtubules)
        return Scene(self.shape, self.voxel_size, 2 * self.voxel_size, particles, contents)

    @cached_property
    def microscopes(self) -> tuple[TiltSeriesDegradation, TiltSeriesDegradation]:
        """Usual ones, and any."""
        preset = PRESETS["realistic"](self.voxel_size, self.shape).degradation
        usual = replace(
            preset,
            scheme=TiltScheme(((-62.0, -56.0), (56.0, 62.0)), (2.0, 3.0), jitter=0.1),
            optics=replace(preset.optics, defocus=(2.0, 5.0), b_factor=(0.0, 200.0)),
            exposure=replace(preset.exposure, dose=(60.0, 140.0), thickness=(100.0, 250.0)),
            correction="phase_flip",
            sirt_like=(0, 0, 0, 14),
        )
        return usual, replace(preset, colour=(0.0, 1.0))  # somebody may have filtered it


def make_scenes(scene: Scene, folder: Path, numbers: range) -> None:
    """Make those that are missing: (2, D, H, W) float16, what is asked for and what is imaged."""
    torch.set_num_threads(1)
    for number in numbers:
        path = folder / f"{number:05d}.npy"
        if path.exists():
            continue
        made = scene.make(item_generator((0,), 0, number))
        imaged = made.density if made.background is None else made.density + made.background
        partial = path.with_suffix(f".{os.getpid()}.part")
        with partial.open("wb") as file:
            np.save(file, np.stack([made.density, imaged]).astype(np.float16))
        partial.rename(path)


def start_makers(
    recipe: Recipe, structures: Path | None, maps: Path, folder: Path, workers: int
) -> Sequence[BaseProcess]:
    """Processes that make the scenes that are missing."""
    if not workers or all((folder / f"{number:05d}.npy").exists() for number in range(recipe.scenes)):
        return []
    scene = recipe.scene(structures, maps)
    scene._sizes  # noqa: B018 - what all workers need is made once, before they are forked
    context = multiprocessing.get_context("fork")
    makers = [
        context.Process(target=make_scenes, args=(scene, folder, range(first, recipe.scenes, workers)), daemon=True)
        for first in range(workers)
    ]
    for maker in makers:
        maker.start()
    return makers


def imaged(path: Path, recipe: Recipe, generator: torch.Generator, device: torch.device) -> dict[str, Any]:
    """A scene as one microscope shows it: clean and degraded, (1, D, H, W), and what tells how."""
    clean, seen = torch.from_numpy(np.load(path)).to(device).float()[:, None]
    usual, empty = (torch.rand(2, generator=generator) < torch.tensor([recipe.usual, recipe.empty])).tolist()
    step = recipe.microscopes[0 if usual else 1]
    parameters = step.sample(generator)
    degraded = step.apply((clean if empty else seen)[None], [parameters])[0]
    return {"clean": clean.clamp(max=BRIGHTEST), "degraded": degraded, "step": step, "parameters": [parameters]}


class Pool:
    """Batches of boxes without an end, cut from tomograms of which one after the other is replaced.

    Args:
        folder: of the scenes; more may come.
        recipe: of what, and how large.
        batch_size: boxes in a batch.
        device: where tomograms are made and kept.
        seed: of all that is random here.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        batch_size: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.folder, self.recipe, self.batch_size, self.device = folder, recipe, batch_size, device
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        tomograms: list[tuple[Tensor, Tensor]] = []
        scenes: list[Path] = []
        given, made = 0, 0
        while True:
            if len(scenes) < self.recipe.scenes - VALIDATION and given % 50 == 0:
                scenes = sorted(self.folder.glob("*.npy"))[VALIDATION:]
            while made < LEAST or made * self.recipe.boxes < given * self.batch_size:
                new = self._tomogram(scenes[self._draw(len(scenes))])
                if len(tomograms) < POOL:
                    tomograms.append(new)
                else:
                    tomograms[made % POOL] = new
                made += 1
            boxes = [self._box(*tomograms[self._draw(len(tomograms))]) for _ in range(self.batch_size)]
            clean, degraded = torch.stack(boxes).transpose(0, 1)
            given += 1
            yield {"clean": clean, "degraded": degraded}

    def _draw(self, number: int) -> int:
        return int(torch.randint(number, (), generator=self.generator))

    def _tomogram(self, path: Path) -> tuple[Tensor, Tensor]:
        """(2, 1, D, H, W) clean and degraded, and (n, 3) where boxes that show something may begin."""
        it = imaged(path, self.recipe, self.generator, self.device)
        shows = F.max_pool3d((it["clean"] > 0.1).float()[None], COARSE)
        corners = F.max_pool3d(shows, self.recipe.box // COARSE, stride=1)[0, 0].nonzero() * COARSE
        return torch.stack([it["clean"], it["degraded"]]), corners.cpu()

    def _box(self, tomogram: Tensor, corners: Tensor) -> Tensor:
        """(2, 1, box, box, box), turned by half a turn about any axis: the tilt axis stays what it is."""
        box, shape = self.recipe.box, tomogram.shape[2:]
        corner = corners[self._draw(len(corners))].tolist()
        z, y, x = (min(at + self._draw(COARSE), size - box) for at, size in zip(corner, shape, strict=True))
        turned = ((), (2, 3), (2, 4), (3, 4))[self._draw(4)]
        return tomogram[:, :, z : z + box, y : y + box, x : x + box].flip(turned)


def validation(folder: Path, recipe: Recipe, device: torch.device) -> list[Batch]:
    """Boxes that never change, of scenes that nothing is learnt from: one microscope each."""
    batches = []
    for number in range(VALIDATION):
        generator = item_generator((1,), 0, number)
        it = imaged(folder / f"{number:05d}.npy", recipe, generator, device)
        it |= {name: it[name].cpu() for name in ("clean", "degraded")}
        items = []
        for _ in range(4):
            part = (slice(None), *random_box(it["clean"][0].numpy(), recipe.box, generator))
            clean = it["clean"][part].clone()
            measured = measured_by_all([it["step"]], clean[None], [it["parameters"]])[0]
            items.append(
                {"clean": clean, "degraded": it["degraded"][part].clone(), "measured": measured, "entry": "scene"}
                | {"parameters": it["parameters"]}
            )
        batches.append(collate(items))  # type: ignore[arg-type]
    return batches


class Minutes(Callback):
    """The learning rate by the share of the minutes that is over, and the end of the training; a line now and then.

    Args:
        minutes: of training, over all its parts.
        learning_rate: the highest.
    """

    def __init__(self, minutes: float, learning_rate: float) -> None:
        self.minutes, self.learning_rate = minutes, learning_rate
        self.before = 0.0  # minutes, of parts that are over
        self.began = time.monotonic()

    @property
    def over(self) -> float:
        """Minutes trained."""
        return self.before + (time.monotonic() - self.began) / 60

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.began = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rate of this step."""
        left = 1 - self.over / self.minutes
        share = min(1.0, (trainer.global_step + 1) / WARMING, max(0.0, left) / COOLING)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.learning_rate * share
        trainer.should_stop |= left <= 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell where things stand."""
        told = ", ".join(f"{name} {float(trainer.callback_metrics[f'val/{name}']):.3f}" for name in ("nrmse", "ssim"))
        print(f"{self.over:6.1f} min, step {trainer.global_step}: {told}", flush=True)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"minutes": self.over}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from there."""
        self.before = state["minutes"]


def main() -> None:
    """Make scenes and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--structures", type=Path, help="folder of the entries' files; others are downloaded")
    parser.add_argument("--maps", type=Path, help="folder of the density maps; without it none is used")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="makers of scenes")
    parser.add_argument("--scenes", type=int, help="how many; by default what the recipe says")
    parser.add_argument("--begin-with", help="weights of the same network, instead of random ones")
    parser.add_argument("--every", type=float, default=1.0, help="minutes between scores and checkpoints")
    arguments = parser.parse_args()
    recipe = Recipe(**yaml.safe_load(arguments.recipe.read_text(encoding="utf-8")))
    recipe = replace(recipe, scenes=arguments.scenes or recipe.scenes, maps=recipe.maps if arguments.maps else {})
    if recipe.scenes < VALIDATION + LEAST:
        raise SystemExit(f"scenes: got {recipe.scenes}; allowed are {VALIDATION + LEAST} and more")
    seed_everything(0)
    folder = arguments.out / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    makers = start_makers(recipe, arguments.structures, arguments.maps or Path(), folder, arguments.workers)
    if not makers:
        print(f"learns from scenes in {folder}, which others make, or made", flush=True)
    first_scenes = [folder / f"{number:05d}.npy" for number in range(VALIDATION + LEAST)]
    while not all(path.exists() for path in first_scenes):
        if makers and not any(maker.is_alive() for maker in makers):
            raise SystemExit("no scenes were made")
        time.sleep(0.5)

    keep_freed_memory()
    device, why = choose_device()
    print(f"on {why}; {sum(1 for _ in folder.glob('*.npy'))} scenes are there", flush=True)
    model = CompactUnetAE(
        channels=recipe.channels,
        refinements=recipe.refinements,
        loss=recipe.loss,
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        cosine=False,
        gradient_clip=1.0,
        init_weights=arguments.begin_with,
    )
    model.denoiser.voxel_size = recipe.voxel_size
    last = arguments.out / "last.ckpt"
    seed = int(last.stat().st_mtime) if last.exists() else 0  # what was seen need not be seen again
    every = int(60 * arguments.every)
    trainer = Trainer(
        accelerator="auto",
        precision=best_precision("auto"),
        max_epochs=-1,  # the minutes end it
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=timedelta(seconds=every),
        callbacks=[
            Minutes(arguments.minutes, recipe.learning_rate),
            EMAWeightAveraging(decay=recipe.average),
            ModelCheckpoint(
                arguments.out,
                filename="last",
                enable_version_counter=False,
                train_time_interval=timedelta(seconds=every),
            ),
        ],
    )
    seen: Any = validation(folder, recipe, device)  # a list is a dataset, too
    trainer.fit(
        model,
        Pool(folder, recipe, arguments.batch_size, device, seed),
        DataLoader(seen, batch_size=None),
        ckpt_path=str(last) if last.exists() else None,
        weights_only=True,
    )
    trainer.save_checkpoint(last)


if __name__ == "__main__":
    main()
