import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from cryoden.errors import CryodenError
from cryoden.losses import LOSSES, data_consistency, feature_matching, fsc, l1, make_loss, mse, ssim
from cryoden.simulation.degradation import GaussianNoise, MissingWedge, apply_all


def particles(box: int = 12, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Two blobs of other size and height (2, 1, box, box, box), with a maximum of 1."""
    generator = torch.Generator().manual_seed(seed)
    z, y, x = torch.meshgrid(*[torch.arange(box, dtype=dtype) - box // 2] * 3, indexing="ij")
    blob = [torch.exp(-(z**2 + y**2 + x**2) / width**2) for width in (box / 6, box / 4)]
    grain = 0.5 + torch.rand(2, 1, box, box, box, generator=generator, dtype=dtype)
    volumes = torch.stack(blob)[:, None] * grain
    return volumes / volumes.amax((1, 2, 3, 4), keepdim=True)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_zeros_score_1_and_the_truth_0(loss) -> None:
    clean = torch.rand(3, 1, 8, 8, 8) * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None, None]
    assert loss(torch.zeros_like(clean), clean).item() == pytest.approx(1)
    assert loss(clean, clean).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_gradients_are_those_of_finite_differences(loss) -> None:
    clean = particles(8, dtype=torch.float64)[:1]
    denoised = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).double()
    torch.autograd.gradcheck(lambda v: loss(v, clean), denoised.requires_grad_())


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_step_downhill_from_zeros_is_finite_and_improves(loss) -> None:
    clean = particles()
    denoised = (0.01 * (clean + 0.1 * particles(seed=1).roll(2, 4))).requires_grad_()
    before = loss(denoised, clean)
    (gradient,) = torch.autograd.grad(before, denoised)
    assert gradient.isfinite().all()
    step = 1e-2 * denoised.detach().norm() / gradient.norm()
    assert loss(denoised - step * gradient, clean) < before


@pytest.mark.parametrize(("name", "expected"), [("l1", 0.5), ("mse", 0.5), ("pooled_mse", 1 / 101)])
def test_a_faint_volume_counts_as_much_as_a_bright_one_unless_the_batch_is_pooled(name: str, expected: float) -> None:
    clean = particles()[:1] * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1, 1)
    denoised = clean * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1)  # nothing of the faint one
    assert LOSSES[name](denoised, clean).item() == pytest.approx(expected)


def test_ssim_is_the_metric_of_scikit_image() -> None:
    clean = particles()
    denoised = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))

    def missed(volumes: torch.Tensor) -> np.ndarray:
        pairs = zip(volumes, clean, strict=True)
        return np.array([1 - structural_similarity(v[0].numpy(), c[0].numpy(), data_range=1.0) for v, c in pairs])

    expected = (missed(denoised) / missed(torch.zeros_like(clean))).mean()
    assert ssim(denoised, clean).item() == pytest.approx(expected, rel=1e-4)


def test_fsc_does_not_see_the_scale() -> None:
    clean = particles()
    assert fsc(0.1 * clean, clean).item() == pytest.approx(0, abs=1e-5)
    assert fsc(clean + torch.randn_like(clean), clean) > fsc(clean + 0.1 * torch.randn_like(clean), clean) > 0.001


def test_mixtures_are_weighted_sums() -> None:
    clean = particles()
    denoised = 0.5 * clean
    mixed = make_loss({"mse": 2.0, "l1": 0.5})(denoised, clean)
    torch.testing.assert_close(mixed, 2 * mse(denoised, clean) + 0.5 * l1(denoised, clean))
    torch.testing.assert_close(make_loss("l1")(denoised, clean), l1(denoised, clean))


@pytest.mark.parametrize("mixture", ["l3", "", {}, {"mse": 0.0}, {"mse": -1.0}, {"sim": 1.0}, {"math.exp": 0.0}])
def test_other_mixtures_are_refused(mixture) -> None:
    with pytest.raises(CryodenError, match="allowed is one of l1, mse, pooled_mse, ssim, fsc, one of yours by its"):
        make_loss(mixture)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses in files of one's own, where Python finds them."""
    (tmp_path / "own_losses.py").write_text(
        "number = 3\n"
        "def cubic(denoised, clean):\n    return (denoised - clean).abs().pow(3).mean()\n"
        "def each(denoised, clean):\n    return (denoised - clean).abs().mean((1, 2, 3, 4))\n"
    )
    (tmp_path / "broken_losses.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_loss_of_ones_own_is_taken_by_its_import_path(own) -> None:
    clean = particles()
    cubic = (0.5 * clean).pow(3).mean()
    torch.testing.assert_close(make_loss("own_losses.cubic")(0.5 * clean, clean), cubic)
    mixture = pickle.loads(pickle.dumps(make_loss({"own_losses.cubic": 2.0, "l1": 1.0})))  # as for another process
    mixed = mixture(0.5 * clean, clean)
    torch.testing.assert_close(mixed, 2 * cubic + l1(0.5 * clean, clean))
    torch.testing.assert_close(make_loss("torch.nn.functional.mse_loss")(0.5 * clean, clean), (0.25 * clean**2).mean())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_losses.cubic", "cannot import no_losses: ModuleNotFoundError: No module named 'no_losses'"),
        ("broken_losses.cubic", "cannot import broken_losses: .* No module named 'nothing_of_this_name'"),
        ("own_losses.cubik", "own_losses has no function cubik; write one that takes"),
        ("own_losses.number", "own_losses has no function number"),
    ],
)
def test_what_is_not_under_an_import_path_is_told_at_once(path: str, message: str, own) -> None:
    with pytest.raises(CryodenError, match=f"loss {path}: {message}"):
        make_loss(path)


