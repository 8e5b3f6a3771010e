"""`cryoden simulate`: what a lab would get, as files that other programs and cryoden itself read."""

import json
from itertools import product
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
import yaml

from cryoden import CryodenError, ParticleDataModule, read_volume
from cryoden.cli import main
from cryoden.commands.simulate import simulate
from cryoden.data.base import TEST, TRAIN, VALIDATION
from cryoden.data.pairs import PairDataModule
from cryoden.inference.tilts import find_tilts
from cryoden.simulation.degradation import GaussianNoise, MissingWedge, SaltAndPepper
from cryoden.simulation.scene import SceneContents
from cryoden.simulation.tables import read_shrec_table
from cryoden.simulation.tilt_series import Exposure, TiltScheme, TiltSeriesDegradation

EXPERIMENTS = Path(__file__).parents[2] / "experiments" / "simulations"

SMALL = {"voxel_size": 10.0, "resolution": 20.0}


def tilt_series(dose: float = 3000.0) -> TiltSeriesDegradation:
    return TiltSeriesDegradation(
        voxel_size=10.0, potential=4.8, scheme=TiltScheme(step=6.0), exposure=Exposure(dose=dose)
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene and its tilt series, with so many electrons that something is to be seen."""
    folder = tmp_path_factory.mktemp("lab")
    contents = SceneContents(count=12, vesicles=1, vesicle_diameter=120.0, fiducials=1)
    scene = {"shape": (24, 48, 48), "contents": contents}
    entries = ["phantom:1", "phantom:2"]
    made = list(simulate(entries, str(folder), **scene, degradation=[tilt_series()], **SMALL))
    told = [line for line in made if not line.startswith(tuple(entries))]  # which tell of the structures
    assert len(made) - len(told) == len(entries)
    assert told[0].startswith("tilt series on ")
    assert "1 vesicle, 1 fiducial" in told[1]
    (images,) = (line for line in told if "images from" in line)
    assert "scene_0: 21 images from -60.0 to 60.0 degrees, 3000 electrons per Å²" in images
    assert {Path(name).name for name in told[2:] if name != images} == {path.name for path in folder.iterdir()}
    return folder


def read(folder: Path, kind: str) -> np.ndarray:
    return read_volume(folder / f"scene_0_{kind}.mrc").data


def test_the_tomogram_shows_the_clean_volume_with_dark_protein(lab):
    clean, degraded = read(lab, "clean"), read(lab, "degraded")
    assert np.corrcoef(clean.ravel(), degraded.ravel())[0, 1] < -0.3
    noisefree = read(lab, "noisefree")
    assert np.corrcoef(noisefree.ravel(), degraded.ravel())[0, 1] > 0.5


def test_halves_make_the_whole_and_differ_in_noise(lab):
    even, odd, whole = (read(lab, kind) for kind in ("EVN", "ODD", "degraded"))
    # the weight of a half's images is twice that of the whole's
    assert np.corrcoef((even + odd).ravel(), whole.ravel())[0, 1] > 0.98
    assert np.corrcoef(even.ravel(), odd.ravel())[0, 1] < 0.9


def test_labels_and_tables_agree(lab):
    labels, classes = read(lab, "labels"), read(lab, "classes")
    table = starfile.read(lab / "scene_0_particles.star")
    placements = read_shrec_table(lab / "scene_0_particle_locations.txt")
    assert len(placements) == len(table) == labels.max() == 14
    for number, (placement, row) in enumerate(zip(placements, table.itertuples(), strict=True), start=1):
        np.testing.assert_array_equal(
            placement.position[::-1], [row.rlnCoordinateX, row.rlnCoordinateY, row.rlnCoordinateZ]
        )
        of_it = labels == number
        assert set(classes[of_it]) == {row.rlnClassNumber}
        if placement.particle != "vesicle":  # whose centre is empty
            centre = np.argwhere(of_it).mean(axis=0)
            np.testing.assert_allclose(centre, placement.position, atol=2)
    assert {p.particle for p in placements} == {"phantom:1", "phantom:2", "vesicle", "fiducial"}


def test_the_tilt_series_is_a_stack_of_counts_with_its_angles(lab):
    with mrcfile.open(lab / "scene_0_tilts.st") as stack:
        assert stack.is_image_stack()
        assert stack.data.shape == (21, 48, 48)
        assert stack.voxel_size.x == stack.voxel_size.z == 10
        assert (stack.data == np.round(stack.data)).all()
        middle, ends = stack.data[10].mean(), stack.data[[0, -1]].mean()
        assert 0 < ends < 0.8 * middle  # through twice as much ice
    angles = np.loadtxt(lab / "scene_0_tilts.tlt")
    np.testing.assert_array_equal(angles, np.arange(-60, 61, 6))


def test_pairs_to_train_on(lab):
    data = PairDataModule(str(lab), box=24, boxes=2, num_workers=0)
    data.setup("test")
    item = data.test_volumes()[0, 0]
    assert np.corrcoef(item["clean"].ravel(), item["degraded"].ravel())[0, 1] > 0.2
    # the wedge is the one that was drawn for this tomogram
    told = json.loads((lab / "scene_0_degradation.json").read_text())
    assert told["tilt_range"] == [-60.0, 60.0]
    wedge = MissingWedge().measured(item["clean"][None], [{"tilt_min": -60, "tilt_max": 60}])[0]
    assert torch.equal(item["measured"], wedge)


def test_frame_halves_make_the_whole(lab):
    full, first, second = (read_volume(lab / f"scene_0_{kind}.mrc").data for kind in ("degraded", "half1", "half2"))
    np.testing.assert_allclose((first + second) / 2, full, atol=1e-3 * full.std())
    assert not np.array_equal(first, second)


def test_a_preset_is_a_tomogram_of_any_lab(tmp_path):
    told = list(simulate(["phantom:1"], str(tmp_path), preset="realistic", shape=(32, 64, 64), **SMALL))
    assert any("images from" in line for line in told)
    drawn = json.loads((tmp_path / "scene_0_degradation.json").read_text())
    assert 20 <= drawn["exposure"]["dose"] <= 160
    assert drawn["weighting"] in ("ramp", "exact")


def test_a_file_of_settings(tmp_path, monkeypatch, capsys):
    """Words and flags override the file's."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "entries": ["phantom:1"],
        "shape": [24, 32, 32],
        "contents": {"count": 3},
        "degradation": [{"class_path": "MissingWedge", "init_args": {"tilt_range": [-40, 50]}}],
        **SMALL,
    }
    Path("scene.yaml").write_text(yaml.safe_dump(settings))
    main(["simulate", "--config", "scene.yaml", "--output=file"])
    main(["simulate", "phantom:1", "--config", "scene.yaml", "--contents.count=2", "--output=changed"])
    assert "scene_0: 3 phantom:1;" in capsys.readouterr().out
    assert len(read_shrec_table("file/scene_0_particle_locations.txt")) == 3
    assert len(read_shrec_table("changed/scene_0_particle_locations.txt")) == 2
    assert not Path("file/scene_0_tilts.st").exists()
    told = json.loads(Path("file/scene_0_degradation.json").read_text())
    assert told == {"tilt_range": [-40, 50], "steps": [{"step": "MissingWedge", "tilt_min": -40, "tilt_max": 50}]}
    spectrum = np.abs(np.fft.fftn(read_volume("file/scene_0_degraded.mrc").data))
    assert spectrum[8, 0, 0] < 1e-3 < spectrum[0, 0, 8]  # kz was not measured, kx was


