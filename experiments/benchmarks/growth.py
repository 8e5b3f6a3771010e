"""Cost as the work grows: one CSV and a plot for each of box, batch, particles, tomogram, workers and processes.

Each point runs in a new process, on one thread; seconds are of CPU, but for the volumes a second of workers and
processes. Memory is what the work adds to the most that the process held before. Training is one step, in bfloat16
where the CPU has it.
"""

import argparse
import csv
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from timing import hardware

from cryoden import CompactUnetAE, Denoiser, ParticleDataModule, Volume, write_volume
from cryoden.hardware import choose_precision
from cryoden.inference.denoise import denoise_file
from cryoden.networks.base import DenoisingNetwork
from cryoden.networks.compact_unet import CompactUnet
from cryoden.networks.upsample_unet import UpsampleUnet

Point = tuple[float, float]
"""Seconds (or a rate), and MB."""

NETWORKS: dict[str, Callable[[], DenoisingNetwork]] = {
    "CompactUnet": CompactUnet,
    "UpsampleUnet, 8 channels": lambda: UpsampleUnet(channels=8),
}


def megabytes() -> float:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(work: Callable[[], object]) -> Point:
    """CPU seconds of some work, and the memory it adds."""
    before, started = megabytes(), time.process_time()
    work()
    return time.process_time() - started, megabytes() - before


def train(name: str, box: int, batch: int) -> Point:
    """A training step but for the optimizer, after one to warm up: its seconds, and the memory of both."""
    network = NETWORKS[name]()
    volumes, clean = torch.rand(2, batch, 1, box, box, box)
    half = choose_precision(torch.device("cpu")) == torch.bfloat16

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            denoised = network(volumes)
        F.mse_loss(denoised.float(), clean).backward()

    first = measured(step)
    second = measured(step)
    return second[0], first[1] + second[1]


def box(name: str, size: int) -> Point:
    """A step on one volume."""
    return train(name, size, 1)


def batch(name: str, size: int) -> Point:
    """A step on volumes of 64^3."""
    return train(name, 64, size)


def particles(name: str, count: int) -> Point:
    """Setting up a data module of so many phantoms, and the first batch."""
    entries = [f"phantom:{seed}" for seed in range(count)]
    data = ParticleDataModule(entries=entries, copies=10, box=96, num_workers=0)

    def work() -> None:
        data.setup()
        next(iter(data.train_dataloader()))

    return measured(work)


def tomogram(name: str, side: int) -> Point:
    """Denoising a file of 64 x side x side voxels."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.mrc"
        noise = np.random.default_rng(0).normal(size=(64, side, side)).astype(np.float32)
        write_volume(source, Volume(noise, 10.0))
        model = Denoiser(NETWORKS[name]())
        return measured(lambda: denoise_file(source, Path(folder) / "out.mrc", model, contrast="bright"))


def workers(name: str, count: int) -> Point:
    """Clean volumes a second that so many workers deliver, and this process's memory."""
    data = ParticleDataModule(entries=["phantom:0"], copies=400, num_workers=count)
    data.setup()
    before = megabytes()
    batches = iter(data.train_dataloader())
    next(batches)
    started = time.perf_counter()
    volumes = sum(len(each["clean"]) for each in batches)
    return volumes / (time.perf_counter() - started), megabytes() - before


class Clock(Callback):
    """Writes what the second epoch's training takes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it again."""
        if trainer.is_global_zero:
            self.path.write_text(str(time.perf_counter() - self.started), encoding="utf-8")


def processes(name: str, count: int) -> Point:
    """Volumes of 48^3 a second on which so many processes train together, and the first one's memory."""
    data = ParticleDataModule(
        entries=["phantom:0"], copies=120, box=48, voxel_size=10, resolution=20, num_workers=0, batch_size=2
    )
    before = megabytes()
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(Path(folder) / "seconds")
        trainer = Trainer(
            accelerator="cpu",
            devices=count,
            strategy="ddp_spawn" if count > 1 else "auto",
            max_epochs=2,
            limit_val_batches=0,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(CompactUnetAE(), data)
        return len(data.training_volumes()) / float(clock.path.read_text(encoding="utf-8")), megabytes() - before


# kind → what does it, for which lines, at which sizes, the sizes' name, what is measured
KINDS: dict[str, tuple[Callable[[str, int], Point], Sequence[str], Sequence[int], str, str]] = {
    "box": (box, list(NETWORKS), (32, 48, 64, 96, 128), "box, voxels along a side", "s of CPU a step"),
    "batch": (batch, list(NETWORKS), (1, 2, 4, 8), "volumes in a batch of 64$^3$", "s of CPU a step"),
    "particles": (particles, ["phantoms"], (1, 2, 4, 8, 16), "particles", "s of CPU to set up"),
    "tomogram": (
        tomogram,
        ["UpsampleUnet, 8 channels"],
        (64, 128, 256, 512),
        "tomogram of 64 voxels by this squared",
        "s of CPU to denoise",
    ),
    "workers": (workers, ["one phantom"], (0, 1, 2), "worker processes", "clean volumes a second"),
    "processes": (processes, ["CompactUnet"], (1, 2), "processes that train together", "volumes a second"),
}


def plot(kind: str, rows: Sequence[dict[str, str | float]], target: Path) -> None:
    """Seconds and memory against size; a grey line shows what grows as the work does."""
    _, names, _, label, unit = KINDS[kind]
    sizes = list(dict.fromkeys(int(row["size"]) for row in rows))
    figure, panels = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for panel, column, title in zip(panels, ("value", "memory_mb"), (unit, "MB added"), strict=True):
        for name in names:
            points = [(float(row["size"]), float(row[column])) for row in rows if row["line"] == name]
            panel.plot(*zip(*points, strict=True), "o-", label=name)
        panel.set(xlabel=label, ylabel=title)
        if kind in ("box", "batch", "tomogram"):
            power = {"box": 3, "batch": 1, "tomogram": 2}[kind]
            if column == "value":
                last = float(next(r for r in reversed(rows) if r["line"] == names[0])[column])
                scale = [last * (size / sizes[-1]) ** power for size in sizes]
                panel.plot(sizes, scale, ":", color="gray", label="as the voxels")
                panel.set_yscale("log", base=2)
                panel.yaxis.set_major_formatter("{x:.3g}")
            panel.set_xscale("log", base=2)
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
        else:
            panel.set_xticks(sizes)
        if column != "value" or kind in ("workers", "processes"):
            panel.set_ylim(bottom=0)
    panels[1].legend(fontsize=8, loc="upper left")
    figure.savefig(target, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, write growth.csv and the plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--points", type=int, default=5, help="of each line, from the smallest size")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    arguments.output.mkdir(parents=True, exist_ok=True)
    print(hardware())
    for kind in arguments.kinds:
        _, names, sizes, *_ = KINDS[kind]
        rows: list[dict[str, str | float]] = []
        for name in names:
            for size in sizes[: arguments.points]:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    value, memory = pool.submit(_alone, kind, name, size).result()
                rows.append({"line": name, "size": size, "value": round(value, 4), "memory_mb": round(memory)})
                print(*rows[-1].values(), flush=True)
        with (arguments.output / f"growth_{kind}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        plot(kind, rows, arguments.output / f"growth_{kind}.png")


def _alone(kind: str, name: str, size: int) -> Point:
    """A point, in a process of its own."""
    torch.set_num_threads(1)
    return KINDS[kind][0](name, size)


if __name__ == "__main__":
    main()
