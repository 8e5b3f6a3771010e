"""`cryoden denoise` as a user meets it: words in, files and lines out."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from scipy.ndimage import gaussian_filter

from cryoden import Volume, export_weights, open_volume, read_volume, write_volume
from cryoden.checkpoint import load_denoiser
from cryoden.cli import main
from cryoden.denoiser import Denoiser
from cryoden.inference.engine import Engine
from cryoden.inference.jobs import find_files, half_jobs, single_jobs
from cryoden.inference.plan import make_plan
from cryoden.inference.quality import read_quality
from cryoden.inference.runner import Runner
from cryoden.inference.settings import Settings
from cryoden.networks import CompactUnet
from cryoden.signals import Stopped
from tests import apart

Command = Callable[..., int]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network that does something, as if trained at 10 Å."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    network = Denoiser(CompactUnet(channels=4, levels=2), voxel_size=10.0)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.generator.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    export_weights(network, path)
    return str(path)


@pytest.fixture
def denoise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> Command:
    """Runs the command in an empty folder; gives the exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> int:
        try:
            main(["denoise", "--tile=16", "--model", model, *words])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def tomogram(seed: int = 0, sign: float = 1.0, shape: tuple[int, int, int] = (20, 24, 28)) -> np.ndarray:
    """Noise with a few particles."""
    data = np.random.default_rng(seed).normal(size=shape)
    data[4:9, 5:10, 5:10] += 6
    data[10:15, 14:19, 16:21] += 6
    return (100 + 10 * sign * data).astype(np.float32)


def half(seed: int, shape: tuple[int, int, int] = (24, 96, 28)) -> np.ndarray:
    """Noise of its own with particles that end before Nyquist, as in halves of one tomogram."""
    signal = np.zeros(shape)
    signal[4:12, 5:13, 5:13] = signal[12:20, 14:22, 16:24] = 12
    noise = np.random.default_rng(seed).normal(size=shape)
    return (100 + 10 * (gaussian_filter(signal, 1.5) + noise)).astype(np.float32)


def test_what_is_passed_over_in_a_folder_is_told(denoise: Command, tmp_path: Path, capfd) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    write_volume(tmp_path / "in/sub/a.mrc", Volume(tomogram(), 10.0))
    for name in ("b.png", "c.st", "d.txt", "sub/e.mdoc", ".hidden"):
        (tmp_path / "in" / name).touch()
    assert denoise("in", "--output", "in/out", "--contrast=bright") == 0
    told = capfd.readouterr().err
    assert "passed over 4 files that are no .mrc, .rec, .map, .tif, .tiff or .zarr: in/b.png, in/c.st, in/d.txt" in told
    assert " and 1 more\n" in told
    assert denoise("in/sub/a.mrc", "--output", "in/out", "--contrast=bright") == 0
    assert "passed over" not in capfd.readouterr().err


