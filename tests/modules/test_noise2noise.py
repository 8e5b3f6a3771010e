"""What is learnt from halves: nothing of their noise, the gain between density and tomogram, and what a wedge lacks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from cryoden import CryodenError, HalvesDataModule, Noise2Noise
from cryoden.metrics import Estimate, HalfScore, Halves
from cryoden.metrics.fsc import multiplicity, power, shell_numbers
from cryoden.modules.noise2noise import TURNS
from cryoden.networks import CompactUnet
from cryoden.networks.base import DenoisingNetwork
from cryoden.wedge import wedge_mask
from tests.data.half_tomograms import blobs, write_halves


class Echo(DenoisingNetwork):
    """Answers what it is shown, times one number."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.weight = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, volumes: Tensor) -> Tensor:
        return self.weight * volumes

    def end_linearly(self) -> None:
        pass


def ready(network: DenoisingNetwork, tomograms: int = 1, box: int = 16, **given: float) -> Noise2Noise:
    """As after `setup`."""
    system = Noise2Noise(network, **given)
    for name in ("cross", "answered", "signal"):
        system.register_buffer(name, torch.zeros(tomograms, box // 2 + 1))
    system.register_buffer("seen", torch.zeros(tomograms))
    system.random = torch.Generator().manual_seed(0)
    return system


def boxes(given: Tensor, other: Tensor, tilts: tuple[float, float] = (-90.0, 90.0)) -> dict[str, object]:
    size = given.shape[-1]
    mask = wedge_mask((size, size), tilts)[None, :, None].expand(len(given), -1, -1, -1)
    tomogram = torch.zeros(len(given), dtype=torch.int64)
    return {"given": given, "other": other, "measured": mask, "tomogram": tomogram, "entry": ["it"] * len(given)}


def cubes(seed: int = 0, size: int = 16, count: int = 4) -> Tensor:
    volume = torch.from_numpy(blobs(seed, (size, size * count, size)))
    return torch.stack(volume.split(size, 1))[:, None]


def test_turns_are_the_24_of_a_cube_and_none_is_a_mirror() -> None:
    corner = torch.arange(27.0).view(1, 1, 3, 3, 3)
    assert len({tuple(turn(corner).flatten().tolist()) for turn in TURNS}) == 24
    assert torch.equal(TURNS[0](corner), corner)
    axes = torch.eye(3)  # three marks, one on each axis, and whether they are right-handed
    for turn in TURNS:
        marks = torch.zeros(1, 1, 3, 3, 3)
        for number, axis in enumerate(axes, 1):
            marks[0, 0][tuple((1 + axis).long().tolist())] = number
        turned = turn(marks)[0, 0]
        places = [(turned == number).nonzero()[0] - 1 for number in (1, 2, 3)]
        assert torch.linalg.det(torch.stack(places).double()) == pytest.approx(1)


@pytest.mark.parametrize("size", [12, 15])
def test_a_wedge_turns_with_the_volume(size: int) -> None:
    volume = torch.randn(1, 1, size, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = wedge_mask((size, size), (-50.0, 40.0))[:, None].expand(-1, size, -1)[None]
    left = torch.fft.irfftn(torch.fft.rfftn(volume[:, 0]) * mask, s=(size,) * 3)[:, None]
    count = multiplicity(volume)
    for turn in TURNS:
        found = torch.fft.rfftn(turn(left)[:, 0]).abs()
        assert found[~turn.region(mask)].max() < 1e-9 * found.max()
        assert float((turn.region(mask) * count).sum()) == pytest.approx(float((mask * count).sum()), rel=0.02)


def test_the_gain_is_what_stands_between_density_and_tomogram() -> None:
    density, shells = cubes(), shell_numbers((16, 16, 16))
    transfer = torch.tensor([1.0, 0.2, 0.5, 0.9, 0.7, 0.3, -0.2, -0.4, -0.3, 0.0])[shells]  # a phase that flips
    spectra = [torch.fft.rfftn(each[:, 0], dim=(1, 2, 3), norm="ortho") for each in (density, density, density)]
    spectra[1:] = [each * transfer for each in spectra[1:]]
    mask = torch.ones_like(spectra[0], dtype=torch.bool)
    gain, signal = ready(Echo())._gain(*spectra, mask, torch.zeros(4, dtype=torch.int64))
    within = shells <= 8
    torch.testing.assert_close(gain[0][within], transfer[within], atol=0.02, rtol=0)
    assert (gain[0][~within] == 0).all()
    assert signal.min() > 0


def test_a_box_with_gold_does_not_outweigh_the_others() -> None:
    volumes = cubes() / cubes().std((2, 3, 4), keepdim=True)
    volumes[1] *= 30
    spectrum = torch.fft.rfftn(volumes[:, 0], dim=(1, 2, 3), norm="ortho")
    mask = torch.ones_like(spectrum, dtype=torch.bool)
    _, signal = ready(Echo())._gain(spectrum, spectrum, spectrum, mask, torch.zeros(4, dtype=torch.int64))
    shells = shell_numbers((16, 16, 16))
    own = (power(spectrum) * multiplicity(volumes) * ((shells > 0) & (shells <= 8))).sum((1, 2, 3))
    assert float(signal[1]) == pytest.approx(float(own[1]), rel=1e-4)
    others = signal[[0, 2, 3]]
    assert (others == others[0]).all()  # that of a box on the mean
    assert own[0] < others[0] < own[1]


def test_a_gain_of_long_ago_is_forgotten() -> None:
    spectrum = torch.fft.rfftn(cubes()[:, 0], dim=(1, 2, 3), norm="ortho")
    mask, system = torch.ones_like(spectrum, dtype=torch.bool), ready(Echo())
    for transfer, times in ((1.0, 60), (0.5, 150)):
        seen = transfer * spectrum
        for _ in range(times):
            gain, signal = system._gain(spectrum, seen, seen, mask, torch.zeros(4, dtype=torch.int64))
    shells = shell_numbers((16, 16, 16))
    assert gain[0][(shells > 0) & (shells <= 8)].mean().item() == pytest.approx(0.5, abs=0.01)
    own = (power(seen) * multiplicity(cubes()) * ((shells > 0) & (shells <= 8))).sum((1, 2, 3))
    assert signal.min().item() == pytest.approx(own.mean().item(), rel=0.01)


def test_a_network_that_answers_nothing_yet_has_a_gain_of_one() -> None:
    spectra = [torch.fft.rfftn(each[:, 0], dim=(1, 2, 3), norm="ortho") for each in (0 * cubes(), cubes(), cubes())]
    mask = torch.ones_like(spectra[0], dtype=torch.bool)
    gain, _ = ready(Echo())._gain(*spectra, mask, torch.zeros(4, dtype=torch.int64))
    assert (gain[0][shell_numbers((16, 16, 16)) <= 8] == 1).all()


def test_the_loss_is_the_noise_where_the_answer_is_the_truth() -> None:
    truth = cubes()
    assert float(ready(Echo())._halves(boxes(truth, truth), gained=False)) == pytest.approx(0, abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(truth.shape, generator=generator)
    loss = float(ready(Echo())._halves(boxes(truth, truth + noise), gained=False))
    share = np.pi / 6  # of all frequencies, up to Nyquist
    assert loss == pytest.approx(share * float(noise.square().mean() / truth.var((2, 3, 4)).mean()), rel=0.2)


def test_nothing_is_asked_for_where_nothing_was_measured() -> None:
    """The other half has noise in its missing wedge, as no tomogram has: the loss does not see it."""
    truth, generator = cubes(), torch.Generator().manual_seed(1)
    noise = torch.randn(truth.shape, generator=generator)
    mask = wedge_mask((16, 16), (-60.0, 60.0))[:, None]
    spectrum = torch.fft.rfftn(noise[:, 0], dim=(1, 2, 3)) * ~mask
    outside = torch.fft.irfftn(spectrum, s=(16, 16, 16), dim=(1, 2, 3))[:, None]
    for seed in range(4):
        losses = []
        for other in (truth, truth + outside):
            system = ready(Echo())
            system.random.manual_seed(seed)
            # what fills the wedge of what is shown is made of the noise of both halves, too
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch, "rot90", lambda volumes, *_: torch.zeros_like(volumes))
                losses.append(float(system._halves(boxes(truth, other, (-60.0, 60.0)), gained=False)))
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_what_was_taken_away_counts_more() -> None:
    truth = cubes()
    losses = {}
    for wedge in (0.0, 1.0, 2.0):
        system = ready(Echo(), wedge=wedge)
        system.random.manual_seed(5)
        losses[wedge] = float(system._halves(boxes(truth, truth + 0.1, (-60.0, 60.0)), gained=False))
    assert 0 < losses[0.0] < losses[1.0] < losses[2.0]  # an echo leaves empty what it is to fill
    assert losses[2.0] - losses[1.0] == pytest.approx(losses[1.0] - losses[0.0], rel=1e-3)


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize(("taken", "stays"), [(0, 2 / 11), (10**6, 0.9)], ids=["first step", "later"])
def test_the_average_follows_each_step_of_what_learns(taken: int, stays: float, accumulated: int) -> None:
    system = ready(Echo(), average=0.9)
    system.learner.generator.weight.data.fill_(3.0)
    assert float(system.generator.weight) == 1.0
    assert not system.generator.weight.requires_grad
    trainer = Trainer(logger=False)
    system.trainer = trainer
    loop = trainer.fit_loop.epoch_loop
    steps = loop.automatic_optimization.optim_progress.optimizer.step.total
    steps.completed = taken
    for batch in range(accumulated):
        loop.batch_progress.total.ready = batch + 1
        system.on_train_batch_start({}, batch)
        steps.completed += batch + 1 == accumulated
        system.on_train_batch_end(None, {}, batch)
    assert float(system.generator.weight) == pytest.approx(1.0 * stays + 3.0 * (1 - stays))


def test_simulated_boxes_count_as_much_as_their_weight_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("log", "log_dict"):
        monkeypatch.setattr(Noise2Noise, name, lambda *_, **__: None)
    system, truth = ready(Echo(), simulated=3.0), cubes()
    nothing = {"degraded": torch.zeros_like(truth), "clean": truth}  # of which the answer is nothing: an error of 1
    loss = system.training_step({"halves": boxes(truth, truth), "simulated": nothing}, 0)
    assert system.terms["simulated"].item() == pytest.approx(3)
    assert loss.item() == pytest.approx(3 + system.terms["halves"].item())


def test_each_score_is_logged_under_its_name_as_the_mean_over_tomograms(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, float] = {}
    monkeypatch.setattr(Noise2Noise, "log_dict", lambda _, told, **__: logged.update(told))
    system = ready(Echo())
    for more in (0.0, 0.02):
        parts = (Estimate(value + more, ()) for value in (0.1, 0.2, 0.3, 0.4, 0.5))
        system.scores[f"TS_{more}"] = HalfScore(*parts, torch.ones(9), torch.ones(9), 25.0)
    system._products = torch.tensor([0.6 * 2 * 5, 2.0**2, 5.0**2])  # of an answer with a correlation of 0.6
    system.on_validation_epoch_end()
    assert logged == pytest.approx(
        {"val/nrmse": 0.11, "val/nrmse_one_gain": 0.41, "val/fsc_area": 0.51, "val/nrmse_simulated": 0.8}
    )


@pytest.fixture(scope="module")
def tomogram(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("halves")
    return folder, write_halves(folder, noise=3.0, shape=(32, 112, 32))


def fitted(system: LightningModule, folder: Path, **given: object) -> Trainer:
    data = HalvesDataModule(
        [str(folder)], contrast="dark", box=24, boxes=120, batch_size=2, simulated_batch_size=0, **given
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(system, data)
    return trainer


def test_noise_is_unlearnt_from_noise_alone(tomogram: tuple[Path, np.ndarray]) -> None:
    folder, truth = tomogram
    torch.manual_seed(0)
    system = Noise2Noise(CompactUnet(channels=4, levels=2), learning_rate=5e-3, average=0.9)
    trainer = fitted(system, folder)
    generator = np.random.default_rng(9)
    shown = torch.from_numpy(truth + 3.0 * generator.normal(size=truth.shape).astype(np.float32))[None, None]
    with torch.no_grad():
        answer = system(shown)[0, 0].numpy()
    like, before = (np.corrcoef(each.ravel(), truth.ravel())[0, 1] for each in (answer, shown[0, 0].numpy()))
    assert like > before + 0.1
    (part,) = trainer.datamodule.judged()
    given = Halves.of(part["first"].numpy(), part["second"].numpy(), 10.0).input().nrmse.value
    assert float(trainer.callback_metrics["val/nrmse"]) < 0.9 * given  # which no filter of shells is
    assert system.denoiser.voxel_size == 10.0


def test_what_it_is_not_made_for_is_refused(tomogram: tuple[Path, np.ndarray], module: object) -> None:
    with pytest.raises(CryodenError, match="standardize: got false"):
        Noise2Noise(Echo(), standardize=False)
    with pytest.raises(CryodenError, match=r"average: got 1\.0; allowed is a number from 0 to below 1"):
        Noise2Noise(Echo(), average=1.0)
    with pytest.raises(CryodenError, match="data_consistency: the training step of Noise2Noise does not obey it"):
        fitted(Noise2Noise(CompactUnet(channels=4, levels=2), data_consistency=1.0), tomogram[0])
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    with pytest.raises(CryodenError, match="learns from half tomograms: give it a HalvesDataModule"):
        trainer.fit(Noise2Noise(CompactUnet(channels=4, levels=2)), module)
