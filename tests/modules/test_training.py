"""A training method of one's own passes over no argument in silence, and no system takes one without a meaning."""

import inspect
import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.optim import SGD

from cryoden import (
    DRAGAN,
    GAN,
    WGAN,
    WGANGP,
    Autoencoder,
    CompactUnetAE,
    CryodenError,
    Noise2Noise,
    ParticleDataModule,
    UnetAE,
    UpsampleUnetGAN,
)
from cryoden.callbacks import Report
from cryoden.checkpoint import load_denoiser
from cryoden.losses import mse
from cryoden.modules.safeguards import Safeguard
from cryoden.modules.training import Training
from cryoden.networks.compact_unet import CompactUnet
from cryoden.networks.discriminators import DraganDiscriminator


@pytest.fixture(scope="module")
def data() -> ParticleDataModule:
    return ParticleDataModule(
        entries=["phantom:1"], copies=5, box=16, voxel_size=20, resolution=40, batch_size=2, num_workers=0
    )


def own_arguments(kind: type) -> list[inspect.Parameter]:
    """What a class calls by name and gives a number, not a truth value, or none for a number."""
    given = inspect.signature(kind.__init__, eval_str=True).parameters.values() if "__init__" in vars(kind) else []
    return [each for each in given if each.annotation in (int, float, float | None, tuple[float, float])]


class Plain(Training):
    """As one would write it who knows Lightning and not what is inherited."""

    def training_step(self, batch, batch_idx):
        return mse(self(batch["degraded"]), batch["clean"])

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), lr=1e-3)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}


class Supervised(Plain):
    def training_step(self, batch, batch_idx):
        return self.total(self.supervised(batch, self(batch["degraded"]), mse))


class Past(Plain):
    def training_step(self, batch, batch_idx):
        return mse(self.generator(batch["degraded"]), batch["clean"])


class OtherLoss(Autoencoder):
    def training_step(self, batch, batch_idx):
        return mse(self(batch["degraded"]), batch["clean"])


class Unscheduled(Supervised):
    def configure_optimizers(self):
        return SGD(self.parameters(), lr=1e-3)


class Unmatched(UpsampleUnetGAN):
    def _supervision(self, batch, denoised, features):
        return self.supervised(batch, denoised, self.reconstruction_loss)


class Searched(Supervised):
    """A rate of numpy's, that only its own optimizer knows."""

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=np.float64(1e-3))


def train(model: Training, data: ParticleDataModule, folder: Path) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=folder, max_epochs=1, limit_val_batches=0, enable_checkpointing=False, **quiet)
    trainer.fit(model, data)
    return trainer


def network() -> CompactUnet:
    return CompactUnet(channels=2, levels=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Plain(network()),
        lambda: Supervised(network(), data_consistency=1.0, warmup_steps=1),
        lambda: Unscheduled(network(), cosine=False),
        lambda: Unmatched(channels=3, box=16, norm="group"),
        lambda: UpsampleUnetGAN(channels=3, box=16, norm="group", critic_warmup_steps=1, data_consistency=1.0),
    ],
)
def test_what_obeys_every_argument_trains(make, data, tmp_path: Path) -> None:
    assert train(make(), data, tmp_path).state.finished


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Plain(network(), data_consistency=1.0), "data_consistency: the training step of Plain does not obey"),
        (lambda: OtherLoss(network()), "loss: the training step of OtherLoss does not obey it"),
        (lambda: Past(network()), "standardize and residual: the training step of Past passes them by"),
        (lambda: Unscheduled(network()), "cosine and warmup_steps: the optimizers of Unscheduled do not follow them"),
        (lambda: Unscheduled(network(), cosine=False, warmup_steps=5), "cosine and warmup_steps: the optimizers of"),
        (
            lambda: Unmatched(channels=3, box=16, norm="group", feature_matching=1.0),
            "feature_matching: the training step of Unmatched does not obey it",
        ),
    ],
)
def test_what_passes_an_argument_by_is_refused_in_one_line(make, words: str, data, tmp_path: Path) -> None:
    with pytest.raises(CryodenError, match=words) as refusal:
        train(make(), data, tmp_path)
    assert "\n" not in str(refusal.value)


def made(kind: type[Training], **arguments) -> Training:
    players = [network(), DraganDiscriminator(2, box=16)]
    return kind(*players if hasattr(kind, "_judge") else players[:1], **arguments)


