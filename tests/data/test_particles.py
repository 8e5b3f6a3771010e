import gzip
from pathlib import Path
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest
import torch

from cryoden import (
    CryodenError,
    GaussianNoise,
    MissingWedge,
    ParticleDataModule,
    SceneContents,
    SceneDataModule,
    TiltSeriesDegradation,
)
from cryoden.data.base import TEST, TRAIN
from cryoden.data.dataset import EpochSampler, item_generator, random_box, shows_something
from cryoden.particles import load_particle
from cryoden.simulation import Background, SaltAndPepper, Surroundings, TiltScheme
from cryoden.simulation.degradation import without_margin
from cryoden.simulation.presets import PRESETS
from tests.data.made import epochs, made

SMALL = {"box": 32, "voxel_size": 10, "resolution": 20, "batch_size": 2}


@pytest.fixture(scope="module")
def particles() -> dict:
    module = ParticleDataModule(entries=["phantom:1", "phantom:2"], copies=2, val_fraction=0.5, **SMALL)
    module.setup()
    return module.loaded


def module(particles: dict, **arguments) -> ParticleDataModule:
    data = ParticleDataModule(
        **{
            "entries": ["phantom:1", "phantom:2"],
            "copies": 5,
            "val_fraction": 0.4,
            "num_workers": 0,
            **SMALL,
            **arguments,
        }
    )
    data.loaded = particles
    return data


