"""A comparison of made-up methods."""

from cryoden.data import ParticleDataModule
from cryoden.evaluation.evaluate import TRIVIAL, evaluate
from cryoden.evaluation.results import Comparison, Model


def comparison_of(module: ParticleDataModule, methods: dict, indices: tuple[int, ...] = (0, 2)) -> Comparison:
    filters = {"Gaussian filter": lambda v: 0.5 * v}
    all_methods = {**TRIVIAL, **filters, **methods}
    found = evaluate(all_methods, module.test_volumes(), indices, voxel_size=10.0, batch_size=2)
    models = {name: Model(name, "", "", name, 1, 10.0, "0") for name in methods if name in found.values}
    return Comparison("control", found, 10.0, {}, models, {"Gaussian filter": ("σ", 0.5)}, found.failed)
