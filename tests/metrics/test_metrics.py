import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy import ndimage
from skimage.metrics import mean_squared_error, normalized_root_mse, peak_signal_noise_ratio, structural_similarity
from torchmetrics.image import PeakSignalNoiseRatio

from cryoden.errors import CryodenError
from cryoden.metrics import MEASURES, Pair, functional
from cryoden.metrics.per_volume import QUALITY, WEDGE, PerVolume, TrainingMetrics

NAMES = ("mse", "nrmse", "psnr", "ssim")
EVERYWHERE = torch.ones(1, 1, 1, 1, dtype=torch.bool)


def pair(kind: str, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 1, *shape, generator=generator)
    dense = torch.rand(3, 1, *shape, generator=generator)
    if kind == "sparse":
        clean = torch.zeros_like(dense)
        clean[..., 6:11, 5:12, 7:10] = dense[..., 6:11, 5:12, 7:10]
        return clean + 0.04 * noise, clean
    if kind == "dense":
        return dense + 0.2 * noise, dense
    if kind == "offset":  # of a tomogram that nobody has normalised
        return dense + 300 + 0.1 * noise, dense + 300
    return dense + 1e-4 * noise, dense


@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 20, 17)])
@pytest.mark.parametrize("kind", ["sparse", "dense", "offset", "near"])
def test_metrics_equal_scikit_image(kind: str, shape: tuple[int, int, int]) -> None:
    denoised, clean = pair(kind, shape)
    references = {
        "mse": lambda a, b: mean_squared_error(b, a),
        "nrmse": lambda a, b: normalized_root_mse(b, a, normalization="euclidean"),
        "psnr": lambda a, b: peak_signal_noise_ratio(b, a, data_range=1),
        "ssim": lambda a, b: structural_similarity(b, a, data_range=1),
    }
    for name, reference in references.items():
        ours = getattr(functional, name)(denoised, clean)
        theirs = [reference(a[0].double().numpy(), b[0].double().numpy()) for a, b in zip(denoised, clean, strict=True)]
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_masked_metrics_equal_scikit_image(kind: str) -> None:
    denoised, clean = pair(kind, (12, 20, 17))
    mask = functional.particle_mask(clean, threshold=0.3, dilation=1)
    nrmse, ssim = functional.nrmse(denoised, clean, mask), functional.ssim(denoised, clean, mask=mask)
    for i, (a, b) in enumerate(zip(denoised[:, 0].double().numpy(), clean[:, 0].double().numpy(), strict=True)):
        inside = ndimage.binary_dilation(b > 0.3 * b.max(), np.ones((3, 3, 3)))
        assert np.array_equal(mask[i, 0].numpy(), inside)
        assert nrmse[i].item() == pytest.approx(normalized_root_mse(b[inside], a[inside], normalization="euclidean"))
        _, similarity = structural_similarity(b, a, data_range=1, full=True)
        inside[:3] = inside[-3:] = inside[:, :3] = inside[:, -3:] = inside[:, :, :3] = inside[:, :, -3:] = False
        assert ssim[i].item() == pytest.approx(similarity[inside].mean(), abs=1e-5)