KINDS = (Autoencoder, GAN, WGAN, WGANGP, DRAGAN, Noise2Noise)
NUMBERS = [
    (kind, each.name)
    for kind in KINDS
    for each in {p.name: p for base in kind.__mro__ if issubclass(base, Training) for p in own_arguments(base)}.values()
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_no_number_of_a_system_may_be_without_a_meaning(kind: type[Training], name: str) -> None:
    for number in (math.nan, math.inf, -1):
        with pytest.raises(CryodenError, match=f"^{name}: got .*; (allowed is|it must be)") as refusal:
            made(kind, **{name: (number, 0.9) if name == "betas" else number})
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "name", "value", "allowed"),
    [
        (GAN, "label_smoothing", 5, "a number from 0 to below 0.5"),
        (GAN, "label_smoothing", 0.5, "a number from 0 to below 0.5"),
        (GAN, "learning_rate", 0.0, "a number above 0"),
        (GAN, "warmup_steps", 1.5, "a whole number from 0 up"),
        (GAN, "accumulate", 0, "a whole number from 1 up"),
        (WGAN, "betas", (0.5, 1.0), "two numbers from 0 to below 1"),
        (WGAN, "betas", (0.5,), "two numbers from 0 to below 1"),
        (Autoencoder, "learning_rate", 0.0, "a number above 0"),
    ],
)
def test_what_a_number_of_a_system_may_be_has_ends(kind: type[Training], name: str, value, allowed: str) -> None:
    with pytest.raises(CryodenError, match=f"^{name}: got .*; allowed is {allowed}"):
        made(kind, **{name: value})


def test_data_consistency_counts_as_much_as_its_weight_says() -> None:
    clean, noise = torch.randn(2, 2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = {"clean": clean, "degraded": clean + noise, "measured": torch.ones(1, 1, 1, 1, dtype=torch.bool)}
    found = made(Autoencoder, data_consistency=3.0).supervised(batch, 0 * clean, mse)
    assert found["reconstruction"].item() == pytest.approx(1)
    assert found["data_consistency"].item() == pytest.approx(3, rel=0.1)  # zeros contradict by about 1


def test_percentiles_over_volumes_are_logged_under_their_names() -> None:
    clean = torch.rand(21, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0, 1, 21).view(-1, 1, 1, 1, 1)
    model, logged = made(Autoencoder), {}
    model.log_dict = lambda told, **_: logged.update(told)
    model.val_metrics.update((1 - share) * clean, clean, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    model.on_validation_epoch_end()
    found = [logged[f"val/nrmse{end}"] for end in ("_p5", "", "_p95")]
    assert found == pytest.approx([0.05, 0.5, 0.95], abs=1e-5)


def test_weights_of_0_leave_out_what_they_weigh() -> None:
    none = {"reconstruction_weight": 0.0, "feature_matching": 0.0, "data_consistency": 0.0}
    made(GAN, instance_noise=0.0, label_smoothing=0.0, critic_warmup_steps=0, warmup_steps=0, betas=(0.0, 0.0), **none)
    made(DRAGAN, penalty_weight=0.0, perturbation=0.0)


def test_a_network_that_halves_more_often_than_the_box_has_voxels_is_refused(data, tmp_path: Path) -> None:
    with pytest.raises(CryodenError, match=r"^box: got 16 for the data, and CompactUnet takes multiples of 32; give"):
        train(CompactUnetAE(channels=2, levels=5), data, tmp_path)
    train(UnetAE(channels=2, norm="group"), data, tmp_path)  # a multiple of 16


@pytest.mark.parametrize(("clip", "rollback"), [(1.0, False), (None, True)])
def test_gradients_that_16_mixed_scales_are_neither_clipped_nor_gone_back_from(clip, rollback: bool) -> None:
    """Lightning takes 16-mixed on a GPU alone, so that here nothing but its name is at hand."""
    trainer = SimpleNamespace(precision="16-mixed")
    Safeguard(None, rollback=False).setup(trainer, torch.nn.Module(), "fit")
    with pytest.raises(CryodenError, match="gradient_clip, and nonfinite rollback, do nothing in precision 16-mixed"):
        Safeguard(clip, rollback=rollback).setup(trainer, torch.nn.Module(), "fit")


@pytest.mark.parametrize(
    "make",
    [
        lambda: CompactUnetAE(channels=np.int64(2), levels=1, learning_rate=np.logspace(-4, -3, 2)[0]),
        lambda: CompactUnetAE(channels=2, levels=1, gradient_clip=np.float64(1.0), warmup_steps=np.int64(2)),
        lambda: UpsampleUnetGAN(channels=3, box=16, norm="group", betas=tuple(np.array([0.5, 0.9]))),
        lambda: Searched(network(), cosine=False),
    ],
    ids=["rate", "clip", "betas", "own"],
)
def test_a_number_of_numpy_s_leaves_a_checkpoint_that_loads(make, data, tmp_path: Path) -> None:
    model = make()
    trainer = train(model, data, tmp_path)
    model.denoiser.voxel_size = np.float32(20.0)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert load_denoiser(tmp_path / "a.ckpt").voxel_size == 20.0
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert set(model.hparams) - set(kept["hyper_parameters"]) <= {"generator", "discriminator"}


def test_a_checkpoint_from_before_an_argument_had_its_default() -> None:
    kept: dict = {"state_dict": CompactUnetAE(channels=2).state_dict()}
    CompactUnetAE(channels=2).on_save_checkpoint(kept)
    del kept["cryoden"]["network"]["init_args"]["refinements"]
    CompactUnetAE(channels=2).on_load_checkpoint(kept)
    with pytest.raises(CryodenError, match=r"of another network, .*refinements=0.*; this run's is .*refinements=1"):
        CompactUnetAE(channels=2, refinements=1).on_load_checkpoint(kept)


@pytest.fixture(scope="module")
def kept(data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint at the end of an epoch."""
    folder = tmp_path_factory.mktemp("kept")
    train(CompactUnetAE(channels=2, levels=1, cosine=False), data, folder).save_checkpoint(folder / "a.ckpt")
    return folder / "a.ckpt"


def coarser() -> ParticleDataModule:
    """The same particle in larger voxels."""
    return ParticleDataModule(
        entries=["phantom:1"], copies=5, box=16, voxel_size=25, resolution=50, batch_size=2, num_workers=0
    )


def go_on(kept: Path, data: ParticleDataModule, **arguments) -> Training:
    """A training that goes on from a checkpoint for an epoch, with other arguments."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    model = CompactUnetAE(channels=2, levels=1, **{"cosine": False, **arguments})
    trainer = Trainer(default_root_dir=kept.parent, max_epochs=2, limit_val_batches=0, **quiet)
    trainer.fit(model, data, ckpt_path=kept, weights_only=True)
    return model


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"standardize": False}, "the checkpoint is of another standardize, True; this run's is False: give the conf"),
        ({"residual": True}, "the checkpoint is of another residual, False; this run's is True: give the config"),
        (
            {"learning_rate": 0.1},
            r"learning_rate: got 0.1, and the optimizer would go on with the checkpoint's 0.001: give --model.lea",
        ),
    ],
)
def test_a_run_that_goes_on_is_the_same_run(arguments: dict, words: str, kept: Path, data) -> None:
    with pytest.raises(CryodenError, match=f"^{words}") as refusal:
        go_on(kept, data, **arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"loss": "l1", "gradient_clip": 1.0},
            ["other arguments than the checkpoint's: gradient_clip 1.0 (there None), loss l1 (there mse)"],
        ),
        ({"learning_rate": np.float64(1e-3)}, []),
    ],
)
def test_a_run_that_goes_on_tells_what_is_other(arguments: dict, words: list[str], kept: Path, data) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        go_on(kept, data, init_weights=str(kept), **arguments)  # which is not begun with a second time
    told = [str(each.message).partition("goes on with ")[2] for each in caught]
    assert sorted(filter(None, told)) == words