def test_items_do_not_depend_on_the_workers(particles: dict) -> None:
    for ours, theirs in zip(epochs(module(particles)), epochs(module(particles, num_workers=2)), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a["entry"] == b["entry"]
            for name in ("clean", "degraded", "rotation"):
                assert torch.equal(a[name], b[name])


def test_batches_are_as_documented(particles: dict) -> None:
    data = module(particles)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for batch in (data.on_after_batch_transfer(next(iter(loader)), 0) for loader in loaders):
        assert set(batch) == {"clean", "degraded", "measured", "entry", "rotation", "parameters"}
        assert batch["clean"].shape == batch["degraded"].shape == (2, 1, 32, 32, 32)
        assert batch["clean"].dtype == batch["degraded"].dtype == torch.float32
        measured = batch["measured"].expand(2, 32, 32, 17)
        left, whole = (torch.fft.rfftn(batch[kind][:, 0], dim=(1, 2, 3)) for kind in ("degraded", "clean"))
        assert left[~measured].abs().max() < 1e-4 * whole.abs().max() < left[measured].abs().max()


SERIES = TiltSeriesDegradation(voxel_size=10.0, scheme=TiltScheme(step=20.0))


def test_a_particle_is_imaged_with_its_neighbours_and_keeps_what_reaches_into_its_box(particles: dict) -> None:
    alone, lone, crowded = (
        module(particles, degradation=[step], surroundings=Surroundings(occupancy)).test_volumes()
        for step, occupancy in ((MissingWedge(), 0.3), (SERIES, 0.0), (SERIES, 0.3))
    )
    z, y, x = SERIES.context
    for index in range(3):
        generator = item_generator(alone.seed, 0, index)
        first, second, third = (each[0, index] for each in (alone, lone, crowded))
        assert torch.equal(first["clean"], second["clean"])
        assert torch.equal(first["rotation"], third["rotation"])
        specimen = crowded.make(index, generator)
        imaged = specimen["imaged"][0]
        assert imaged.shape == (32 + 2 * z, 32 + 2 * y, 32 + 2 * x)
        assert torch.equal(imaged[z : z + 32, y : y + 32, x : x + 32], third["clean"][0])
        parts = imaged[:z], imaged[-z:], imaged[..., :x], imaged[..., -x:]
        assert all(part.max() > 0.5 for part in parts)  # above, below and beside
        there = first["clean"] > 0.3 * first["clean"].max()
        reaching = third["clean"] - first["clean"]
        assert reaching[there].abs().max() < 0.3  # what a neighbour has beside it, not the neighbour
        in_context = SERIES.apply_within(specimen["imaged"][None], [third["parameters"][0]], SERIES.context)[0]
        assert torch.allclose(third["degraded"], in_context, atol=1e-5)


def test_particles_that_train_are_degraded_in_their_surroundings_too(particles: dict) -> None:
    surroundings = Surroundings(0.2, Background(proteins=100.0, solutes=0.0))
    data = module(particles, degradation=[SERIES], surroundings=surroundings)
    batch = next(iter(data.train_dataloader()))
    clean, imaged, parameters = batch["clean"].clone(), batch["imaged"].clone(), batch["parameters"]
    seen = data.on_after_batch_transfer(batch, 0)
    assert "imaged" not in seen
    assert seen["degraded"].shape == clean.shape == (2, 1, 32, 32, 32)
    in_context = SERIES.apply_within(imaged, [each[0] for each in parameters], SERIES.context)
    assert torch.equal(seen["degraded"], in_context)
    background = (without_margin(imaged, SERIES.context) - clean)[clean.abs() < 0.02]
    assert background.std() > 0.01


def test_a_preset_gives_what_is_not_given(particles: dict) -> None:
    given = PRESETS["realistic"](10.0)
    data = module(particles, preset="realistic")
    assert (data.degradation, data.surroundings) == ([given.degradation], given.surroundings)
    stated = module(particles, preset="realistic", degradation=[SERIES], surroundings=Surroundings(0.1))
    assert (stated.degradation, stated.surroundings) == ([SERIES], Surroundings(0.1))
    plain = module(particles)
    assert not any(isinstance(step, TiltSeriesDegradation) for step in plain.degradation)


@pytest.mark.parametrize("kind", [ParticleDataModule, SceneDataModule])
def test_density_has_its_unit_and_the_thesis_sampling_is_asked_for(kind: type) -> None:
    """Protein of about 1 at this resolution, in any volume; the thesis divided each by its maximum."""
    contents = {"contents": SceneContents(count=2)} if kind is SceneDataModule else {}
    scaled, thesis = (made(kind, sampling=sampling, **contents) for sampling in ("band-limited", "thesis"))
    peaks = [float(data.test_volumes()[0, i]["clean"].max()) for data in (scaled, thesis) for i in range(2)]
    assert peaks[:2] == [pytest.approx(1, abs=0.4)] * 2
    assert len(set(peaks)) == 3
    assert peaks[2:] == [1, 1]


@pytest.mark.parametrize("fresh", [True, False])
def test_fresh_rotations_differ_by_epoch_and_fixed_ones_do_not(particles: dict, fresh: bool) -> None:
    one, two = (torch.cat([b["rotation"] for b in e]).flatten(1) for e in epochs(module(particles, fresh=fresh)))
    repeated = (one[:, None] == two[None]).all(-1).any(1)
    assert repeated.all() if not fresh else not repeated.any()


def test_validation_never_changes_and_is_not_test_or_training(particles: dict) -> None:
    data = module(particles, holdout=["phantom:2"])
    loader = data.val_dataloader()
    first = list(loader)
    loader.sampler.set_epoch(7)
    for a, b in zip(first, loader, strict=True):
        assert torch.equal(a["degraded"], b["degraded"])
    assert [entry for batch in first for entry in batch["entry"]] == ["phantom:2"] * 2
    assert {entry for batch in epochs(data, 1)[0] for entry in batch["entry"]} == {"phantom:1"}
    assert not torch.equal(next(iter(data.test_dataloader()))["rotation"], first[0]["rotation"])


@pytest.mark.parametrize(
    ("trained", "held_out", "name"),
    [
        ("1BXN", "1bxn", "1bxn"),
        ("pdb_00001bxn", "1BXN", "1bxn"),
        ("structures/1bxn.pdb.gz", "1bxn", "1bxn"),
        ("4V4R_30s", "4v4r_30S", "4v4r_30s"),
        ("structures/pdb1bxn.ent.gz", "1bxn", "1bxn"),
        ("1bxn", "structures/1BXN-assembly1.cif.gz", "1bxn"),
        ("phantom:01", "phantom:1", "phantom:1"),
        ("a/../blob.mrc:26", "blob.mrc", str(Path("blob.mrc").resolve())),
    ],
)
def test_what_is_held_out_does_not_train_however_it_is_spelt(trained: str, held_out: str, name: str) -> None:
    data = ParticleDataModule(entries=[trained, "phantom:2"], holdout=[held_out], **SMALL)
    assert data.entries[TRAIN] == ["phantom:2"]
    assert data.entries[TEST] == [held_out]
    assert data.unseen == {name}
    with pytest.raises(CryodenError, match="nothing left to train on"):
        ParticleDataModule(entries=[trained], holdout=[held_out], **SMALL)


@pytest.mark.parametrize("argument", ["entries", "holdout"])
def test_each_particle_is_given_once(argument: str) -> None:
    given = {"entries": ["phantom:2"], argument: ["phantom:1", "phantom:3", "phantom:01"]}
    with pytest.raises(
        CryodenError, match=f"^{argument}: phantom:1 and phantom:01 are the same particle, .* leave one"
    ):
        ParticleDataModule(**given, **SMALL)


def test_names_tell_particles_apart(tmp_path: Path) -> None:
    structure = gemmi.Structure()
    structure.add_model(load_particle("phantom:1").model)
    paths = [tmp_path / folder / "mine.pdb" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        structure.write_pdb(str(path))
    with pytest.raises(CryodenError, match=r"entries: .*a/mine.pdb and .*b/mine.pdb would both be called mine; ren"):
        ParticleDataModule(entries=[str(path) for path in paths], **SMALL).setup()


def test_what_is_held_out_does_not_train_under_another_name(tmp_path: Path) -> None:
    structure = gemmi.Structure()
    structure.add_model(load_particle("phantom:1").model)
    (tmp_path / "mine.pdb.gz").write_bytes(gzip.compress(structure.make_pdb_string().encode()))
    entries = [f"{tmp_path}/mine.pdb.gz", "phantom:2"]
    held_out = ParticleDataModule(entries=entries, holdout=["phantom:1"], **SMALL)
    with pytest.raises(
        CryodenError, match=r"holdout: phantom:1 is the same particle as .*mine.pdb.gz, which is trained on"
    ):
        held_out.setup()
    ParticleDataModule(entries=[*entries, "phantom:1"], **SMALL).setup()  # where all of them train they may


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_items(particles: dict, world_size: int) -> None:
    dataset = module(particles, copies=11, val_fraction=0.1).test_volumes()
    dataset.copies = 5  # 10 items
    for shuffle in (True, False):
        samplers = [EpochSampler(dataset, shuffle=shuffle, rank=r, world_size=world_size) for r in range(world_size)]
        items = [list(sampler) for sampler in samplers]
        assert [len(sampler) for sampler in samplers] == [len(i) for i in items]
        seen = [index for rank in items for _, index in rank]
        assert len(set(seen)) == len(seen)
        if shuffle:
            assert len({len(i) for i in items}) == 1
            samplers[0].set_epoch(1)
            assert list(samplers[0]) != items[0]
        else:
            assert sorted(seen) == list(range(10))


def test_the_order_of_an_epoch_is_the_seeds() -> None:
    orders = [list(EpochSampler([0] * 20, shuffle=True, seed=seed)) for seed in (0, 0, 1)]  # type: ignore[arg-type]
    assert orders[0] == orders[1] != orders[2]


def test_a_box_is_cut_where_there_is_more_than_faint_background() -> None:
    volume = np.full((12, 12, 60), 0.09, np.float32)
    assert not shows_something(volume)
    volume[6, 6, 30] = 0.11
    generator = torch.Generator().manual_seed(0)
    assert all(shows_something(volume[random_box(volume, 12, generator)]) for _ in range(20))


def test_all_arguments_are_logged_whichever_class_takes_them() -> None:
    data = ParticleDataModule(entries=["phantom:1"], copies=5, batch_size=3, seed=4)
    assert data.hparams.items() >= {"entries": ["phantom:1"], "copies": 5, "batch_size": 3, "seed": 4}.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"copies": 1}, "each must be at least 1"),
        ({"holdout": ["phantom:1", "phantom:2"]}, "nothing left to train on"),
        ({"box": 0}, "box: got 0"),
        ({"seed": -1}, "seed: got -1; allowed is a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed: got 4294967296; allowed"),
        ({"seed": 2**70}, "seed: got 1180591620717411303424; allowed"),
        ({"val_fraction": float("nan")}, "val_fraction: got nan; allowed is a number between 0 and 1"),
        ({"val_fraction": float("inf")}, "val_fraction: got inf; allowed"),
        ({"val_fraction": 1.0}, "val_fraction: got 1.0; allowed"),
        (
            {"degradation": [TiltSeriesDegradation(voxel_size=10.0)], "sampling": "thesis"},
            "TiltSeriesDegradation.potential: got null for sampling 'thesis'",
        ),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(CryodenError, match=message):
        ParticleDataModule(**{"entries": ["phantom:1", "phantom:2"], **SMALL, **arguments})


