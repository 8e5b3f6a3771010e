"""The scripts of experiments/ run, and its files hold what they should."""

import contextlib
import multiprocessing
import runpy
import shlex
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"

# Each benchmark at its smallest.
SMALLEST = {
    "convolutions": "--channels 2 --box 8 --batch 1 --runs 1",
    "degradation": "--batch 2 --box 16 --runs 1",
    "denoise": "speed 16 24 32",
    "density": "phantom:1 --runs 1",
    "fit": "--data.num_workers=0 --data.box=32 --data.voxel_size=12 --data.resolution=24 --data.copies=8",
    "gan": "--channels 2 --box 16 --batch 2 --runs 1",
    "growth": "box --points 1 --output .",
    "loading": "--copies 20 --box 16 --num_workers 0",
    "memory": "--channels 2 --box 16 --batch 1",
    "networks": "--channels 2 --box 16 --batch 2 --runs 1",
    "operators": "--channels 2 --box 16 --batch 1 --steps 1 --matrix 64",
    "scene": "phantom:1 --occupancy 0.01 --shape 128 128 128",
    "ssim": "--volumes 1 --runs 1",
    "startup": "'import cryoden' --runs 1",
    "tilt_series": "--box 16 --runs 1",
}


# A process for each, begun as a copy of one that has imported what takes long.
APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["lightning", "matplotlib.pyplot", "skimage.metrics", "torchmetrics"])


def run_script(script: Path, words: list[str], folder: Path) -> None:
    """Run a script by its name in a folder; what it prints goes to a file there."""
    sys.argv = [str(script), *words]
    sys.path.insert(0, str(script.parent))
    with contextlib.chdir(folder), Path("printed").open("w") as file, contextlib.redirect_stdout(file):
        runpy.run_path(str(script), run_name="__main__")


def test_every_benchmark_is_tried() -> None:
    found = {path.stem for path in (EXPERIMENTS / "benchmarks").glob("*.py")}
    assert found - {"timing"} == set(SMALLEST)


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_at_its_smallest(name: str, tmp_path: Path) -> None:
    script = EXPERIMENTS / "benchmarks" / f"{name}.py"
    process = APART.Process(target=run_script, args=(script, shlex.split(SMALLEST[name]), tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0
    # the subprocesses of some print past the file
    assert (tmp_path / "printed").read_text() or name == "denoise"
