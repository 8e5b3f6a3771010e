from pathlib import Path

from cryoden.checkpoint import export_weights
from cryoden.data import ParticleDataModule
from cryoden.evaluation.models import Model, load_models, notes
from cryoden.modules.recipes import CompactUnetAE
from cryoden.runs import trained_on


def test_what_makes_numbers_less_than_they_seem_is_noted(runs: Path) -> None:
    checkpoint = runs / "simple" / "version_0" / "checkpoints" / "best.ckpt"
    held_out = ParticleDataModule(
        entries=["phantom:1", "phantom:2"], holdout=["phantom:2"], copies=2, val_fraction=0.5, voxel_size=8.0
    )
    model = Model("run", str(checkpoint), "", "SimpleAE", 1, 10.0, "0", {"val/psnr": [(1.0, 20.0)]})
    said = notes({"SimpleAE": model}, held_out)
    assert any("trained at 10 Å per voxel and tested at 8 Å" in note for note in said)
    assert any("metrics.csv of SimpleAE has no val/nrmse" in note for note in said)
    assert any("trained on phantom:2, which is held out here" in note for note in said)


def test_what_a_run_was_trained_on_is_known_however_it_was_spelt(tmp_path: Path) -> None:
    entries = "entries: [1BXN, 'phantom:02', structures/1u6g.cif.gz, 3CF3], holdout: [3cf3]"
    (tmp_path / "config.yaml").write_text(f"data: {{init_args: {{{entries}}}}}")
    assert trained_on(tmp_path / "last.ckpt") == {"1bxn", "phantom:2", "1u6g"}
    model = Model("run", str(tmp_path / "last.ckpt"), "", "SimpleAE", 1, 6.0, "0")
    (*_, said) = notes({"SimpleAE": model}, ParticleDataModule(entries=["phantom:1"], holdout=["pdb_00001BXN"]))
    assert said == "SimpleAE was trained on 1bxn, which is held out here: not unseen to it"


def test_two_runs_of_a_system_keep_their_names(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    export_weights(CompactUnetAE(channels=4, levels=2), other)
    words = [str(runs / "compact.safetensors"), str(other), str(runs / "simple" / "version_0")]
    models, denoisers, failed = load_models([*words, words[0]])  # given twice, it is taken once
    names = [f"CompactUnetAE ({words[0]})", f"CompactUnetAE ({words[1]})", "SimpleAE"]
    assert list(models) == list(denoisers) == names
    assert failed == {}
    assert models["SimpleAE"].history["val/nrmse"][0][0] == 1  # of two epochs
    assert len(models["SimpleAE"].history["train/loss"]) == 2
    assert models[names[0]].history == {}
