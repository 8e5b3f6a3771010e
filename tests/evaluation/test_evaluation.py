import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter as scipy_gaussian

from cryoden.data import ParticleDataModule
from cryoden.data.dataset import VolumeDataset
from cryoden.errors import CryodenError
from cryoden.evaluation import baselines
from cryoden.evaluation.baselines import (
    FILTERS,
    Filter,
    best_setting,
    gaussian_baseline,
    gaussian_filter,
    tuned_filters,
)
from cryoden.metrics.functional import nrmse


@pytest.mark.parametrize("sigma", [0.4, 0.7, 2.0])
@pytest.mark.parametrize("shape", [(16, 16, 16), (5, 12, 17)])
def test_gaussian_filter_equals_scipy(sigma: float, shape: tuple[int, int, int]) -> None:
    volumes = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    expected = np.stack([scipy_gaussian(v[0].numpy(), sigma, mode="reflect")[None] for v in volumes])
    np.testing.assert_allclose(gaussian_filter(volumes, sigma).numpy(), expected, atol=1e-5)
    assert gaussian_baseline(volumes, sigma).min() == 0
    with pytest.raises(CryodenError, match="above 0"):
        gaussian_filter(volumes, 0)


@pytest.fixture(scope="module")
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Clean volumes with blobs, and white noise of the same standard deviation."""
    generator = torch.Generator().manual_seed(0)
    clean = gaussian_filter((torch.rand(2, 1, 16, 16, 16, generator=generator) > 0.98).float(), 1.5)
    return clean, torch.randn(clean.shape, generator=generator) * clean.std()


@pytest.mark.parametrize("filter", FILTERS, ids=lambda filter: filter.name)
def test_each_filter_denoises_at_its_best_setting(filter: Filter, blobs) -> None:
    clean, noise = blobs
    degraded = clean + noise
    best = best_setting(filter, degraded, clean)
    scores = {setting: nrmse(filter(degraded, setting), clean).median().item() for setting in filter.candidates}
    assert best == min(scores, key=scores.__getitem__)
    assert scores[best] < 0.75 * nrmse(degraded.clamp(min=0), clean).median().item()
    # noisier volumes want more of it, and the unit does not matter
    assert best_setting(filter, clean + 0.1 * noise, clean) <= best <= best_setting(filter, clean + 2 * noise, clean)
    torch.testing.assert_close(filter(100 * degraded, best), 100 * filter(degraded, best), rtol=1e-4, atol=1e-4)
    one = filter(degraded[1:], best)[0]
    torch.testing.assert_close(filter(degraded, best)[1], one)  # whatever batch a volume is in


def test_filters_are_set_on_volumes_that_validate(module: ParticleDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list = []

    def found(dataset: VolumeDataset, indices: list[int], *_: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((dataset.seed, list(indices)))
        return torch.ones(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)

    monkeypatch.setattr(baselines, "pairs", found)
    tuned_filters(module, lambda *_: None)
    assert seen == [(module.validation_volumes().seed, [0, 1, 2, 3])]
    assert module.validation_volumes().seed != module.test_volumes().seed
