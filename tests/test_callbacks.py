"""What a run tells a person about the balance of its players."""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger

from cryoden import (
    CompactUnetAE,
    ParticleDataModule,
    UpsampleUnetAE,
    UpsampleUnetGAN,
    UpsampleUnetWGANGP,
    callbacks,
)
from cryoden.callbacks import Balance, Bar
from cryoden.modules.adversarial import Standing


def told(model, name: str, values: list[float], window: int = 5) -> list[str]:
    """The warnings after batches with these values."""
    balance, trainer = Balance(window), SimpleNamespace(current_epoch=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i, value in enumerate(values):
            model.standing = Standing(name, torch.tensor(value))
            balance.on_train_batch_end(trainer, model, None, None, i)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0] * 5, ["epoch 3, batch 4: the discriminator has won, .* is 1.00.* instance_noise"]),
        ([0.0] * 10, ["batch 4: the discriminator is fooled .* discriminator_learning_rate", "batch 9"]),
        ([0.5] * 20, []),
        ([1.0, 1.0, 1.0, 1.0, 0.8] * 3, []),
        ([1.0] * 4, []),  # not long enough
    ],
)
def test_a_pinned_accuracy_is_told(values: list[float], expected: list[str]) -> None:
    found = told(UpsampleUnetGAN(channels=2, box=16), "discriminator_accuracy", values)
    assert len(found) == len(expected)
    for message, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, message), message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1] * 5 + [0.3] * 5 + [0.5] * 20, 0),
        ([0.001] * 5 + [0.2] * 5 + [0.4] * 5, 0),  # a critic that begins to see
        ([0.1] * 5 + [0.3] * 5 + [4.0] * 5, 1),
        ([0.1] * 10 + [-9.0] * 5 + [-500.0] * 5, 2),
        ([0.1] * 10 + [9.0] * 10, 1),
    ],
)
def test_an_exploding_gap_is_told(values: list[float], expected: int) -> None:
    found = told(UpsampleUnetWGANGP(channels=2, critic_channels=2), "critic_gap", values)
    assert len(found) == expected
    assert all("gap is exploding" in message and "penalty_weight" in message for message in found)


def test_one_player_has_no_balance() -> None:
    assert told(UpsampleUnetAE(channels=2), "anything", [1.0] * 20) == []


BF16, FLOAT32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("accelerator", "native", "expected"),
    [
        ("auto", {"cuda"}, "bf16-mixed"),
        ("gpu", {"cuda"}, "bf16-mixed"),
        ("cuda", {"cuda"}, "bf16-mixed"),
        ("auto", {"cpu"}, "32-true"),  # an old GPU beside a new CPU
        ("cpu", {"cpu"}, "bf16-mixed"),
        ("cpu", {"cuda"}, "32-true"),
        ("tpu", {"cpu", "cuda"}, "32-true"),
        ({"class_path": "CPUAccelerator"}, {"cpu", "cuda"}, "32-true"),
    ],
)
def test_bfloat16_where_the_device_multiplies_it(accelerator, native: set[str], expected: str, monkeypatch) -> None:
    monkeypatch.setattr(callbacks, "choose_device", lambda: (torch.device("cuda"), "a GPU"))
    monkeypatch.setattr(callbacks, "choose_precision", lambda device: BF16 if device.type in native else FLOAT32)
    assert callbacks.best_precision(accelerator) == expected


@pytest.mark.parametrize(
    ("kind", "precision", "dtype", "pattern"),
    [
        ("cpu", "bf16-mixed", BF16, "this CPU multiplies bfloat16.*--trainer.precision 32 turns it off"),
        ("cuda", "bf16-mixed", BF16, "this GPU multiplies"),
        ("cpu", "bf16-mixed", FLOAT32, "only emulates; --trainer.precision 32"),
        ("cpu", "32-true", BF16, "as asked for; this CPU multiplies bfloat16: bf16-mixed"),
        ("cpu", "32-true", FLOAT32, "^32-true$"),
        ("cuda", "16-mixed", BF16, "^16-mixed$"),
    ],
)
def test_the_precision_is_told(kind: str, precision: str, dtype: torch.dtype, pattern: str, monkeypatch) -> None:
    monkeypatch.setattr(callbacks, "choose_precision", lambda device: dtype)
    assert re.search(pattern, callbacks._about_precision(precision, torch.device(kind)))


@pytest.mark.parametrize(
    ("system", "shown"),
    [
        (lambda: CompactUnetAE(channels=2, levels=1), "loss"),
        (lambda: UpsampleUnetGAN(channels=3, box=16, norm="group"), "accuracy"),
        (lambda: UpsampleUnetWGANGP(channels=3, critic_channels=2), "critic_gap"),
    ],
)
def test_the_bar_has_one_number_of_a_short_name(system, shown: str, tmp_path: Path) -> None:
    data = ParticleDataModule(
        entries=["phantom:1"], copies=5, box=16, voxel_size=20, resolution=40, batch_size=2, num_workers=0
    )
    logger = CSVLogger(tmp_path, name="run")
    trainer = Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, logger=logger, callbacks=[Bar()])
    model = system()
    trainer.fit(model, data)
    assert list(trainer.progress_bar_callback.get_metrics(trainer, model)) == [shown]
