"""The trained models that come with cryoden, and what picks one."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import cryoden.models
from cryoden.checkpoint import export_weights, load_denoiser
from cryoden.cli import main
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.models import nearest_model, shipped_models
from cryoden.networks import CompactUnet
from cryoden.volume import Volume, write_volume


@pytest.fixture(params=list(shipped_models()))
def shipped(request: pytest.FixtureRequest):
    return shipped_models()[request.param]


def test_each_is_listed_with_its_range(shipped, capsys):
    main(["models"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{shipped.name}: "))
    low, high = shipped.voxel_sizes
    told = f"trained at {shipped.voxel_size:g} Å, for {low:g}–{high:g} Å, beyond 10 % with --rescale; expects "
    assert told in line


def test_each_is_small_and_was_trained_at_the_voxel_size_of_its_card(shipped):
    assert shipped.weights.stat().st_size < 5e6
    assert load_denoiser(shipped.weights).voxel_size == shipped.voxel_size
    low, high = shipped.voxel_sizes
    assert low < shipped.voxel_size < high


def test_each_gives_what_it_gave(shipped, capsys):
    main(["models", "check", shipped.name])
    assert f"{shipped.name}: as it should be; off by float32 on cpu" in capsys.readouterr().out


def test_a_card_tells_how_it_was_made(shipped, capsys):
    main(["models", "card", shipped.name])
    card = capsys.readouterr().out
    for told in ("held out", "CC-BY-4.0", "Not for averaging", "seed", "hours", "1bxn"):
        assert told.lower() in card.lower(), told


def test_other_weights_or_another_answer_are_told(shipped, monkeypatch, tmp_path):
    for file in cryoden.models.FOLDER.glob("cryoden-*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(cryoden.models, "FOLDER", tmp_path)
    assert shipped.weights.parent == tmp_path
    whole = shipped.check.read_bytes()
    shipped.check.write_bytes(whole[:-4] + np.float32(1e3).tobytes())
    with pytest.raises(SystemExit, match="2"):
        main(["models", "check", shipped.name])
    shipped.check.write_bytes(whole)
    weights = bytearray(shipped.weights.read_bytes())
    weights[-1] ^= 1
    shipped.weights.write_bytes(weights)
    with pytest.raises(SystemExit, match="2"):
        main(["models", "check", shipped.name])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["crad", "cryoden-10A"], "models: got 'crad'; allowed are nothing, card and check"),
        (["check", "nope"], "models check: no model 'nope'; there are cryoden-10A, cryoden-16A"),
        (["card"], "models card: got 0 names; give one of cryoden-"),
    ],
)
def test_what_is_no_model_is_refused(words, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["models", *words])
    assert told in capsys.readouterr().err


def test_the_nearest_is_so_as_a_ratio():
    models = list(shipped_models().values())
    for model in models:
        assert nearest_model(model.voxel_size) is model
    for one, other in pairwise(models):
        middle = (one.voxel_size * other.voxel_size) ** 0.5
        assert (nearest_model(middle * 0.99), nearest_model(middle * 1.01)) == (one, other)


def test_a_tomogram_is_denoised_by_the_nearest_where_none_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    data = random.normal(size=(16, 24, 24)).astype(np.float32)
    write_volume("in.mrc", Volume(data, 10.5))
    write_volume("nowhere.mrc", Volume(data, 0.0))
    main(["denoise", "in.mrc", "out.mrc", "--contrast", "bright"])
    told = capsys.readouterr().out
    assert "model cryoden-10A (trained at 10 Å, the nearest to 10.5 Å) on" in told
    write_volume("fine.mrc", Volume(data, 8.5))
    with pytest.raises(SystemExit, match="2"):
        main(["denoise", "fine.mrc", "out2.mrc", "--contrast", "bright", "--dry-run"])
    told = capsys.readouterr()
    assert "model cryoden-10A (trained at 10 Å, the nearest to 8.5 Å, beyond 10 % with --rescale)" in told.out
    assert "its voxels are 8.5 Å, and the model was trained at 10 Å; resample it there and back with" in told.err
    main(["denoise", "in.mrc", "named.mrc", "--contrast", "bright", "--model", "cryoden-10A"])
    one, other = (cryoden.read_volume(name).data for name in ("out.mrc", "named.mrc"))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(SystemExit, match="2"):
        main(["denoise", "nowhere.mrc", "out2.mrc", "--contrast", "bright"])
    assert "nowhere.mrc: has no voxel size, by which a model is chosen; give --voxel-size" in capsys.readouterr().err


def test_a_name_is_a_model_for_python_too():
    with pytest.raises(CryodenError, match=r"no such file or folder; give a run's folder.*a name of `cryoden models`"):
        load_denoiser("mine")
    with pytest.raises(CryodenError, match=r"no such file or folder; did you mean cryoden-10A\? give"):
        load_denoiser("cryoden-10a")
    assert isinstance(load_denoiser("cryoden-10A"), torch.nn.Module)


def test_what_lies_in_the_working_folder_does_not_take_the_place_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_weights(Denoiser(CompactUnet(channels=2, levels=2)), "cryoden-10A/last.safetensors")
    shipped = load_denoiser("cryoden-10A")
    assert (shipped.name, shipped.voxel_size) == ("cryoden-10A", 10.0)
    for mine in ("./cryoden-10A", Path("cryoden-10A")):
        assert load_denoiser(mine).name == "CompactUnet"
