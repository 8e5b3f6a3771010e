"""Make a trained model one that comes with cryoden: its weights, and the test of them. The card is written by hand.

    python experiments/models/release.py NAME MODEL

MODEL is a checkpoint, a run or exported weights. Both go into cryoden/models/; weights as float16, half as large.
"""

import sys

import torch
from safetensors.torch import save

from cryoden.checkpoint import export_weights, load_denoiser
from cryoden.data import ParticleDataModule
from cryoden.models import FOLDER

EDGE = 32  # voxels of the volume that comes with the weights


def main(name: str, model: str) -> None:
    """Write what belongs to a model."""
    denoiser = load_denoiser(model)
    denoiser.generator.half()
    export_weights(denoiser, FOLDER / f"{name}.safetensors", overwrite=True)
    denoiser.generator.float()  # as they are read
    assert denoiser.voxel_size is not None
    data = ParticleDataModule(
        entries=["phantom:0"],
        copies=3,
        box=EDGE,
        voxel_size=denoiser.voxel_size,
        resolution=2 * denoiser.voxel_size,
        num_workers=0,
    )
    data.setup()
    degraded = data.test_volumes()[0, 0]["degraded"][0].half()
    with torch.inference_mode():
        denoised = denoiser(degraded[None, None].float())[0, 0]
    (FOLDER / f"{name}.check.safetensors").write_bytes(save({"degraded": degraded, "denoised": denoised}))


if __name__ == "__main__":
    main(*sys.argv[1:])
