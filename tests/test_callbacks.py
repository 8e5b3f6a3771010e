"""What a run tells a person about the balance of its players."""

import re
import warnings
from types import SimpleNamespace

import pytest
import torch

from cryoden import UpsampleUnetAE, UpsampleUnetGAN, UpsampleUnetWGANGP
from cryoden.callbacks import Balance


def told(model, name: str, values: list[float], window: int = 5) -> list[str]:
    """The warnings after batches with these values."""
    balance, trainer = Balance(window), SimpleNamespace(current_epoch=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i, value in enumerate(values):
            model.balance = {name: torch.tensor(value)}
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