def test_more_processes_than_volumes_are_refused() -> None:
    data = ParticleDataModule(entries=["phantom:1"], copies=5, box=16, voxel_size=20, num_workers=0)
    data.setup()
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)
    data.trainer.strategy = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    assert len(data.train_dataloader().sampler) == 2
    with pytest.raises(CryodenError, match="1 volumes to validate on are too few for 2 processes"):
        data.val_dataloader()


@pytest.mark.parametrize(
    ("arguments", "experiment"),
    [
        ({}, "control"),
        ({"copies": 7, "batch_size": 3}, "control"),
        ({"holdout": ["1bxn"]}, "unseen-particle"),
        ({"degradation": [GaussianNoise(), SaltAndPepper()]}, "different-noise"),
        ({"holdout": ["1f2n"]}, None),
        ({"entries": ["1u6g", "1bxn"]}, None),
        ({"box": 32}, None),
        ({"voxel_size": 10.0, "resolution": 20.0}, None),
        ({"sampling": "band-limited"}, None),
        ({"degradation": [SaltAndPepper()]}, None),
        ({"assembly": "1"}, None),
        ({"ligands": False}, None),
        ({"degradation": [GaussianNoise(snr=0.1), MissingWedge()]}, None),
    ],
)
def test_an_experiment_is_the_theses_only_where_the_volumes_are(arguments: dict, experiment: str | None) -> None:
    assert ParticleDataModule(**{"sampling": "thesis", **arguments}).experiment == experiment