class TestFormats:
    @pytest.mark.parametrize(
        ("given", "asked"),
        [
            ("in.tif", "out.tif"),
            ("in.ome.zarr", "out.zarr"),
            ("in.zarr", "out.mrc"),
            ("in.mrc", "out.ome.zarr"),
            ("in.mrc.gz", "out.tiff"),
        ],
    )
    def test_the_output_has_the_format_of_its_name_and_the_voxels_of_any_other(self, given, asked, denoise, capfd):
        write("in.mrc")
        assert denoise("in.mrc", "expected.mrc", "--contrast=bright") == 0
        write(given)
        assert denoise(given, asked, "--contrast=bright", "--preview") == 0
        volume = open_volume(asked)
        np.testing.assert_array_equal(volume.data, read_volume("expected.mrc").data)
        assert volume.voxel_size == pytest.approx(10)
        assert volume.labels[-1].endswith(", bright")
        assert Path(asked).with_suffix(".png").is_file()
        capfd.readouterr()
        assert denoise(given, asked, "--contrast=bright") == 0
        assert f"{given}: done already, {asked}" in capfd.readouterr().out
        write(given, tomogram(1))
        assert denoise(given, asked, "--contrast=bright") == 2
        assert f"{asked} exists" in capfd.readouterr().err

    def test_of_a_folder_each_result_has_the_format_of_its_input(self, denoise, capfd):
        for name in ("in/a.tif", "in/sub/b.ome.zarr", "in/c.rec", "in/TS_1_EVN.zarr"):
            write(name)
        Path("in/notes.txt").touch()
        assert denoise("in", "--output=in/out", "--contrast=bright") == 0
        for name in ("a.tif", "sub/b.ome.zarr", "c.mrc", "TS_1_EVN.zarr"):
            assert open_volume(f"in/out/{name}").labels
        told = capfd.readouterr().err
        assert "passed over 1 file that is no .mrc, .rec, .map, .tif, .tiff or .zarr: in/notes.txt\n" in told
        assert denoise("in", "--output=in/out", "--contrast=bright") == 0
        assert capfd.readouterr().out.count("done already") == 4

    def test_halves_may_be_of_any_format(self, denoise):
        for number, half in enumerate(("EVN", "ODD")):
            write(f"in/TS_1_{half}.zarr", tomogram(number))
        assert denoise("in", "--output=out", "--halves", "--contrast=bright") == 0
        first, second, mean = (read_volume(f"out/TS_1{half}.zarr").data for half in ("_EVN", "_ODD", ""))
        np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-4)

    def test_of_several_levels_that_of_the_model_is_taken(self, denoise, capfd):
        data = np.repeat(np.repeat(np.repeat(tomogram(shape=(20, 24, 70)), 2, 0), 2, 1), 2, 2)
        write("in.zarr", data, voxel_size=5.0)
        assert denoise("in.zarr", "out.zarr", "--contrast=bright") == 0
        assert "70 × 24 × 20 voxels (x, y, z) of 10 Å" in capfd.readouterr().out
        assert open_volume("out.zarr").data.shape == (20, 24, 70)
        assert denoise("in.zarr", "out.mrc", "--contrast=bright", "--voxel-size=5") == 2
        assert "its voxels are 5 Å, and the model was trained at 10 Å" in capfd.readouterr().err

    def test_a_tiff_that_does_not_tell_its_voxel_size_needs_it_stated(self, denoise, capfd):
        write("in.tif", voxel_size=0.0)
        assert denoise("in.tif", "out.tif", "--contrast=bright") == 2
        assert "has no voxel size; state it with --voxel-size" in capfd.readouterr().err
        assert denoise("in.tif", "out.tif", "--contrast=bright", "--voxel-size=10") == 0
        assert open_volume("out.tif").voxel_size == 10

    @pytest.mark.parametrize("output", ["in.zarr", "in.zarr/out.mrc", "in.zarr/0/out.mrc"])
    def test_an_input_folder_is_never_written_into(self, output, denoise, capfd):
        write("in.zarr")
        before = listing()
        assert denoise("in.zarr", output, "--contrast=bright", "--overwrite") == 2
        assert "is an input and would be an output" in capfd.readouterr().err
        assert listing() == before

    def test_a_store_is_replaced_whole_when_asked_and_other_folders_never(self, denoise, capfd):
        write("in.mrc")
        write("out.zarr", tomogram(1, shape=(8, 8, 8)))
        Path("folder.zarr").mkdir()
        Path("folder.zarr/mine.txt").touch()
        assert denoise("in.mrc", "out.zarr", "--contrast=bright", "--overwrite") == 0
        assert open_volume("out.zarr").data.shape == (20, 24, 28)
        assert denoise("in.mrc", "folder.zarr", "--contrast=bright", "--overwrite") == 2
        assert "cannot write folder.zarr: it is a folder" in capfd.readouterr().err
        assert listing("folder.zarr") == {"mine.txt"}

    def test_float16_is_refused_before_the_work_where_a_format_has_none(self, denoise, capfd):
        write("in.mrc")
        assert denoise("in.mrc", "out.tif", "--float16", "--contrast=bright") == 2
        assert "out.tif as float16, which OME-TIFF has not" in capfd.readouterr().err


class TestCopick:
    """Projects laid out as copick does: https://copick.github.io/copick, filesystem."""

    @pytest.fixture
    def project(self, denoise: Command, tmp_path: Path) -> str:
        for root, run, size, kind in (
            ("static", "TS_1", "10.000", "wbp"),
            ("static", "TS_1", "5.000", "wbp"),
            ("overlay", "TS_2", "10.000", "wbp"),
            ("overlay", "TS_2", "10.000", "sirt"),
            ("overlay", "TS_2", "10.000", "wbp_edges_features"),
        ):
            shape = (20, 24, 140) if size == "5.000" else (20, 24, 28)  # which has a level of 10 Å, too
            write(f"{root}/ExperimentRuns/{run}/VoxelSpacing{size}/{kind}.zarr", tomogram(shape=shape), float(size))
        roots = {f"{root}_root": f"local://{tmp_path / root}" for root in ("static", "overlay")}
        Path("copick.json").write_text(json.dumps({"config_type": "filesystem", "name": "test", **roots}))
        return "copick.json"

    def test_each_tomogram_of_a_type_is_denoised_into_the_overlay_as_another_type(self, project, denoise, capfd):
        before = listing("static")
        assert denoise(project, "--tomo-type=wbp", "--contrast=bright") == 2
        told = capfd.readouterr()
        assert "TS_1/VoxelSpacing5.000/wbp.zarr: its voxels are 5 Å" in told.err
        assert "1 of 3 tomograms failed" in told.err
        runs = Path("overlay/ExperimentRuns")
        for run in ("TS_1", "TS_2"):
            volume = open_volume(runs / run / "VoxelSpacing10.000/wbp-denoised.zarr")
            assert volume.data.shape == (20, 24, 28)
            assert volume.voxel_size == 10
        assert {path.parent.name for path in runs.glob("*/*/*denoised.zarr")} == {"VoxelSpacing10.000"}
        assert listing("static") == before
        words = [project, "--tomo-type=wbp", "--contrast=bright", "--rescale", "--output=out"]
        assert denoise(*words) == 0
        assert (
            open_volume("out" / runs.relative_to("overlay") / "TS_1/VoxelSpacing5.000/wbp-denoised.zarr").voxel_size
            == 5
        )
        capfd.readouterr()
        assert denoise(*words) == 0
        assert capfd.readouterr().out.count("done already") == 3

    def test_or_into_a_folder_that_is_laid_out_alike(self, project, denoise):
        before = listing("overlay")
        assert denoise(project, "--tomo-type=sirt", "--contrast=bright", "--output=out") == 0
        assert open_volume("out/ExperimentRuns/TS_2/VoxelSpacing10.000/sirt-denoised.zarr").labels
        assert listing("overlay") == before

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["copick.json"], "no --tomo-type is given; there are sirt, wbp"),
            (["copick.json", "--tomo-type=wbb"], "no tomogram of type wbb; there are sirt, wbp"),
            (["copick.json", "--tomo-type=wbp", "--halves"], "is given alone, with --tomo-type and without --halves"),
            (["a.mrc", "b.mrc", "--tomo-type=wbp"], "is given alone"),
            (["portal.json", "--tomo-type=wbp"], "s3://bucket is not on this machine"),
            (["list.json", "--tomo-type=wbp"], "is no copick project on this machine: it needs an overlay_root"),
            (["missing.json", "--tomo-type=wbp"], "cannot read missing.json"),
        ],
    )
    def test_what_is_no_project_or_has_no_such_type_is_refused(self, words, told, project, denoise, capfd):
        Path("portal.json").write_text('{"overlay_root": "s3://bucket"}')
        Path("list.json").write_text("[1]")
        assert denoise(*words) == 2
        assert told in capfd.readouterr().err


