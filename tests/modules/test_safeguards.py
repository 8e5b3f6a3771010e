"""Gradients that are not finite: training stops with a reason or goes back, and never takes the step."""

import copy
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from cryoden import CompactUnetAE, CryodenError, ParticleDataModule, UpsampleUnetGAN, UpsampleUnetWGANGP
from cryoden.modules.safeguards import NonFiniteError

SYSTEMS = {
    "ae": lambda **k: CompactUnetAE(channels=2, levels=1, **k),
    "gan": lambda **k: UpsampleUnetGAN(channels=3, box=16, norm="group", **k),
    "wgangp": lambda **k: UpsampleUnetWGANGP(channels=3, critic_channels=2, **{"discriminator_steps": 2, **k}),
}
EVERY_SYSTEM = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)


class Poison(Callback):
    """Makes the clean volumes of one batch infinite, and remembers the weights before and after it."""

    def __init__(self, epoch: int, batch: int, times: int = 1) -> None:
        self.place = epoch, batch
        self.times = times
        self.before: dict[str, torch.Tensor] = {}
        self.start: dict[str, torch.Tensor] = {}

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.start = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) >= self.place and self.times > 0:
            self.times -= 1
            self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
            batch["clean"].fill_(torch.inf)


@pytest.fixture(scope="module")
def data() -> ParticleDataModule:
    return ParticleDataModule(
        entries=["phantom:1", "phantom:2"], copies=5, box=16, voxel_size=20, resolution=40, batch_size=2, num_workers=0
    )


def trainer_with(callback: Callback, folder: Path, **arguments) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        callbacks=[callback],
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"limit_val_batches": 0, **arguments},
    )


@EVERY_SYSTEM
def test_training_stops_before_the_step_and_says_why(system, data, tmp_path: Path) -> None:
    model, poison = system(), Poison(1, 2)
    with pytest.raises(NonFiniteError) as stopped:
        trainer_with(poison, tmp_path).fit(model, data)
    told = str(stopped.value)
    assert "epoch 1, batch 2 (phantom:" in told
    assert "the loss term '" in told
    assert "nothing was changed" in told
    assert isinstance(stopped.value, CryodenError)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, poison.before[name]), name


@EVERY_SYSTEM
def test_rollback_goes_on_from_the_start_of_the_epoch_at_half_the_rate(system, data, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    class Look(Poison):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            if (trainer.current_epoch, batch_idx) == (1, 3):
                seen.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})

    model, poison = system(nonfinite="rollback", cosine=False), Look(1, 2)
    trainer = trainer_with(poison, tmp_path)
    with pytest.warns(UserWarning, match="training broke down in epoch 1, batch 2 .* with half the learning rate"):
        trainer.fit(model, data)
    name = next(name for name in poison.start if name.endswith(("head.weight", "head.0.weight")))
    assert torch.equal(seen[0][name], poison.start[name])
    assert not torch.equal(poison.before[name], poison.start[name])
    assert all(p.isfinite().all() for p in model.parameters())
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    halvings = [model.learning_rate / rates[0], *[model.discriminator_learning_rate / rate for rate in rates[1:]]]
    assert halvings == pytest.approx([2.0] * len(halvings))


@pytest.mark.filterwarnings("ignore:training broke down")
def test_a_training_that_breaks_down_again_and_again_stops(data, tmp_path: Path) -> None:
    model = SYSTEMS["ae"](nonfinite="rollback")
    data = copy.copy(data)
    data.batch_size = 1
    trainer = trainer_with(Poison(0, 0, times=99), tmp_path)
    with pytest.raises(NonFiniteError, match="after 5 times back to the start"):
        trainer.fit(model, data)


@EVERY_SYSTEM
@pytest.mark.filterwarnings("ignore:training broke down")
def test_each_time_that_it_goes_back_the_rate_is_half_of_the_last_from_the_first_step_on(
    system, data, tmp_path
) -> None:
    class Twice(Poison):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    rates: list[list[float]] = []
    model = system(nonfinite="rollback", cosine=False)
    trainer = trainer_with(Twice(0, 0, times=2), tmp_path)
    trainer.fit_loop.max_epochs = 1
    trainer.fit(model, data)
    for number, divisor in enumerate((1, 2, 4, 4)):
        assert [first / now for first, now in zip(rates[0], rates[number], strict=True)] == pytest.approx(
            [divisor] * len(rates[0])
        )


@pytest.mark.filterwarnings("ignore:training broke down")
def test_who_goes_on_within_an_epoch_can_go_back_too(data, tmp_path: Path) -> None:
    middle = {"val_check_interval": 2, "limit_val_batches": 1}
    trainer = trainer_with(ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1), tmp_path, **middle)
    trainer.fit(SYSTEMS["ae"](nonfinite="rollback"), data)
    assert (tmp_path / "step=2.ckpt").exists()
    model, poison = SYSTEMS["ae"](nonfinite="rollback"), Poison(0, 3)
    trainer = trainer_with(poison, tmp_path, **middle)
    trainer.fit(model, data, ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert poison.times == 0
    assert trainer.current_epoch == 2


def test_a_gradient_that_is_not_finite_is_named_where_the_loss_is(data, tmp_path: Path) -> None:
    model = SYSTEMS["ae"]()
    model.generator.head.weight.register_hook(lambda gradient: gradient * torch.nan)
    told = r"the gradient of denoiser\.generator\.head\.weight is not finite \(reconstruction"
    with pytest.raises(NonFiniteError, match=told):
        trainer_with(Callback(), tmp_path).fit(model, data)


@pytest.mark.parametrize("clip", [1e-3, None])
@pytest.mark.parametrize(("name", "system"), SYSTEMS.items(), ids=SYSTEMS)
def test_gradients_are_clipped(name: str, system, clip: float | None, data, tmp_path: Path) -> None:
    trainer = trainer_with(Callback(), tmp_path)
    trainer.fit_loop.max_epochs, trainer.limit_train_batches = 1, 1
    model = system(gradient_clip=clip, **({"discriminator_steps": 1} if name == "wgangp" else {}))
    trainer.fit(model, data)
    for optimizer in trainer.optimizers:
        # after one step of Adam the mean of the gradients is (1 - beta) times the gradient
        share = 1 - optimizer.param_groups[0]["betas"][0]
        norm = torch.nn.utils.get_total_norm([state["exp_avg"] for state in optimizer.state.values()]) / share
        assert (norm.item() == pytest.approx(1e-3, rel=1e-3)) == (clip is not None)
