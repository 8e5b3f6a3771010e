import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from skimage.metrics import mean_squared_error, normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from cryoden.metrics import functional
from cryoden.metrics.image import NRMSE, percentiles, quality_metrics


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
    if kind == "offset":
        return dense + 3 + 0.1 * noise, dense + 3
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


def test_ssim_is_differentiable() -> None:
    denoised, clean = pair("sparse", (10, 10, 10))
    denoised.requires_grad_()
    functional.ssim(denoised, clean).sum().backward()
    assert denoised.grad is not None
    assert denoised.grad.abs().sum() > 0


def test_one_value_per_volume_over_updates() -> None:
    denoised, clean = pair("dense", (10, 10, 10))
    metrics = quality_metrics("val/")
    metrics.update(denoised, clean)
    metrics.update(denoised[:1], clean[:1])
    values = metrics.compute()
    assert set(values) == {"val/mse", "val/nrmse", "val/psnr", "val/ssim"}
    torch.testing.assert_close(values["val/nrmse"], functional.nrmse(denoised, clean)[[0, 1, 2, 0]])
    metrics.reset()
    metrics.update(denoised[:1], clean[:1])
    assert metrics.compute()["val/ssim"].numel() == 1


@pytest.mark.parametrize("n", [1, 2, 7])
def test_percentiles_equal_numpy(n: int) -> None:
    values = torch.rand(n, generator=torch.Generator().manual_seed(n))
    np.testing.assert_allclose(percentiles(values).numpy(), np.percentile(values.numpy(), (5, 50, 95)), rtol=1e-6)


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    denoised, clean = pair("dense", (10, 10, 10))
    metric = NRMSE()
    mine = slice(0, 2) if rank == 0 else slice(2, 3)  # unequal shares
    metric.update(denoised[mine], clean[mine])
    torch.save(metric.compute(), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_see_all_values(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    expected = functional.nrmse(*pair("dense", (10, 10, 10)))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt").sort()[0], expected.sort()[0])
