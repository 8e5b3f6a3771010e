import math
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from cryoden import (
    CompactUnetAE,
    CryodenError,
    GaussianNoise,
    OriginalUnetAE,
    ParticleDataModule,
    SaltAndPepper,
    SimpleAE,
    UnetAE,
    UpsampleUnetAE,
    UpsampleUnetDRAGAN,
    UpsampleUnetGAN,
    UpsampleUnetWGAN,
    UpsampleUnetWGANGP,
)
from cryoden.checkpoint import export_weights, load_denoiser
from cryoden.data.dataset import collate
from cryoden.denoiser import Denoiser

SYSTEMS = [
    lambda: SimpleAE(channels=2),
    lambda: OriginalUnetAE(channels=2),
    lambda: UnetAE(channels=4),
    lambda: UpsampleUnetAE(channels=4),
    lambda: UpsampleUnetGAN(channels=4, box=32),
    lambda: UpsampleUnetWGAN(channels=4, critic_channels=2, discriminator_steps=1),
    lambda: UpsampleUnetWGANGP(channels=4, critic_channels=2, discriminator_steps=1, residual=True),
    lambda: UpsampleUnetDRAGAN(channels=4, critic_channels=2, box=32),
    lambda: CompactUnetAE(channels=4, residual=True),
]


@pytest.fixture(scope="module")
def data() -> ParticleDataModule:
    return ParticleDataModule(
        entries=["phantom:1", "phantom:2"], copies=10, box=32, voxel_size=10, resolution=20, batch_size=4, num_workers=0
    )


def trainer(folder: Path, **arguments: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **{**quiet, "max_epochs": 1, **arguments})


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("gain", "offset"), [(37.0, 0.0), (0.01, 5.0), (1.0, 5000.0)])
def test_grey_scale_comes_back(system, gain: float, offset: float) -> None:
    torch.manual_seed(0)
    model = system().eval()
    torch.nn.init.normal_(list(model.generator.parameters())[-2], std=0.1)  # CompactUnet starts at zero
    volume = torch.randn(1, 1, 32, 32, 32).double()
    with torch.no_grad():
        plain, scaled = model(volume.float()), model((gain * volume + offset).float())
    assert plain.std() > 0
    torch.testing.assert_close((scaled - offset) / gain, plain, rtol=1e-3, atol=1e-3 + 1e-6 * abs(offset) / gain)


@pytest.mark.parametrize("system", SYSTEMS)
def test_outputs_start_near_zero(system) -> None:
    with torch.no_grad():
        assert system().generator(torch.randn(2, 1, 32, 32, 32)).abs().mean() < 0.25  # Softplus(0) is 0.69


@pytest.mark.parametrize("system", SYSTEMS)
def test_checkpoints_of_python_users(system, data, tmp_path: Path) -> None:
    model = system()
    fitting = trainer(tmp_path)
    fitting.fit(model, data)
    path = tmp_path / "a.ckpt"
    fitting.save_checkpoint(path)
    torch.load(path, weights_only=True)
    loaded = load_denoiser(path)
    assert type(loaded) is Denoiser
    assert loaded.system == type(model).__name__
    assert loaded.voxel_size == 10
    volume = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = model.eval()(volume)
        torch.testing.assert_close(loaded(volume), expected)
        export_weights(loaded, tmp_path / "a.safetensors")
        exported = load_denoiser(tmp_path / "a.safetensors")
        assert exported.record() == model.denoiser.record()
        torch.testing.assert_close(exported(volume), expected)
        again = type(model).load_from_checkpoint(path, weights_only=True).eval()
        torch.testing.assert_close(again(volume), expected)
    with pytest.raises(CryodenError, match="exists; choose another name"):
        export_weights(loaded, tmp_path / "a.safetensors")


def test_a_checkpoint_of_averaged_weights_denoises_before_the_end(data, tmp_path: Path) -> None:
    """Its weights are the average, and so is what their digest is of."""
    keep = ModelCheckpoint(tmp_path, filename="kept", every_n_train_steps=2)
    model = CompactUnetAE(channels=4)
    trainer(
        tmp_path, enable_checkpointing=True, limit_train_batches=3, callbacks=[EMAWeightAveraging(decay=0.5), keep]
    ).fit(model, data)
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    name = "denoiser.generator.head.weight"
    assert not torch.equal(kept["state_dict"][name], kept["current_model_state"][name])
    assert torch.equal(load_denoiser(tmp_path / "kept.ckpt").generator.head.weight, kept["state_dict"][name])


def test_noise_with_a_mean_hardly_lifts_the_background() -> None:
    """Salt and pepper: the background is the middle of the grey values, which a few of the brightest do not move."""
    data = ParticleDataModule(
        entries=["phantom:1"],
        copies=20,
        box=32,
        voxel_size=10,
        resolution=20,
        degradation=[GaussianNoise(), SaltAndPepper(probability=0.1)],
        num_workers=0,
    )
    data.setup()
    batch = collate([data.validation_volumes()[0, i] for i in range(2)])
    lifted = batch["degraded"].mean() - batch["clean"].mean()
    assert lifted > 0.04
    with torch.no_grad():
        denoised = CompactUnetAE(channels=4).eval()(batch["degraded"])  # which answers nothing yet
    assert abs(denoised.median() - batch["clean"].median()) < 0.1 * lifted


