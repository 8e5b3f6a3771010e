"""A step of UpsampleUnetGAN under Lightning against the sum of its networks' own passes, in turns."""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from timing import hardware
from torch import Tensor
from torch.utils.data import DataLoader

from cryoden import UpsampleUnetGAN


class Turns(Callback):
    """Times each step and then, apart, every pass that the algorithm needs on the same batch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.steps: list[float] = []
        self.passes: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, model: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self.started = self.clock()

    def on_train_batch_end(
        self, trainer: Trainer, model: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop it; then the passes."""
        self.steps.append(self.clock() - self.started)
        generator, discriminator = model.generator, model.discriminator
        degraded, clean = batch["degraded"], batch["clean"]
        candidate = clean.clone().requires_grad_()

        def generate() -> None:
            generator(degraded).square().mean().backward()

        def judge(volumes: Tensor) -> None:
            discriminator(degraded, volumes).mean().backward()

        started = self.clock()
        generate()
        judge(clean)
        judge(clean)
        discriminator.requires_grad_(False)
        judge(candidate)
        self.passes.append(self.clock() - started)
        discriminator.requires_grad_(True)
        model.zero_grad()


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cpu_time", action="store_true", help="count CPU seconds: for one thread on a busy machine")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    clean = torch.rand(arguments.batch, 1, *[arguments.box] * 3)
    batch = {"clean": clean, "degraded": clean + torch.randn_like(clean)}
    turns = Turns(time.process_time if arguments.cpu_time else time.perf_counter)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[turns],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = DataLoader([batch] * (arguments.runs + 1), batch_size=None)
    trainer.fit(UpsampleUnetGAN(channels=arguments.channels, box=arguments.box), batches)
    step, passes = (statistics.median(seconds[1:]) for seconds in (turns.steps, turns.passes))
    print(hardware(), f"{arguments.channels} channels, batch of {arguments.batch} at {arguments.box}^3", sep="\n")
    print(f"step {step:.3f} s, passes {passes:.3f} s: overhead {100 * (step / passes - 1):.1f} %")


if __name__ == "__main__":
    main()
