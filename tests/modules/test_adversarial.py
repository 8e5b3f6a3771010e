"""The two-player systems: who moves when, and by what."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader

from cryoden import (
    DRAGAN,
    GAN,
    WGAN,
    WGANGP,
    CryodenError,
    ParticleDataModule,
    UpsampleUnetDRAGAN,
    UpsampleUnetGAN,
    UpsampleUnetWGAN,
    UpsampleUnetWGANGP,
)
from cryoden.modules.adversarial import slopes
from cryoden.networks import DenoisingNetwork, DiscriminatorNetwork
from cryoden.networks.discriminators import DraganDiscriminator, Pix2PixDiscriminator, SimpleDiscriminator
from cryoden.networks.upsample_unet import UpsampleUnet

BATCHES = 4  # of 2 volumes, in an epoch

SYSTEMS = {
    "gan": lambda **k: UpsampleUnetGAN(channels=3, box=16, norm="group", **k),
    "wgan": lambda **k: UpsampleUnetWGAN(channels=3, critic_channels=2, **{"discriminator_steps": 1, **k}),
    "wgangp": lambda **k: UpsampleUnetWGANGP(channels=3, critic_channels=2, **{"discriminator_steps": 1, **k}),
    "dragan": lambda **k: UpsampleUnetDRAGAN(channels=3, critic_channels=2, box=16, **k),
}
EVERY_SYSTEM = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)


@pytest.fixture(scope="module")
def data() -> ParticleDataModule:
    return ParticleDataModule(
        entries=["phantom:1", "phantom:2"], copies=5, box=16, voxel_size=20, resolution=40, batch_size=2, num_workers=0
    )


class Stop(Callback):
    """Ends a training after some epochs, as if it had been interrupted: schedules still aim at the end."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


def trained(model, data, folder: Path, **arguments) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=folder, **{**quiet, "max_epochs": 1, "limit_val_batches": 0, **arguments})
    trainer.fit(model, data)
    return trainer


def steps(trainer: Trainer) -> tuple[int, int]:
    """How many steps the generator and the discriminator took."""
    taken = [[int(state["step"]) for state in optimizer.state.values()] for optimizer in trainer.optimizers]
    return max(taken[0], default=0), max(taken[1], default=0)


@EVERY_SYSTEM
def test_both_players_move_and_all_is_logged(system, data, tmp_path: Path) -> None:
    model = system(data_consistency=0.5, feature_matching=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = trained(model, data, tmp_path, limit_val_batches=1)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if name.endswith("weight"))
    assert all(p.requires_grad for p in model.parameters())
    logged = {name.removeprefix("train/loss_") for name in trainer.callback_metrics}
    assert {"adversarial", "reconstruction", "data_consistency", "feature_matching"} <= logged
    assert {"critic", "discriminator"} & logged
    assert model.standing is not None
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert trainer.callback_metrics["val/wedge_power"] > 0


@EVERY_SYSTEM
def test_mixed_precision_trains(system, data, tmp_path: Path) -> None:
    trainer = trained(system(), data, tmp_path, precision="bf16-mixed")
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert steps(trainer) == (BATCHES, BATCHES)


class Lift(DenoisingNetwork):
    """Adds one number, at first 0."""

    def __init__(self) -> None:
        super().__init__()
        self.by = torch.nn.Parameter(torch.zeros(()))

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return volumes + self.by