def test_a_loss_of_ones_own_must_be_a_scalar(own) -> None:
    with pytest.raises(CryodenError, match=r"own_losses.each: gave shape \(2,\), not a scalar; end it in"):
        make_loss("own_losses.each")(particles(), particles(seed=1))


@pytest.fixture(scope="module")
def seen() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean and degraded volumes, and where they were measured."""
    clean, steps = particles(32), [GaussianNoise(5.0), MissingWedge((-50, 50))]
    parameters = [[step.sample(torch.Generator().manual_seed(i)) for step in steps] for i in range(2)]
    degraded = apply_all(steps, clean, parameters)
    return clean, degraded, steps[1].measured(clean, [p[1] for p in parameters])


def test_neither_the_truth_nor_the_input_contradicts_the_input(seen) -> None:
    clean, degraded, measured = seen
    assert data_consistency(clean, clean, degraded, measured).item() == pytest.approx(0, abs=1e-6)
    assert data_consistency(degraded, clean, degraded, measured).item() == 0
    assert data_consistency(torch.zeros_like(clean), clean, degraded, measured).item() == pytest.approx(1, abs=0.1)


def test_only_invention_that_was_measured_contradicts(seen) -> None:
    clean, degraded, measured = seen
    invented = 0.3 * clean.roll(6, dims=3)
    in_wedge = invented - MissingWedge((-50, 50)).apply(invented, [{"tilt_min": -50.0, "tilt_max": 50.0}] * 2)
    everywhere = data_consistency(clean + invented, clean, degraded, measured).item()
    assert everywhere > 0.05
    assert data_consistency(clean + in_wedge, clean, degraded, measured).item() < 0.01 * everywhere


def test_less_noise_in_fine_waves_does_not_make_up_for_coarse_ones_that_are_missing() -> None:
    clean = particles(32)
    noise = 3 * clean.std() * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    axis = torch.fft.fftfreq(32).square()
    fine = axis[:, None, None] + axis[:, None] + axis[:17] > 0.25**2
    denoised = torch.fft.irfftn(torch.fft.rfftn((clean + noise)[:, 0], dim=(1, 2, 3)) * fine, dim=(1, 2, 3))[:, None]
    everywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    assert data_consistency(denoised, clean, clean + noise, everywhere).item() > 0.5


def test_feature_matching_is_relative_and_teaches_only_the_fake() -> None:
    real = [torch.rand(2, 3, 4, requires_grad=True), 100 * torch.rand(2, 5)]
    fake = [2 * feature.detach() for feature in real]
    loss = feature_matching([feature.requires_grad_() for feature in fake], real)
    assert loss.item() == pytest.approx(1)
    loss.backward()
    assert real[0].grad is None
    assert fake[0].grad is not None


def test_each_stage_of_features_counts_as_much_as_the_others() -> None:
    real = [torch.rand(2, 3, 4), 100 * torch.rand(2, 5)]
    assert feature_matching([2 * real[0], real[1]], real).item() == pytest.approx(0.5)
    assert feature_matching([real[0], 2 * real[1]], real).item() == pytest.approx(0.5)
