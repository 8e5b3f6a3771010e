import numpy as np
import pytest
import torch

from cryoden.data import ParticleDataModule
from cryoden.errors import CryodenError
from cryoden.evaluation.evaluate import evaluate
from cryoden.simulation.degradation import GaussianNoise
from tests.evaluation.made import comparison_of


def test_a_method_that_fails_does_not_stop_the_others(module: ParticleDataModule) -> None:
    def raises(volumes):
        raise RuntimeError("size mismatch\nat the second line")

    methods = {
        "raises": raises,
        "nan": lambda v: v * torch.nan,
        "cropped": lambda v: v[..., 1:],
        "half": lambda v: v / 2,
    }
    found = comparison_of(module, methods).evaluation
    assert set(found.values) == {"input", "zeros", "Gaussian filter", "half"}
    assert found.failed["raises"] == "RuntimeError: size mismatch at the second line"
    assert found.failed["nan"] == "gave 65536 voxels that are NaN or infinite; its training went wrong: train it again"
    assert "gave volumes of shape (2, 1, 32, 32, 31)" in found.failed["cropped"]


def test_results_do_not_depend_on_the_batches(module: ParticleDataModule) -> None:
    def of(batch_size: int) -> dict:
        methods = {"half": lambda v: v / 2}
        found = evaluate(methods, module.test_volumes(), range(4), voxel_size=10, batch_size=batch_size)
        return {"sha256": found.sha256, **found.values["half"]}

    one, other = of(1), of(3)
    assert one.pop("sha256") == other.pop("sha256")
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_digest_is_of_degraded_voxels_too(module: ParticleDataModule) -> None:
    digests = [
        evaluate({}, module.test_volumes(steps), [1], voxel_size=10).sha256 for steps in (None, [GaussianNoise(0.5)])
    ]
    assert digests[0] != digests[1]


def test_nothing_to_compare_with_is_an_error(module: ParticleDataModule) -> None:
    class Constant(type(module.test_volumes())):
        def make(self, index, generator):
            return {**super().make(index, generator), "clean": torch.zeros(1, 32, 32, 32)}

    dataset = module.test_volumes()
    with pytest.raises(CryodenError, match="volumes: got none to evaluate"):
        evaluate({}, dataset, [], voxel_size=10)
    dataset.__class__ = Constant
    with pytest.raises(CryodenError, match=r"volume 2 \(phantom:2\): its clean volume is constant"):
        evaluate({}, dataset, [2], voxel_size=10)