def test_fine_tuning_begins_where_another_run_ended(data, tmp_path: Path) -> None:
    """Weights of an auto-encoder, to go on with as a GAN: another system around the same network."""
    begun = UpsampleUnetAE(channels=4)
    export_weights(begun, tmp_path / "begun.safetensors")
    weights = {name: value.clone() for name, value in begun.generator.state_dict().items()}
    model = UpsampleUnetGAN(channels=4, box=32, init_weights=str(tmp_path / "begun.safetensors"))
    assert not torch.equal(model.generator.state_dict()["first.0.weight"], weights["first.0.weight"])
    trainer(tmp_path, limit_train_batches=0, limit_val_batches=0).fit(model, data)
    for name, value in model.generator.state_dict().items():
        assert torch.equal(value, weights[name])
    other = UpsampleUnetAE(channels=8, init_weights=str(tmp_path / "begun.safetensors"))
    with pytest.raises(
        CryodenError, match=r"init_weights .*network is UpsampleUnet\(channels=4.* there and .*channels=8"
    ):
        trainer(tmp_path).fit(other, data)


def test_what_has_learnt_does_not_begin_again(data, tmp_path: Path) -> None:
    """A second fit of a model, and a fit of one that was loaded, go on with the weights that they have."""
    export_weights(UpsampleUnetAE(channels=4), tmp_path / "begun.safetensors")
    model = UpsampleUnetAE(channels=4, init_weights=str(tmp_path / "begun.safetensors"))
    fitting = trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
    fitting.fit(model, data)
    fitting.save_checkpoint(tmp_path / "learnt.ckpt")
    learnt = {name: value.clone() for name, value in model.generator.named_parameters()}
    loaded = UpsampleUnetAE.load_from_checkpoint(tmp_path / "learnt.ckpt", weights_only=True)
    for each in (model, loaded):
        trainer(tmp_path, limit_train_batches=0, limit_val_batches=0).fit(each, data)
        for name, value in each.generator.named_parameters():
            assert torch.equal(value, learnt[name])


def test_gan_moves_both_players_and_logs_their_balance(data, tmp_path: Path) -> None:
    model = UpsampleUnetGAN(channels=4, box=32, discriminator_steps=2, generator_steps=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fitting = trainer(tmp_path)
    fitting.fit(model, data)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if name.endswith("weight"))
    assert 0 <= fitting.callback_metrics["train/discriminator_accuracy"] <= 1
    assert all(p.requires_grad for p in model.parameters())


def test_the_learning_rate_warms_up_and_falls_to_zero(data, tmp_path: Path) -> None:
    model = CompactUnetAE(channels=2, warmup_steps=2)
    rates = []
    model.on_train_batch_start = lambda *_: rates.append(model.optimizers().param_groups[0]["lr"]) or None
    trainer(tmp_path, max_epochs=2).fit(model, data)
    cosine = [1e-3 * (1 + math.cos(math.pi * batch / 6)) / 2 for batch in range(6)]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, *cosine])
    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a readable checkpoint"), (b"PK\x03\x04 cut", "not a readable checkpoint"), (None, "not of cryoden's")],
)
def test_what_is_no_checkpoint_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    if content is None:
        torch.save({"state_dict": {}}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(CryodenError, match=message):
        load_denoiser(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CryodenError, match="no best"):
        load_denoiser(tmp_path / "empty")


def test_a_model_of_another_grey_scale_is_refused_in_one_line(tmp_path: Path) -> None:
    """As all were before the scale was the specimen's: what they answer would be wrong without a word."""
    model = CompactUnetAE(channels=2)
    record = model.denoiser.record()
    del record["scale"], record["digest"]
    model.denoiser.record = lambda: record
    export_weights(model, tmp_path / "old.safetensors")
    message = (
        r"model .*old\.safetensors: it was trained on volumes scaled by their mean and standard deviation, as cryoden "
        r"\S+ did, and this one scales by median and quartiles: train it again$"
    )
    with pytest.raises(CryodenError, match=message):
        load_denoiser(tmp_path / "old.safetensors")
    record["standardize"] = False  # it was never scaled
    export_weights(model, tmp_path / "raw.safetensors")
    assert not load_denoiser(tmp_path / "raw.safetensors").standardize


@pytest.mark.gpu
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_gpu_trains_in_bfloat16_with_fused_optimizers(system, data, tmp_path: Path) -> None:
    fit = trainer(tmp_path, accelerator="gpu", precision="bf16-mixed", limit_train_batches=2)
    fit.fit(system(), data)
    adams = [each for each in fit.optimizers if "betas" in each.defaults]
    assert adams
    assert all(each.defaults["fused"] for each in adams)


def test_a_cpu_leaves_its_optimizers_to_torch(data, tmp_path: Path) -> None:
    fit = trainer(tmp_path, limit_train_batches=1)
    fit.fit(CompactUnetAE(channels=4), data)
    assert not fit.optimizers[0].defaults["fused"]