def write(name: str, data: np.ndarray | None = None, voxel_size: float = 10.0) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write_volume(name, Volume(tomogram() if data is None else data, voxel_size), overwrite=True)
    return Path(name)


def listing(folder: str = ".") -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


class TestOneTomogram:
    def test_sign_and_grey_scale_come_back(self, denoise, capfd):
        results = []
        for sign, word in ((1, "bright"), (-1, "dark")):
            data = tomogram(sign=sign)
            write("in.mrc", data)
            assert denoise("in.mrc", f"{word}.mrc") == 0
            told = capfd.readouterr().out
            assert re.search(rf"in\.mrc: 28 × 24 × 20 voxels .* of 10 Å, protein {word} \(skewness [+-]", told)
            assert "on cpu (the CPU" in told
            assert f"wrote {word}.mrc" in told
            results.append(sign * (read_volume(f"{word}.mrc").data - 100))
        assert 1 < results[0].std() < 100
        np.testing.assert_allclose(results[0], results[1], atol=1e-3)

    def test_every_option_at_once(self, denoise):
        write("in.mrc", voxel_size=0.0)
        words = ["--contrast=dark", "--voxel-size", "16", "--rescale", "--augment", "--float16", "--preview"]
        assert denoise("in.mrc", "out.mrc", *words, "--overlap=4", "--batch-size=2") == 0
        assert listing() == {"in.mrc", "out.mrc", "out.png"}
        with mrcfile.open("out.mrc") as mrc:
            assert (mrc.header.mode, mrc.voxel_size.x) == (12, 16)
            assert mrc.get_labels()[-1].endswith(", augmented, rescaled, dark")

    def test_existing_results_are_kept_unless_asked(self, denoise, capfd):
        write("in.mrc")
        write("out.mrc", tomogram(1))
        before = Path("out.mrc").read_bytes()
        assert denoise("in.mrc", "out.mrc") == 2
        assert "out.mrc exists; choose another name or allow overwriting (--overwrite)" in capfd.readouterr().err
        assert Path("out.mrc").read_bytes() == before
        assert denoise("in.mrc", "out.mrc", "--overwrite") == 0
        assert Path("out.mrc").read_bytes() != before

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["in.mrc"],
                r"1 name without --output: give IN\.mrc OUT\.mrc, or any number of files with --output FOLDER",
            ),
            (["in.mrc", "b.mrc", "c.mrc"], "3 names without --output"),
            (["in.mrc", "out.mrc", "--halves"], "2 names and --halves without --output"),
            (["in.mrc", "out.h5"], r"cannot write out\.h5: give a name that ends in \.mrc, \.tif or \.zarr"),
            (["in.mrc", "nowhere/out.mrc"], "there is no folder nowhere; create it first"),
            (["loud.mrc", "out.mrc", "--float16"], r"loud\.mrc: has values up to .*, and float16 ends at 65504"),
            (
                ["faint.mrc", "out.mrc", "--float16"],
                r"faint\.mrc: .* a spread of .*e-08, and float16 has steps of 6e-08",
            ),
            (["high.mrc", "out.mrc", "--float16"], r"high\.mrc: its values are about 301\d\d, .* steps of 16 there"),
            (["missing.star", "--output=out"], r"cannot read missing\.star: there is no such file"),
            (["missing.mrc", "out.mrc"], r"cannot read missing\.mrc: No such file"),
            (["in.mrc", "out.mrc", "--tile=18"], "tile 18 does not suit the network: take a multiple of 4"),
            (["in.mrc", "out.mrc", "--voxel-size=20"], r"in\.mrc: its voxels are 20 Å, .* --rescale"),
            (["in.mrc", "out.mrc", "--devices=0"], "devices 0, nodes 1: each must be at least 1"),
            (["in.mrc", "--output=in.mrc"], r"--output in\.mrc is a file"),
            (["a.star", "in.mrc", "--output=out"], r"a\.star stands for all its tomograms: give it alone"),
            (["nowhere*", "--output=out"], r"nowhere\*: no file has such a name"),
        ],
    )
    def test_bad_words_get_one_line(self, denoise, capfd, words, message):
        write("in.mrc")
        write("loud.mrc", tomogram() * 1e4)
        write("faint.mrc", tomogram() * 1e-9)
        write("high.mrc", tomogram() + 3e4)
        assert denoise(*words) == 2
        told = capfd.readouterr().err.strip()
        assert re.search(f"^cryoden: error: .*{message}", told), told
        assert "\n" not in told
        assert listing() == {"in.mrc", "loud.mrc", "faint.mrc", "high.mrc"}