def test_a_model_keeps_the_voxel_size_that_it_was_trained_at(kept: Path, data, tmp_path: Path) -> None:
    """Whatever it is tested or loaded at; to go on elsewhere is another training, which may begin with its weights."""
    model = CompactUnetAE.load_from_checkpoint(kept, weights_only=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    test = Trainer(default_root_dir=tmp_path, limit_test_batches=1, callbacks=[Report()], **quiet)
    for checkpoint in (None, kept):
        test.test(model, coarser(), ckpt_path=checkpoint, weights_only=True, verbose=False)
        assert model.denoiser.voxel_size == 20
        assert json.loads((tmp_path / "results.json").read_text())["data"]["voxel_size"] == 25
    with pytest.raises(
        CryodenError, match=r"of voxels of 20 Å; this run's data have 25 Å: give --data.voxel_size 20, "
    ):
        go_on(kept, coarser())
    tuned = CompactUnetAE(channels=2, levels=1, init_weights=str(kept))
    train(tuned, coarser(), tmp_path)
    assert tuned.denoiser.voxel_size == 25


def test_a_run_goes_on_with_its_own_optimizer(data, tmp_path: Path) -> None:
    def trained(optimizer: str, epochs: int, checkpoint: Path | None = None) -> Path:
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        module = CompactUnetAE(channels=2, levels=1, optimizer=optimizer, cosine=False)
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{optimizer}.ckpt")
        return tmp_path / f"{optimizer}.ckpt"

    for optimizer, other in (("adamw", "muon"), ("muon", "adamw")):
        kept = trained(optimizer, 1)
        with pytest.raises(
            CryodenError, match=f"of another optimizer, {optimizer}; this run's is {other}: give --model"
        ):
            trained(other, 2, kept)
        trained(optimizer, 2, kept)