class Brightness(DiscriminatorNetwork):
    """The mean of a candidate, times one number, at first 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def features(self, degraded: torch.Tensor, candidate: torch.Tensor) -> list[torch.Tensor]:
        return [candidate, self.weight * candidate.mean((1, 2, 3, 4))]


class Steeper(Brightness):
    """As steep at a candidate as that is far from 0."""

    def features(self, degraded: torch.Tensor, candidate: torch.Tensor) -> list[torch.Tensor]:
        return [candidate.square().sum((1, 2, 3, 4)) / 2]


def softplus(logit: float) -> float:
    return math.log1p(math.exp(logit))


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        # cross entropy with a target t is softplus(logit) - t logit; a first step takes the weight from 1 to 1.1
        (
            GAN,
            {"instance_noise": 0.0, "label_smoothing": 0.1},
            {"discriminator": (softplus(1) - 0.9 + softplus(-1)) / 2, "adversarial": softplus(1.1)},
        ),
        (
            DRAGAN,
            {"penalty_weight": 0.0},
            {"discriminator": (softplus(1) - 1 + softplus(-1)) / 2, "adversarial": softplus(1.1)},
        ),
        (WGANGP, {"penalty_weight": 0.0, "discriminator_steps": 1}, {"critic": -2, "adversarial": 1.1}),
        # over its slope; RMSprop's first step is ten times its rate
        (
            WGAN,
            {"weight_clip": 9.0, "discriminator_steps": 1, "discriminator_learning_rate": 0.01},
            {"critic": -2, "adversarial": 1},
        ),
    ],
    ids=["gan", "dragan", "wgangp", "wgan"],
)
def test_the_losses_of_both_players_are_those_of_the_papers(kind, arguments, expected, tmp_path: Path) -> None:
    """The clean volume is 1 and the denoised one -1 all over, and by their brightness they are told apart."""
    clean = torch.ones(2, 1, 4, 4, 4)
    model = kind(
        Lift(),
        Brightness(),
        standardize=False,
        cosine=False,
        **{"discriminator_learning_rate": 0.1, "reconstruction_weight": 3.0, "feature_matching": 0.5, **arguments},
    )
    batches = DataLoader([{"clean": clean, "degraded": -clean}], batch_size=None)
    metrics = trained(model, batches, tmp_path).callback_metrics
    expected = {**expected, "reconstruction": 3 * 4, "feature_matching": 0.5 * 2}
    assert {name: metrics[f"train/loss_{name}"].item() for name in expected} == pytest.approx(expected, rel=1e-4)
    standing = {"discriminator_accuracy": 1.0, "critic_gap": 2 / 1.1 if kind is WGAN else 2.0}
    assert metrics[f"train/{model.standing.name}"].item() == pytest.approx(standing[model.standing.name], rel=1e-4)
    assert model.discriminator.weight.item() == pytest.approx(1.1, rel=1e-4)
    assert model.generator.by > 0


@pytest.mark.parametrize("progress", [0.0, 0.75])
def test_instance_noise_falls_to_nothing_over_the_training(progress: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GAN, "_progress", progress)
    model = GAN(Lift(), Brightness(), instance_noise=0.4)
    model.random = torch.Generator().manual_seed(0)
    degraded = 30 * torch.randn(1, 1, 24, 24, 24, generator=model.random)
    noise = model._blurred(degraded, torch.zeros_like(degraded))
    assert noise.std().item() == pytest.approx(30 * 0.4 * (1 - progress), rel=0.03)


def test_wgan_gp_penalises_slopes_all_the_way_from_denoised_to_clean() -> None:
    """From zeros the slope of this critic grows evenly to 1 at a clean volume of norm 1: (slope - 1)² has mean 1/3."""
    model = WGANGP(Lift(), Steeper(), standardize=False)
    model.random = torch.Generator().manual_seed(0)
    clean = torch.full((4000, 1, 2, 2, 2), 8**-0.5)
    penalty = model._penalty(clean, clean, torch.zeros_like(clean))
    assert penalty.item() == pytest.approx(1 / 3, rel=0.05)


def test_dragan_penalises_slopes_around_clean_volumes() -> None:
    model = DRAGAN(Lift(), Steeper(), standardize=False, perturbation=0.8)
    model.random = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    clean = np.tile(rng.normal(size=8) / 4, (4000, 1))
    noisy = clean + 0.8 * clean.std() * rng.uniform(size=clean.shape)
    slope = np.linalg.norm(noisy, axis=1) * np.linalg.norm(clean, axis=1)
    volumes = torch.from_numpy(clean).float().view(-1, 1, 2, 2, 2)
    assert model._penalty(volumes, volumes).item() == pytest.approx(np.square(slope - 1).mean(), rel=0.02)


def test_scores_in_bfloat16_are_averaged_in_float32() -> None:
    """Scores of both kinds of volumes are far from 0 after a while, and near to each other."""

    class Rounding(SimpleDiscriminator):
        def features(self, degraded, candidate):
            return [candidate, (200 + candidate).to(torch.bfloat16)]

    model = WGANGP(UpsampleUnet(2), Rounding(2, box=16, norm="group"), standardize=False)
    clean = torch.linspace(0, 1, 16**3).reshape(1, 1, 16, 16, 16)
    real, fake = (model._judge(clean, volumes).mean() for volumes in (clean, 0.9 * clean))
    assert (real - fake).item() == pytest.approx(0.05, abs=0.01)  # in bfloat16 all near 200 are whole


@pytest.mark.parametrize(
    ("system", "arguments", "expected"),
    [
        ("gan", {"discriminator_steps": 3, "generator_steps": 2}, (2 * BATCHES, 3 * BATCHES)),
        ("wgan", {"discriminator_steps": 3}, (BATCHES, 3 * BATCHES)),
        ("wgangp", {"discriminator_steps": 2}, (BATCHES, 2 * BATCHES)),
        ("dragan", {"critic_warmup_steps": 3}, (BATCHES - 3, BATCHES)),
        ("wgangp", {"critic_warmup_steps": BATCHES}, (0, BATCHES)),
        ("gan", {"accumulate": 2}, (BATCHES // 2, BATCHES // 2)),
        ("gan", {"accumulate": 3}, (2, 2)),  # the rest of an epoch makes a step too
    ],
)
def test_each_player_steps_as_often_as_asked(system, arguments, expected, data, tmp_path: Path) -> None:
    assert steps(trained(SYSTEMS[system](**arguments), data, tmp_path)) == expected


def test_a_generator_in_critic_warm_up_does_not_move(data, tmp_path: Path) -> None:
    model = SYSTEMS["wgangp"](critic_warmup_steps=BATCHES)
    before = [p.detach().clone() for p in model.generator.parameters()]
    trained(model, data, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, model.generator.parameters(), strict=True))


def test_a_validation_within_an_epoch_leaves_what_is_accumulated(data, tmp_path: Path) -> None:
    weights = []
    for interval in (1.0, 1):  # of an epoch, and of a batch
        torch.manual_seed(0)
        model = SYSTEMS["gan"](accumulate=2, instance_noise=0.0)
        trained(model, data, tmp_path, val_check_interval=interval, limit_val_batches=1, num_sanity_val_steps=0)
        weights.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_accumulated_batches_are_as_good_as_a_large_one(tmp_path: Path) -> None:
    moments = []
    for accumulate in (1, 2):
        torch.manual_seed(0)
        data = ParticleDataModule(
            entries=["phantom:1"],
            copies=10,
            box=16,
            voxel_size=20,
            resolution=40,
            batch_size=4 // accumulate,
            num_workers=0,
        )
        model = SYSTEMS["gan"](accumulate=accumulate, instance_noise=0.0, cosine=False)
        trainer = trained(model, data, tmp_path, limit_train_batches=accumulate)
        assert steps(trainer) == (1, 1)
        moments.append([state["exp_avg"] for state in trainer.optimizers[1].state.values()])
    for large, accumulated in zip(*moments, strict=True):
        torch.testing.assert_close(accumulated, large, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("steps", "warned"), [(BATCHES - 1, 0), (BATCHES, 1)])
def test_a_generator_that_never_learns_is_told_of(steps: int, warned: int, data, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trained(SYSTEMS["gan"](critic_warmup_steps=steps), data, tmp_path)
    lines = [str(each.message) for each in told if "critic_warmup_steps" in str(each.message)]
    assert len(lines) == warned
    assert all(line.startswith("critic_warmup_steps: got 4, and this training has 4 batches, so") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accumulate": 2, "discriminator_steps": 2}, "accumulate: got 2 batches for a step, and more than one step"),
        ({"generator_steps": 0}, "generator_steps: got 0; allowed is a whole number from 1 up"),
        ({"reconstruction_loss": "l3"}, "loss: got 'l3'"),
        ({"gradient_clip": 0.0}, "gradient_clip: got 0.0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message: str) -> None:
    with pytest.raises(CryodenError, match=message):
        SYSTEMS["gan"](**arguments)


def test_wgan_clips_every_weight_of_its_critic(data, tmp_path: Path) -> None:
    model = SYSTEMS["wgan"](weight_clip=0.02)
    assert max(p.abs().max() for p in model.discriminator.parameters()) > 0.02
    trained(model, data, tmp_path)
    assert max(p.abs().max().item() for p in model.discriminator.parameters()) == pytest.approx(0.02)
    assert model.standing.value.abs() < 10  # in units of its own slope, about an NRMSE
    with pytest.raises(CryodenError, match="weight_clip: got"):
        SYSTEMS["wgan"](weight_clip=0.0)


def test_slopes_are_relative_to_the_clean_volume() -> None:
    torch.manual_seed(0)
    clean, degraded = torch.rand(2, 3, 1, 8, 8, 8)
    direction = torch.randn(1, 1, 8, 8, 8)

    def critic(_: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
        return (candidate * direction).sum((1, 2, 3, 4))

    for gain in (1.0, 50.0):
        found = slopes(critic, degraded, clean, gain * clean)
        torch.testing.assert_close(found, gain * direction.norm() * clean.flatten(1).norm(dim=1))
    # from zeros to the clean volume the distance is 1: a critic of slope 1 can tell them apart by 1 and no more
    towards = clean[:1] / clean[:1].norm().square()
    found = slopes(lambda _, v: (v * towards).sum((1, 2, 3, 4)), degraded[:1], clean[:1], clean[:1])
    torch.testing.assert_close(found, torch.ones(1))


def test_slopes_can_be_differentiated_where_they_are_zero_and_under_autocast() -> None:
    weight = torch.zeros((), requires_grad=True)
    volumes = torch.rand(2, 1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = slopes(lambda _, v: weight * v.sum((1, 2, 3, 4)), volumes, volumes, volumes)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite()


def test_the_penalty_holds_the_critic_at_slope_1(data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SYSTEMS["wgangp"](
        discriminator_steps=10,
        penalty_weight=10.0,
        discriminator_learning_rate=1e-3,
        critic_warmup_steps=100,
        cosine=False,
    )
    trained(model, data, tmp_path, max_epochs=5)
    data.setup()
    batch = [data.test_volumes()[0, i] for i in range(2)]
    clean, degraded = (torch.stack([item[kind] for item in batch]) for kind in ("clean", "degraded"))
    assert slopes(model._judge, degraded, clean, clean).mean().item() == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("system", [WGANGP, DRAGAN])
def test_a_penalty_refuses_batch_norm(system) -> None:
    with pytest.raises(CryodenError, match="depend on the others of its batch"):
        system(UpsampleUnet(4), SimpleDiscriminator(4, box=16))
    system(UpsampleUnet(4), SimpleDiscriminator(4, box=16, norm="instance"))


@pytest.mark.parametrize("system", [GAN, WGAN])
def test_without_a_penalty_any_critic_will_do(system) -> None:
    for critic in (SimpleDiscriminator(4, box=16), Pix2PixDiscriminator(4), DraganDiscriminator(4, box=16)):
        system(UpsampleUnet(4), critic)


def test_residual_networks_predict_the_noise(tmp_path: Path) -> None:
    assert not GAN(UpsampleUnet(4), Pix2PixDiscriminator(4), residual=True).generator.nonnegative
    model = UpsampleUnetGAN(channels=3, box=16, residual=True).eval()
    torch.nn.init.zeros_(model.generator.head[0].weight)
    volumes = 3 + torch.randn(2, 1, 16, 16, 16)
    torch.testing.assert_close(model(volumes), volumes)  # no noise predicted: the input stands


@EVERY_SYSTEM
def test_averaged_weights_serve_validation_and_checkpoints(system, data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = system()
    trainer = trained(model, data, tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)], max_epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    averaged, current = saved["state_dict"], saved["current_model_state"]
    name = "denoiser.generator.head.0.weight"
    torch.testing.assert_close(model.state_dict()[name], averaged[name])
    assert saved["averaging_state"]["n_averaged"] == 2 * BATCHES  # once a batch, however many steps it takes
    assert set(averaged) == set(current)


@EVERY_SYSTEM
def test_a_resumed_training_ends_at_the_same_weights(system, data, tmp_path: Path) -> None:
    """Two epochs at once, and one, a checkpoint, and another one in a process whose randomness differs."""
    torch.manual_seed(0)
    whole = system()
    trained(whole, data, tmp_path, max_epochs=2)
    torch.manual_seed(0)
    first = system()
    trainer = trained(first, data, tmp_path, max_epochs=2, limit_train_batches=BATCHES, callbacks=[Stop(1)])
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(1)
    second = system()
    resumed = Trainer(
        default_root_dir=tmp_path,
        max_epochs=2,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    resumed.fit(second, data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