@pytest.mark.parametrize("named", [["phantom:1"], ["--entries=[phantom:1]"]])
def test_the_configuration_that_is_printed_does_the_same_again(named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["simulate", *named, "--box=16", "--voxel-size=20", "--resolution=40", "--print_config"])
    printed = capsys.readouterr().out
    settings = yaml.safe_load(printed)
    assert settings["entries"] == ["phantom:1"]
    assert "words" not in settings
    Path("again.yaml").write_text(printed)
    main(["simulate", "--config=again.yaml"])
    assert read_volume("simulated/phantom-1_0_clean.mrc").data.shape == (16, 16, 16)


GLYCINE = """\
ATOM      1  N   GLY A   1      10.000  10.000  10.000  1.00  0.00           N
ATOM      2  CA  GLY A   1      11.458  10.000  10.000  1.00  0.00           C
ATOM      3  H   GLY A   1      30.000  10.000  10.000  1.00  0.00           H
END
"""


def test_how_a_structure_is_read_is_asked_for_by_flags(tmp_path, monkeypatch):
    """They are those of load_particle, and bare words may follow them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gly.pdb").write_text(GLYCINE)
    for output, flags in (("without", []), ("with", ["--hydrogens"])):
        main(["simulate", *flags, "gly.pdb", f"--output={output}", "--box=16", "--voxel_size=3", "--resolution=6"])
    without, with_it = (read_volume(f"{folder}/gly_0_clean.mrc").data for folder in ("without", "with"))
    assert np.abs(without - with_it).max() > 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "entries: none given"),
        (["phantom:1", "--config=no.yaml"], "no.yaml: no such file"),
        (["phantom:1", "--copies=0"], "copies: got 0"),
        (["phantom:1", "--seed=-1"], "seed: got -1; allowed is a whole number from 0 up"),
        (["phantom:1", "phantom:2", "phantom:1"], "entries: phantom:1 and phantom:1 are the same particle"),
        (["phantom:1", "phantom:01", "--shape=[32,48,48]"], "entries: phantom:1 and phantom:01 are the same particle"),
        (["1bxn", "PDB_00001BXN", "--contents.count=3"], "entries: 1bxn and PDB_00001BXN are the same particle"),
        (["phantom:1", "--shape=[32,48,48]"], "box: got 32 for a scene, which has none; leave it out, or give shape"),
        (["phantom:1", "--preset=realistic"], "box: got 32 for a scene"),
        (["phantom:1", "--contents.count=-3"], "count: got -3"),
        (["phantom:1", "--degradation+=MissingWedge", "--degradation.tilt_axis=x"], "MissingWedge.tilt_axis: got x"),
        (["phantom:1", "--shape=3", "--contents.count=3"], "shape: "),
        (["phantom:1", "--contents.count=3", "--contents.occupancy=0.1"], "give one of them"),
        (
            ["phantom:1", "--degradation+=TiltSeriesDegradation"],
            "TiltSeriesDegradation.voxel_size: got 6 Å for data of 10 Å",
        ),
    ],
)
def test_bad_input_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["simulate", *words, "--voxel_size=10", "--resolution=20", "--box=32"])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_name_that_tables_cannot_hold_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "my glycine.pdb").write_text(GLYCINE)
    with pytest.raises(CryodenError, match=r"'my glycine': a name in a table must be one word"):
        list(simulate([str(tmp_path / "my glycine.pdb")], str(tmp_path / "out"), shape=(16, 32, 32), **SMALL))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([GaussianNoise()], None),
        ([GaussianNoise(), MissingWedge((-60.0, 50.0))], (-60, 50)),
        ([MissingWedge((-60.0, 60.0)), MissingWedge((-70.0, 40.0))], (-60, 40)),
        ([tilt_series(), SaltAndPepper()], (-60, 60)),
    ],
)
def test_what_was_measured_is_told_of_any_steps(tmp_path, steps, expected):
    list(simulate(["phantom:1"], str(tmp_path), box=32, degradation=steps, **SMALL))
    found = find_tilts(tmp_path / "phantom-1_0_degraded.mrc")
    assert (found.low, found.high) == (expected or (-90, 90))


def test_no_volume_is_one_that_trains(tmp_path):
    """Also where all was left as it is."""
    list(simulate(["phantom:1"], str(tmp_path), copies=2, box=32, **SMALL))
    made = [read_volume(tmp_path / f"phantom-1_{i}_clean.mrc").data for i in range(2)]
    module = ParticleDataModule(entries=["phantom:1"], copies=4, box=32, num_workers=0, val_fraction=0.25, **SMALL)
    module.setup()
    for split, epochs in ((TRAIN, 2), (VALIDATION, 1), (TEST, 1)):
        dataset = module._dataset(split)
        for key in product(range(epochs), range(len(dataset))):
            assert not any(np.array_equal(dataset[key]["clean"][0].numpy(), volume) for volume in made)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CryodenError, match="file: is a file; give the name of a folder"):
        list(simulate(["phantom:1"], str(tmp_path / "file"), box=32, **SMALL))
    assert (tmp_path / "file").read_text() == "mine"


def test_the_same_seed_gives_the_same_files(tmp_path):
    for folder in ("one", "two"):
        list(simulate(["phantom:1"], str(tmp_path / folder), box=32, degradation=[tilt_series(100.0)], **SMALL))
    for path in (tmp_path / "one").glob("*.mrc"):
        np.testing.assert_array_equal(read_volume(path).data, read_volume(tmp_path / "two" / path.name).data)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_simulation_runs_small(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    main(["simulate", "phantom:1", "--config", str(path), "--shape=[24,32,32]", "--contents.vesicle_diameter=120"])
    whole = read_volume("simulated/scene_0_degraded.mrc")
    assert whole.data.shape == (24, 32, 32)
    assert np.isfinite(whole.data).all()
