"""How many training volumes a second a data module's workers deliver, and how many a network can train on."""

import argparse
import time

import torch
import torch.nn.functional as F
from timing import hardware, medians

from cryoden import ParticleDataModule
from cryoden.networks.compact_unet import CompactUnet
from cryoden.networks.upsample_unet import UpsampleUnet


def main() -> None:
    """Print volumes a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entry", default="phantom:0", help="a PDB entry or a structure file for a real protein")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--box", type=int, default=64, help="voxels along a side of 384 Å")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(hardware(arguments.device))

    voxel_size = 384 / arguments.box
    data = ParticleDataModule(
        entries=[arguments.entry],
        copies=arguments.copies,
        box=arguments.box,
        voxel_size=voxel_size,
        resolution=2 * voxel_size,
        num_workers=arguments.num_workers,
    )
    data.prepare_data()
    data.setup("fit")
    batches = iter(data.train_dataloader())
    volumes = next(batches)["clean"]  # workers have started
    started, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch["clean"])
    print(f"{arguments.num_workers} workers: {count / (time.perf_counter() - started):6.1f} volumes a second")

    volumes = volumes.to(arguments.device)
    for network in (CompactUnet(), UpsampleUnet()):
        network.to(arguments.device)

        def step(network: torch.nn.Module = network) -> None:
            with torch.autocast(arguments.device, torch.bfloat16):
                denoised = network(volumes)
            F.mse_loss(denoised.float(), volumes).backward()

        seconds = medians({"step": step}, 2)["step"]
        print(f"{type(network).__name__:12s} {len(volumes) / seconds:6.1f} volumes a second in training, bf16")


if __name__ == "__main__":
    main()
