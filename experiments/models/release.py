"""Make a trained model one that comes with cryoden: its weights, the test of them, and their digest in its card.

    python experiments/models/release.py NAME RUN

The card, cryoden/models/NAME.md, is written by hand before; what it says of the weights is replaced.
"""

import re
import sys
from hashlib import sha256

import torch
from safetensors.torch import save

from cryoden.checkpoint import export_weights, load_denoiser
from cryoden.data import ParticleDataModule
from cryoden.models import FOLDER

EDGE = 32  # voxels of the volume that comes with the weights


def main(name: str, run: str) -> None:
    """Write what belongs to a model."""
    denoiser = load_denoiser(run)
    weights = FOLDER / f"{name}.safetensors"
    export_weights(denoiser, weights, overwrite=True)
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
    card = FOLDER / f"{name}.md"
    digest = sha256(weights.read_bytes()).hexdigest()
    text, found = re.subn(r"^sha256: .*$", f"sha256: {digest}", card.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if found != 1:
        raise SystemExit(f"{card}: needs one line that begins with `sha256:`")
    card.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