class TestMany:
    def test_a_failing_file_does_not_stop_the_rest_and_a_rerun_skips_what_is_done(self, denoise, capfd):
        write("data/a.mrc")
        write("data/b.mrc", np.full((20, 20, 20), 3, np.float32))
        write("data/c.rec", tomogram(2))
        Path("data/d.mrc").write_bytes(b"not a volume")
        write("data/e/f.mrc")
        Path("out/e/.f.mrc.lock").mkdir(parents=True)  # as where nothing may be written
        assert denoise("data", "--output", "out") == 2
        told = capfd.readouterr()
        assert listing("out") == {"a.mrc", "c.mrc"}
        assert re.search(r"error: data/b\.mrc: every voxel is 3", told.err)
        assert re.search(r"error: data/d\.mrc is not an MRC file", told.err)
        assert re.search(r"error: cannot write out/e/f\.mrc: Is a directory", told.err)
        assert told.err.endswith("cryoden: error: 3 of 5 tomograms failed, as told above; the rest are done\n")
        stamps = {name: Path("out", name).stat().st_mtime_ns for name in ("a.mrc", "c.mrc")}
        write("data/b.mrc", tomogram(3))
        Path("data/d.mrc").unlink()
        assert denoise("data/*.[mr]*", "--output", "out") == 0
        assert "data/a.mrc: done already, out/a.mrc" in capfd.readouterr().out
        assert listing("out") == {"a.mrc", "b.mrc", "c.mrc"}
        assert {name: Path("out", name).stat().st_mtime_ns for name in stamps} == stamps

    @pytest.mark.parametrize(
        "spoil",
        [
            "--augment",
            "--tile=20",
            "--overlap=4",
            "another shape",
            "truncated",
            "someone else's",
            "exchanged",
            "relabelled",
            "other model",
        ],
    )
    def test_only_its_own_valid_results_are_skipped(self, denoise, capfd, model, spoil):
        write("a.mrc")
        assert denoise("a.mrc", "--output", "out") == 0
        words = [spoil] if spoil.startswith("--") else []
        if spoil == "another shape":
            write("a.mrc", tomogram(shape=(21, 24, 28)))
        elif spoil == "truncated":
            Path("out/a.mrc").write_bytes(Path("out/a.mrc").read_bytes()[:-1])
        elif spoil == "someone else's":
            write("out/a.mrc")
        elif spoil == "exchanged":
            write("a.mrc", tomogram(1))
        elif spoil == "relabelled":
            with mrcfile.mmap("out/a.mrc", "r+") as mrc:
                mrc.add_label("another program")
        elif spoil == "other model":  # the same weights, but what is shown to them is another grey scale
            other = load_denoiser(model)
            export_weights(Denoiser(other.generator, standardize=False, voxel_size=10.0), "other.safetensors")
            words = ["--model", "other.safetensors"]
        assert denoise("a.mrc", "--output", "out", *words) == 2
        assert "out/a.mrc exists" in capfd.readouterr().err

    def test_a_source_that_was_copied_or_touched_is_the_same(self, denoise, capfd):
        write("a.mrc")
        assert denoise("a.mrc", "--output", "out") == 0
        os.utime("a.mrc", (1, 1))
        assert denoise("a.mrc", "--output", "out", "--contrast=bright") == 0
        assert "done already" in capfd.readouterr().out

    def test_a_source_that_is_cut_short_while_it_is_read_gives_one_line_and_no_result(
        self, denoise, capfd, monkeypatch
    ):
        """A bus error would end the process."""
        path = write("a.mrc")
        run = Engine.run

        def cut(*words: object) -> None:
            os.truncate(path, 5000)
            run(*words)

        monkeypatch.setattr(Engine, "run", cut)
        assert denoise("a.mrc", "out.mrc") == 2
        assert "a.mrc was cut short while it was read" in capfd.readouterr().err
        assert listing() == {"a.mrc"}

    def test_a_disk_that_has_no_room_for_the_scratch_file_gives_one_line_and_leaves_nothing(self, denoise, capfd):
        """By the largest file that the system allows: a mapped file that could not grow would end in a bus error."""
        import resource

        write("a.mrc")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
        try:
            assert denoise("a.mrc", "out.mrc") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        told = capfd.readouterr().err
        assert re.fullmatch(r"cryoden: error: cannot take 107\.52 kB in .*: .*\n", told)
        assert listing() == {"a.mrc"}

    def test_two_runs_on_one_folder_make_each_tomogram_once(self, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for number in range(4):
            write(f"data/{number}.mrc", tomogram(number))
        words = ("denoise", "data", "--output", "out", "--model", model, "--tile=16")
        both = [run.finish() for run in [apart.Command(tmp_path, *words) for _ in range(2)]]
        assert [run.returncode for run in both] == [0, 0], both
        assert sum(run.stdout.count("wrote out/") for run in both) == 4
        assert sum(run.stdout.count("done already") for run in both) == 4
        assert listing("out") == {f"{number}.mrc" for number in range(4)}

    def test_two_runs_that_share_a_result_do_not_make_it_at_once(self, denoise):
        """One of both halves, and one of the first alone: whatever a run writes is its own, not the average only."""
        for number, name in enumerate(("T1_EVN", "T1_ODD")):
            write(f"{name}.mrc", tomogram(number))
        pair, _ = half_jobs(find_files(["T1_EVN.mrc", "T1_ODD.mrc"]), Path("out"))
        (alone,) = single_jobs(find_files(["T1_EVN.mrc"]), Path("out"))
        runner = Runner(Engine.of(load_denoiser("cryoden-10A")), Settings(contrast="bright"), make_folders=True)
        steps = runner.run(alone)
        next(steps)  # until it is at work
        assert runner.is_taken(alone)
        assert runner.is_taken(pair[0])
        steps.close()
        assert not runner.is_taken(pair[0])

    def test_a_picture_of_others_stays_and_one_that_is_missing_is_made(self, denoise, capfd):
        write("a.mrc")
        Path("b.png").write_bytes(b"mine")
        assert denoise("a.mrc", "b.mrc", "--preview") == 2
        assert "b.png exists" in capfd.readouterr().err
        assert listing() == {"a.mrc", "b.png"}
        assert Path("b.png").read_bytes() == b"mine"
        assert denoise("a.mrc", "c.mrc") == denoise("a.mrc", "c.mrc", "--preview") == 0
        assert Path("c.png").is_file()
        assert denoise("a.mrc", "c.mrc", "--preview") == 0
        assert "done already" in capfd.readouterr().out

    def test_pictures_of_two_results_do_not_replace_each_other(self, denoise, capfd):
        write("data/a.mrc")
        write("data/a.tif")
        assert denoise("data", "--output", "out", "--preview") == 2
        assert "would both be written to out/a.png" in capfd.readouterr().err
        assert denoise("data", "--output", "out") == 0

    def test_float16_of_what_is_there_as_float32_is_another_result(self, denoise, capfd):
        write("a.mrc")
        assert denoise("a.mrc", "b.mrc") == 0
        assert denoise("a.mrc", "b.mrc", "--float16") == 2
        assert "b.mrc exists" in capfd.readouterr().err
        assert denoise("a.mrc", "b.mrc", "--float16", "--overwrite") == denoise("a.mrc", "b.mrc", "--float16") == 0
        assert "done already" in capfd.readouterr().out

    @pytest.mark.parametrize(
        ("step", "made"),
        [
            ("engine.Engine.plan", set()),  # when it is mapped, and its content not yet looked at
            ("engine.Engine.run", set()),
            ("runner.average", {"out/T1_EVN.mrc", "out/T1_ODD.mrc"}),
        ],
    )
    def test_a_source_that_is_exchanged_meanwhile_gives_no_result(self, denoise, capfd, monkeypatch, step, made):
        """What is mapped stays the file that it was, whichever is put in its place."""
        for number, name in enumerate(("T1_EVN", "T1_ODD", "other")):
            write(f"{name}.mrc", tomogram(number))
        act = resolve_name(f"cryoden.inference.{step}")

        def and_exchange(*words: object) -> object:
            found = act(*words)
            if Path("other.mrc").exists():
                Path("other.mrc").replace("T1_EVN.mrc")
            return found

        monkeypatch.setattr(f"cryoden.inference.{step}", and_exchange)
        assert denoise("T1_EVN.mrc", "T1_ODD.mrc", "--output=out", "--halves", "--contrast=bright") == 2
        assert re.search(r"T1_EVN\.mrc( or T1_ODD\.mrc)? was changed while it was read", capfd.readouterr().err)
        assert listing() == {"T1_EVN.mrc", "T1_ODD.mrc", *made}

    @pytest.mark.parametrize("words", [["a.mrc", "a.mrc"], ["a.mrc", "link.mrc"], ["data", "--output", "data"]])
    def test_an_input_is_never_replaced_whatever_is_asked(self, denoise, capfd, words):
        write("a.mrc")
        write("data/b.mrc")
        Path("link.mrc").symlink_to("a.mrc")
        before = {name: Path(name).read_bytes() for name in listing()}
        assert denoise(*words, "--overwrite") == 2
        assert "is an input and would be an output" in capfd.readouterr().err
        assert {name: Path(name).read_bytes() for name in listing()} == before

    def test_results_within_the_folder_of_the_inputs_are_not_denoised_again(self, denoise, capfd):
        write("data/deep/a.mrc")
        for _ in range(2):
            assert denoise("data", "--output", "data/denoised") == 0
        assert "done already" in capfd.readouterr().out
        assert listing("data") == {"deep/a.mrc", "denoised/deep/a.mrc"}

    def test_dry_run_tells_all_and_writes_nothing(self, denoise, capfd):
        write("data/a.mrc", tomogram(sign=-1))
        write("data/b.mrc", voxel_size=0.0)
        assert denoise("data", "--output", "out/deep", "--dry-run") == 2
        told = capfd.readouterr()
        assert "data/a.mrc -> out/deep/a.mrc\n" in told.out
        assert re.search(
            r"  28 × 24 × 20 voxels .* of 10 Å, protein dark .*, 8 tiles of 16 × 16 × 12 voxels; tiles so small leave "
            r".* with --tile 28, they leave none; \S+ GB of memory for",
            told.out,
        )
        assert "data/b.mrc: its header has no voxel size; state it with --voxel-size" in told.err
        assert listing() == {"data/a.mrc", "data/b.mrc"}


class TestHalves:
    def test_both_and_their_average_and_what_they_agree_on(self, denoise, capfd):
        for name in ("T1_EVN.mrc", "T1_ODD.mrc", "T1.mrc"):
            write(f"data/{name}", tomogram(len(name) + ("ODD" in name)))
        assert denoise("data", "--output", "out", "--halves") == 0
        told = capfd.readouterr()
        assert "data/T1_EVN.mrc + data/T1_ODD.mrc -> out/T1.mrc" in told.out
        assert "data/T1.mrc: no half, left out" in told.err
        first, second, mean = (read_volume(f"out/T1{half}.mrc") for half in ("_EVN", "_ODD", ""))
        np.testing.assert_allclose(mean.data, (first.data + second.data) / 2, atol=1e-4)
        assert mean.voxel_size == 10
        assert denoise("data", "--output", "out", "--halves") == 0
        assert "done already, out/T1.mrc" in capfd.readouterr().out
        Path("out/T1.mrc").unlink()
        stamp = Path("out/T1_EVN.mrc").stat().st_mtime_ns
        assert denoise("data", "--output", "out", "--halves") == 0
        assert Path("out/T1.mrc").exists()
        assert Path("out/T1_EVN.mrc").stat().st_mtime_ns == stamp

    def test_what_the_halves_tell_is_printed_written_and_shown(self, denoise, capfd, model):
        """The small network is untrained, so that any filter is nearer to what both halves show."""
        for each in (1, 2):
            write(f"data/a/T1_half{each}.mrc", half(each))
        assert denoise("data", "--output", "out", "--halves", "--preview") == 0
        told = capfd.readouterr().out
        assert f"warning: {model} is further from what both halves show than the best filter of shells" in told
        assert "look at out/a/T1.mrc" in told
        assert "wrote out/quality.csv\nwrote out/a/T1.png" in told
        rows = {row["method"]: row for row in read_quality(Path("out/quality.csv"))}
        assert list(rows) == ["input", "Gaussian filter", model]
        assert {row["tomogram"] for row in rows.values()} == {"a/T1.mrc"}
        assert float(rows[model]["nrmse"]) > float(rows["input"]["nrmse"]) + float(rows["input"]["nrmse_error"])
        assert re.search(rf"  {re.escape(model)} +{float(rows[model]['nrmse']):.3f} ± ", told)
        picture = Path("out/a/T1.png").read_bytes()
        assert picture not in (Path(f"out/a/T1_half{each}.png").read_bytes() for each in (1, 2))

    def test_halves_of_different_tilts_are_denoised_without_a_score(self, denoise, capfd):
        """Here of different places of Fourier space: one half holds what the other does not."""
        z = np.fft.fftfreq(24)[:, None, None] + 0 * np.fft.rfftfreq(28)
        for half, name in enumerate(("T1_EVN", "T1_ODD")):
            waves = np.fft.rfftn(tomogram(half, shape=(24, 96, 28)))
            planes = (np.round(z * 24) % 2 == half) | (np.abs(z) < 0.2)
            write(f"{name}.mrc", np.fft.irfftn(waves * planes, (24, 96, 28), axes=(0, 1, 2)).astype(np.float32))
        assert denoise("T1_EVN.mrc", "T1_ODD.mrc", "--output", "out", "--halves") == 0
        assert "no score from the halves: the halves are of different tilts" in capfd.readouterr().out
        assert listing("out") == {"T1.mrc", "T1_EVN.mrc", "T1_ODD.mrc"}

    def test_another_table_of_that_name_is_left_alone(self, denoise, capfd):
        write("T1_EVN.mrc")
        write("T1_ODD.mrc", tomogram(1))
        Path("out").mkdir()
        Path("out/quality.csv").write_text("a,b\n1,2\n")
        assert denoise("T1_EVN.mrc", "T1_ODD.mrc", "--output", "out", "--halves") == 2
        assert re.search("out/quality.csv: is no table of cryoden's, .* move it elsewhere", capfd.readouterr().err)
        assert listing("out") == {"quality.csv"}

    def test_doubt_stops_before_anything_is_written(self, denoise, capfd):
        write("T1_EVN.mrc")
        write("T1_ODD.mrc", tomogram(shape=(20, 24, 29)))
        assert denoise("T1_EVN.mrc", "T1_ODD.mrc", "--output", "out", "--halves") == 2
        assert "are no two halves: their shape" in capfd.readouterr().err
        write("T1_ODD.mrc")
        assert denoise("T1_EVN.mrc", "T1_ODD.mrc", "--output", "out", "--halves") == 2
        assert "hold the same voxels" in capfd.readouterr().err
        write("T1_ODD.mrc", tomogram(1, sign=-1))
        assert denoise("T1_EVN.mrc", "T1_ODD.mrc", "--output", "out", "--halves") == 2
        assert "T1_EVN.mrc seems bright and T1_ODD.mrc dark" in capfd.readouterr().err
        assert listing("out") == set()

    def test_star_file(self, denoise):
        write("half1.mrc", half(1))
        write("half2.mrc", half(2))
        columns = ("Name", "ReconstructedTomogramHalf1", "ReconstructedTomogramHalf2")
        head = "".join(f"_rlnTomo{name} #{i + 1}\n" for i, name in enumerate(columns))
        Path("tomograms.star").write_text(f"data_global\n\nloop_\n{head}TS_1 half1.mrc half2.mrc\n")
        assert denoise("tomograms.star", "--output", "out") == 0
        assert listing("out") == {"TS_1.mrc", "TS_1_half1.mrc", "TS_1_half2.mrc", "quality.csv", "tomograms.star"}
        table = starfile.read("out/tomograms.star")
        assert list(table["rlnTomoReconstructedTomogramDenoised"]) == ["out/TS_1.mrc"]

    def test_a_star_file_has_those_that_are_done_and_is_not_replaced_itself(self, denoise, capfd):
        write("data/a.mrc")
        write("data/b.mrc", np.full((20, 20, 20), 3, np.float32))
        head = "data_\n\nloop_\n_rlnTomoName\n_rlnTomoReconstructedTomogram\n"
        Path("tomograms.star").write_text(f"{head}a data/a.mrc\nb data/b.mrc\n")
        assert denoise("tomograms.star", "--output", "out") == 2
        told = capfd.readouterr()
        assert "wrote out/tomograms.star" in told.out
        assert "1 of 2 tomograms failed" in told.err
        assert list(starfile.read("out/tomograms.star", always_dict=True)[""]["rlnTomoName"]) == ["a"]
        assert denoise("tomograms.star", "--output", "out") == 2  # its own is replaced
        assert "wrote out/tomograms.star" in capfd.readouterr().out
        Path("out/tomograms.star").write_text(head + "mine mine.mrc\n")
        assert denoise("tomograms.star", "--output", "out") == 2
        assert "out/tomograms.star exists, and is no table" in capfd.readouterr().err
        assert "mine.mrc" in Path("out/tomograms.star").read_text()
        assert denoise("tomograms.star", "--output", ".") == 2
        assert "tomograms.star is an input and would be an output" in capfd.readouterr().err

    @pytest.mark.parametrize("name", ["../data/a", "{here}/data/a"])
    def test_a_name_in_a_table_leads_nowhere_else(self, denoise, capfd, name):
        write("data/a.mrc")
        head = "data_\n\nloop_\n_rlnTomoName\n_rlnTomoReconstructedTomogram\n"
        Path("t.star").write_text(f"{head}{name.format(here=Path.cwd())} data/a.mrc\n")
        assert denoise("t.star", "--output", "out", "--overwrite") == 2
        assert "outside the folder out" in capfd.readouterr().err
        assert listing() == {"data/a.mrc", "t.star"}


def spawn(*words: str, **environment: str) -> subprocess.Popen[str]:
    """The command in a process that starts others."""
    return subprocess.Popen(
        [sys.executable, "-m", "cryoden", "denoise", *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


@pytest.mark.parametrize("machines", [1, 2])
def test_two_processes_give_the_same_files_as_one(denoise, capfd, model, machines):
    """Started by Lightning on one machine, or by a cluster on two, which are played by this one."""
    for number in range(3):
        write(f"data/{number}.mrc", tomogram(number))
    write("data/bad.mrc", np.zeros((20, 20, 20), np.float32))
    assert denoise("data", "--output", "one") == 2
    shared = ("data", "--output", "two", "--model", model, "--tile=16")
    if machines == 1:
        processes = [spawn(*shared, "--devices=2")]
    else:
        cluster = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        processes = [spawn(*shared, "--nodes=2", **cluster, NODE_RANK=str(rank)) for rank in range(2)]
    told = [process.communicate(timeout=200) for process in processes]
    out, err = ("".join(texts) for texts in zip(*told, strict=True))
    codes = [process.returncode for process in processes]
    assert codes[0] == 2, err
    assert set(codes) <= {0, 2}, err  # the others leave it to the first to tell, and are not aborted
    assert "Warning" not in err
    assert out.count("model ") == 1
    assert "2 processes" in out
    assert err.count("every voxel is 0") == 1
    assert "1 of 4 tomograms failed, as told above; the rest are done" in err
    assert listing("two") == listing("one") == {"0.mrc", "1.mrc", "2.mrc"}
    for name in listing("one"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_of_more_processes_than_tomograms_the_others_have_nothing_to_do(denoise, model):
    write("in.mrc")
    process = spawn("in.mrc", "out.mrc", "--model", model, "--contrast=bright", "--devices=2")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert out.count("wrote out.mrc") == 1
    assert listing() == {"in.mrc", "out.mrc"}


@pytest.mark.parametrize("rank", ["1", "x"])
def test_who_is_alone_is_the_first_whatever_the_shell_of_a_cluster_says(denoise, capfd, monkeypatch, rank):
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv("NODE_RANK", "1")
    write("data/a.mrc")
    write("data/bad.mrc", np.zeros((20, 20, 20), np.float32))
    assert denoise("data", "--output", "out", "--contrast=bright") == 2
    told = capfd.readouterr()
    assert told.out.startswith("model ")
    assert "1 of 2 tomograms failed, as told above; the rest are done" in told.err


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_tiles_their_rate_and_the_time_left(model, tmp_path, monkeypatch):
    import pty

    monkeypatch.chdir(tmp_path)
    write("in.mrc", tomogram(shape=(40, 64, 64)))
    name = f"{'tomogram' * 8}.mrc"
    Path("in.mrc").rename(name)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cryoden", "denoise", name, "out.mrc", "--model", model, "--tile=16"]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "160"})
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    plan = make_plan(read_volume(name), load_denoiser(model), Settings(tile=16))
    tiles = len(plan.grid)
    assert f"{tiles}/{tiles} tiles" in text
    assert text.startswith("loading torch ...\r")
    shown = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", text)]
    long = [line for line in shown if len(line) > 100]
    assert [line for line in long if len(line.split()) > 1] == []  # a path alone may be longer
    assert re.search(r"\d+\.\d\d tiles/s .*\d:\d\d:\d\d", text)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_what_was_stopped_goes_on_to_the_same_voxels_and_of_another_tomogram_begins_anew(
    denoise, model, number, code, capfd
):
    write("in.mrc", tomogram(shape=(48, 320, 320)))
    words = ("--tile=96",)  # which leaves no trace of tiles
    assert denoise("in.mrc", "whole.mrc", *words) == 0
    assert "went on" not in capfd.readouterr().out
    process = apart.Command(Path.cwd(), "denoise", "in.mrc", "out.zarr", "--model", model, *words)
    begun = Path(".out.zarr.begun")
    deadline = time.monotonic() + 60
    while not (begun.is_file() and re.search(rb'"done": [1-9]', begun.read_bytes()[-200:])):
        assert process.works, "it was done before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send(number)
    run = process.finish()
    assert run.returncode == code
    assert "Traceback" not in run.stderr
    killed = number == signal.SIGKILL
    # an empty file by which runs know of each other; nobody holds it any more, and the next run takes it away
    assert listing() == {"in.mrc", "whole.mrc", begun.name} | ({".out.zarr.lock"} if killed else set())
    if not killed:
        assert re.search(
            r"; \d+ of 25 tiles are kept in .out.zarr.begun, and the same command goes on from there", run.stderr
        )
    kept = begun.read_bytes()

    assert denoise("in.mrc", "out.zarr", *words) == 0
    assert re.search(r"went on from \d+ of 25 tiles, where it was stopped", capfd.readouterr().out)
    assert not begun.exists()
    np.testing.assert_array_equal(open_volume("out.zarr").data, open_volume("whole.mrc").data)

    begun.with_name(".other.mrc.begun").write_bytes(kept)
    write("in.mrc", tomogram(1, shape=(48, 320, 320)))
    assert denoise("in.mrc", "other.mrc", *words) == 0
    assert "went on" not in capfd.readouterr().out
    assert not Path(".other.mrc.begun").exists()


@pytest.mark.parametrize("words", [(), ("--tile=16",)], ids=["begun and not noted", "blended tiles"])
def test_where_it_cannot_go_on_nothing_is_left(denoise, monkeypatch, words):
    """Neither of tiles that fade into each other, nor where not one was done."""

    def stop(*_: object) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(Denoiser, "density", stop)
    write("in.mrc")
    assert denoise("in.mrc", "out.mrc", *words) == 143
    assert listing() == {"in.mrc"}


def test_what_was_denoised_before_is_told(denoise: Command, caplog: pytest.LogCaptureFixture) -> None:
    write("a.mrc")
    assert denoise("a.mrc", "once.mrc") == 0
    assert "denoised by cryoden before" not in caplog.text
    assert denoise("once.mrc", "twice.mrc", "--contrast=bright") == 0
    assert "once.mrc was denoised by cryoden before, as its label says; give the tomogram it was made of" in caplog.text
