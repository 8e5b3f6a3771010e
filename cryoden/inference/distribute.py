"""Tomograms spread over several GPUs, processes or machines by Lightning: each is denoised as if it were alone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader

from cryoden.console import quiet
from cryoden.errors import CryodenError
from cryoden.inference.jobs import Job
from cryoden.inference.runner import Runner

Work = Callable[[Job, torch.device], bool]


class _Passer(LightningModule):
    """Passes each process the numbers of its jobs."""

    def predict_step(self, batch: list[int], batch_idx: int) -> list[int]:
        return batch


class _Writer(BasePredictionWriter):
    """Has the jobs of this process carried out, and counts those that fail."""

    def __init__(self, jobs: Sequence[Job], work: Work) -> None:
        super().__init__("batch")
        self.jobs, self.work = jobs, work
        self.failed = 0

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Any, *_: Any, **__: Any
    ) -> None:
        for number in prediction:
            if number < len(self.jobs):
                self.failed += not self.work(self.jobs[number], trainer.strategy.root_device)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds up the failures of all processes, which also makes each wait for the last."""
        failed = torch.tensor(float(self.failed), device=trainer.strategy.root_device)
        self.failed = int(trainer.strategy.reduce(failed, reduce_op="sum"))


def spread(jobs: Sequence[Job], work: Work, *, accelerator: str, devices: int, nodes: int) -> int:
    """Carries out jobs on several devices; returns in every process, after the last job of all of them.

    Args:
        jobs: Each goes to one process; where there are fewer than processes, the others have nothing to do.
        work: Does a job on a device; tells whether it went well.
        accelerator: "gpu" or "cpu", as Lightning names them.
        devices: On each machine.
        nodes: Machines; the cluster starts a process on each, as for a training.

    Returns:
        How many failed, over all processes.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    writer = _Writer(jobs, work)
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp",
        callbacks=[writer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    numbers = range(max(len(jobs), devices * nodes))  # Lightning wants one for each process: some may be of no job
    loader: DataLoader[int] = DataLoader(numbers, batch_size=1, collate_fn=list)  # type: ignore[arg-type]
    trainer.predict(_Passer(), loader, return_predictions=False)
    return writer.failed


def together(runner: Runner, jobs: Sequence[Job], devices: int, nodes: int) -> int:
    """Denoises all, shared among devices; of each, its lines are printed.

    Args:
        runner: How; its device tells the kind of all.
        jobs: Which.
        devices: GPUs, or processes, of a machine.
        nodes: Machines.

    Returns:
        How many failed.
    """
    quiet()

    def work(job: Job, device: torch.device) -> bool:
        try:
            for line in replace(runner, engine=replace(runner.engine, device=device)).run(job):
                print(line, flush=True)
        except CryodenError as error:
            print(f"cryoden: error: {error}", file=sys.stderr, flush=True)
            return False
        return True

    return spread(
        jobs, work, accelerator="gpu" if runner.engine.device.type == "cuda" else "cpu", devices=devices, nodes=nodes
    )
