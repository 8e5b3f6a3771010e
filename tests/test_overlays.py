"""The data of the thesis's experiments, as files to lay over a system's, or to compare on."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cryoden.cli import main
from cryoden.commands.comparison import load_data
from cryoden.commands.simulate import simulate
from cryoden.particles import load_particle
from cryoden.particles.phantom.assembly import make_phantom
from cryoden.simulation.scene import Scene, SceneContents
from tests.data.test_shrec import build

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
OVERLAYS = sorted({path.stem for path in (EXPERIMENTS / "overlays").glob("*.yaml")} - {"small"})


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_system_trains_on_it_and_is_tested_on_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((EXPERIMENTS / "overlays" / f"{name}.yaml").read_text())
    arguments = config["data"]["init_args"]
    small = {"box": 32, "batch_size": 2, "num_workers": 0}
    if name == "realistic":
        list(simulate(["phantom:1"], "pairs", copies=2, box=32, voxel_size=10.0, resolution=20.0))
        small["boxes"] = 2
    elif name == "shrec":
        particles = [load_particle("phantom:1")]
        scene = Scene((24, 48, 48), 10.0, 20.0, particles, SceneContents(count=8))
        made = [scene.make(torch.Generator().manual_seed(seed)) for seed in range(2)]
        build(tmp_path / arguments["folder"], made, "reconstruction model")
        small["boxes"] = 2
    else:
        small |= {"voxel_size": 10.0, "resolution": 20.0, "val_fraction": 0.4, "entries": ["phantom:1", "phantom:2"]}
        small["scenes" if "scene" in name or name == "crowded" else "copies"] = 4
    if name == "crowded":
        small |= {"shape": [40, 32, 48], "crops": 1}
    if arguments.get("holdout"):
        small["holdout"] = ["phantom:3"]
    assert set(arguments) <= {*arguments, *small}
    flags = [f"--data.{key}={value}".replace(" ", "").replace("'", "") for key, value in small.items()]
    tiny = ["--model.channels=2", "--model.warmup_steps=1", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    configs = ["--config", str(EXPERIMENTS / "simple_ae.yaml"), "--config", str(EXPERIMENTS / f"overlays/{name}.yaml")]
    monkeypatch.setattr(sys, "argv", ["cryoden", "fit", *configs, *flags, *tiny])
    main()
    assert "validation, epoch 1" in capfd.readouterr().out
    trained = yaml.safe_load((tmp_path / "runs/simple_ae/version_0/config.yaml").read_text())["data"]["init_args"]
    for key, value in arguments.items():
        if key == "contents":
            value = trained[key] | value
        if key != "degradation":  # written with all its defaults
            assert trained.get(key) == small.get(key, value), key
    steps = [step["class_path"] for step in trained.get("degradation") or []]
    assert steps == [f"cryoden.{step['class_path']}" for step in arguments.get("degradation", [])]
    module, described = load_data(tmp_path / "runs/simple_ae/version_0/config.yaml")
    assert json.loads(json.dumps(described))["init_args"] == trained  # goes into results.json as it is
    assert module.experiment is None  # nothing as small as this is the thesis's
    assert module.test_volumes()[0, 0]["clean"].shape == (1, 32, 32, 32)


# A process for each file. They begin as copies of one that has imported what takes long, and nothing of cryoden's.
FRESH = """
import os, sys
import gemmi, jsonargparse, lightning, matplotlib.pyplot, scipy.ndimage, skimage, torchmetrics

def read(path):
    from pathlib import Path
    from cryoden import CryodenError
    from cryoden.commands.comparison import load_data
    try:
        load_data(Path(path))
    except CryodenError as error:
        if "no such folder" not in str(error):  # which its class says, and so is known
            print(error)
            return 1
    return 0

for path in sys.argv[1:]:
    assert not any(name.startswith("cryoden") for name in sys.modules)
    child = os.fork()
    if child == 0:
        os._exit(read(path))
    assert os.waitpid(child, 0)[1] == 0, path
"""


def test_classes_are_known_in_a_process_of_their_own(tmp_path: Path) -> None:
    """As `cryoden compare MODEL --data OVERLAY` reads them, whatever else was imported before."""
    made = [str(tmp_path / f"{seed}.cif") for seed in (1, 2, 3)]
    for seed, path in enumerate(made, 1):
        make_phantom(seed).make_mmcif_document().write_file(path)
    offline = {"entries": made[:2], "holdout": made[2:]}
    of_classes = {}  # one file for all that name the same
    for path in sorted((EXPERIMENTS / "overlays").glob("*.yaml")):
        text = path.read_text()
        config = yaml.safe_load(text)
        arguments = config["data"]["init_args"]
        arguments |= {key: value for key, value in offline.items() if arguments.get(key)}
        of_classes[frozenset(re.findall(r"class_path: (\w+)", text))] = config
    assert len(of_classes) > 4
    files = [tmp_path / f"{number}.yaml" for number in range(len(of_classes))]
    for path, config in zip(files, of_classes.values(), strict=True):
        path.write_text(yaml.safe_dump(config))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, *map(str, files)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