def test_empty_space_flatters_no_masked_score() -> None:
    clean = torch.zeros(1, 1, 32, 32, 32)
    clean[..., 12:20, 12:20, 12:20] = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0))
    zeros, mask = torch.zeros_like(clean), functional.particle_mask(clean)
    assert functional.ssim(zeros, clean) > 0.8
    assert functional.ssim(zeros, clean, mask=mask) < 0.2
    assert functional.nrmse(zeros, clean, mask).item() == 1
    assert not functional.particle_mask(zeros).any()
    assert functional.ssim(zeros, clean, mask=functional.particle_mask(zeros)).isnan().all()
    with pytest.raises(CryodenError, match=r"mask: got shape \(1, 1, 3, 3, 3\); it must be"):
        functional.nrmse(zeros, clean, mask[..., :3, :3, :3])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right(name: str) -> None:
    denoised, clean = (volumes[:1].double() for volumes in pair("sparse", (8, 9, 8)))
    assert torch.autograd.gradcheck(
        lambda x: getattr(functional, name)(x, clean), denoised.requires_grad_(), fast_mode=True
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_measured_in_float32(name: str, dtype: torch.dtype) -> None:
    metric = getattr(functional, name)
    denoised, clean = (volumes.to(dtype) for volumes in pair("sparse", (16, 16, 16)))
    assert torch.equal(metric(denoised, clean), metric(denoised.float(), clean.float()))


def test_trivial_answers() -> None:
    _, clean = pair("sparse", (16, 16, 16))
    zeros = torch.zeros_like(clean)
    assert functional.nrmse(zeros, clean).tolist() == [1.0] * 3
    assert functional.psnr(clean, clean).tolist() == [torch.inf] * 3
    assert functional.ssim(clean, clean).tolist() == [1.0] * 3
    assert functional.nrmse(clean, zeros).isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_data_range_is_the_unit(name: str) -> None:
    denoised, clean = pair("sparse", (16, 16, 16))
    if name in ("psnr", "ssim"):
        metric = getattr(functional, name)
        torch.testing.assert_close(metric(100 * denoised, 100 * clean, 100.0), metric(denoised, clean))
    with pytest.raises(CryodenError, match=r"got \(3, 1, 16, 16, 16\) and \(1, 1, 16, 16, 16\)"):
        getattr(functional, name)(denoised, clean[:1])


def test_ssim_needs_room_for_its_window() -> None:
    with pytest.raises(CryodenError, match=r"at least 7 voxels, got \(16, 16, 6\)"):
        functional.ssim(torch.zeros(1, 1, 16, 16, 6), torch.zeros(1, 1, 16, 16, 6))


def test_psnr_equals_torchmetrics() -> None:
    # which is not used itself: it computes in half precision where the volumes are
    denoised, clean = pair("sparse", (16, 16, 16))
    theirs = PeakSignalNoiseRatio(data_range=1.0, reduction="none", dim=(1, 2, 3, 4))
    torch.testing.assert_close(functional.psnr(denoised, clean), theirs(denoised, clean))


def test_one_value_per_volume_over_updates() -> None:
    denoised, clean = pair("dense", (10, 10, 10))
    metrics = TrainingMetrics("val/")
    metrics.update(denoised.requires_grad_(), clean, EVERYWHERE)
    metrics.update(denoised[:1], clean[:1], EVERYWHERE)
    values = metrics.compute()
    assert not any(value.requires_grad for value in values.values())  # or a whole epoch's graph would stay alive
    assert set(values) == {f"val/{name}" for name in (*QUALITY, *WEDGE)}
    for name in NAMES:
        torch.testing.assert_close(values[f"val/{name}"], getattr(functional, name)(denoised, clean)[[0, 1, 2, 0]])
    metrics.reset()
    metrics.update(denoised[:1], clean[:1], EVERYWHERE)
    assert metrics.compute()["val/ssim"].numel() == 1


@pytest.mark.parametrize("name", WEDGE)
def test_volumes_without_a_missing_wedge_have_no_value_in_it(name: str) -> None:
    denoised, clean = pair("dense", (8, 8, 8))
    metric = PerVolume(MEASURES[name])
    measured = torch.arange(5) < torch.tensor([5, 3, 2])[:, None, None, None]  # of the first volume everything
    metric.update(Pair(denoised, clean, measured))
    assert metric.compute().isnan().tolist() == [True, False, False]


@pytest.mark.parametrize(("name", "worst"), [("nrmse", torch.inf), ("ssim", -torch.inf), ("invented", torch.inf)])
def test_an_answer_that_is_not_finite_is_infinitely_bad(name: str, worst: float) -> None:
    denoised, clean = pair("dense", (8, 8, 8))
    denoised[1, 0, 4, 4, 4] = torch.nan
    metric = PerVolume(MEASURES[name])
    metric.update(Pair(denoised, clean, torch.arange(5) < 3))
    assert metric.compute().isfinite().tolist() == [True, False, True]
    assert metric.compute()[1] == worst


def test_a_metric_travels_to_another_process() -> None:
    denoised, clean = pair("dense", (8, 8, 8))
    metrics = TrainingMetrics()
    metrics.update(denoised, clean, EVERYWHERE)
    again = pickle.loads(pickle.dumps(metrics))
    torch.testing.assert_close(again.compute()["nrmse"], metrics.compute()["nrmse"])


SHARES = ([2, 1], [3, 0])


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    denoised, clean = pair("dense", (10, 10, 10))
    found = []
    for shares in SHARES:
        metrics = TrainingMetrics()
        start = sum(shares[:rank])
        for volume in range(start, start + shares[rank]):
            metrics.update(denoised[volume : volume + 1], clean[volume : volume + 1], EVERYWHERE)
        found.append(metrics.compute())
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_see_all_values(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for rank, shares, name in itertools.product(range(2), range(len(SHARES)), NAMES):
        values = found[rank][shares][name]
        torch.testing.assert_close(values, getattr(functional, name)(*pair("dense", (10, 10, 10))))
