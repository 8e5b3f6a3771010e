import sys
from pathlib import Path

import pytest

from cryoden.checkpoint import export_weights
from cryoden.cli import main
from cryoden.data import ParticleDataModule
from cryoden.modules.recipes import CompactUnetAE, SimpleAE

DATA = [
    "--data=ParticleDataModule",
    "--data.entries=[phantom:1,phantom:2]",
    "--data.copies=8",
    "--data.val_fraction=0.25",
    "--data.box=32",
    "--data.voxel_size=10",
    "--data.resolution=20",
    "--data.batch_size=2",
    "--data.num_workers=0",
]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of SimpleAE as `cryoden fit` leaves it, and weights of two networks that never learnt."""
    folder = tmp_path_factory.mktemp("runs")
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}", "--trainer.logger.name=simple"]
    words = [
        *("fit", "--model=SimpleAE", "--model.channels=2", "--model.warmup_steps=1", *DATA, *logger),
        *("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cryoden", *words])
        main()
    export_weights(CompactUnetAE(channels=4, levels=2), folder / "compact.safetensors")
    export_weights(SimpleAE(channels=1), folder / "small.safetensors")
    return folder


@pytest.fixture(scope="session")
def comparison(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cryoden compare` writes of them, with one model that is none."""
    output = tmp_path_factory.mktemp("comparison") / "out"
    (runs / "broken.ckpt").write_bytes(b"not a checkpoint")
    models = [runs / "simple" / "version_0", runs / "compact.safetensors", runs / "broken.ckpt", runs / "nowhere"]
    main(["compare", *map(str, models), "--output", str(output), "--volumes", "3"])
    return output


@pytest.fixture(scope="session")
def module() -> ParticleDataModule:
    """The same data, to be asked in Python."""
    made = ParticleDataModule(
        entries=["phantom:1", "phantom:2"],
        copies=8,
        val_fraction=0.25,
        box=32,
        voxel_size=10.0,
        resolution=20.0,
        batch_size=2,
        num_workers=0,
    )
    made.setup()
    return made
