"""Where in Fourier space the error of a trained system lies: by frequency, where the tilts measured and in the wedge.

    python experiments/error_spectrum.py DATA.yaml CHECKPOINT [--volumes 12] [--output FILE.json]

Power of the truth and of the error, in parts of the power of the truth, means over test volumes; the square root of all
error is the NRMSE. The last column is the NRMSE of what lies below the shell's end, were both volumes cut there.
"""

import argparse
import json
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from cryoden import load_denoiser
from cryoden.commands.comparison import load_data
from cryoden.evaluation.evaluate import batches, spaced
from cryoden.evaluation.results import provenance
from cryoden.files import write_text
from cryoden.metrics.fsc import Spectra

SHELLS = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0)  # of Nyquist; the last are the corners of the box


def of_batch(denoised: Tensor, clean: Tensor, measured: Tensor) -> Tensor:
    """(B, shells, 4): power of the truth and of the error where the tilts measured, and the same in the wedge."""
    spectra = Spectra.of(denoised, clean)
    error = spectra.denoised + spectra.clean - 2 * spectra.cross
    depth, height, width = spectra.shape
    z, y, x = torch.meshgrid(
        torch.fft.fftfreq(depth), torch.fft.fftfreq(height), torch.fft.rfftfreq(width), indexing="ij"
    )
    frequency = 2 * (z.square() + y.square() + x.square()).sqrt()
    parts = [
        (power * region * ((low <= frequency) & (frequency < high))).sum((1, 2, 3))
        for low, high in pairwise(SHELLS)
        for region in (measured, ~measured)
        for power in (spectra.clean, error)
    ]
    whole = spectra.clean.sum((1, 2, 3))[:, None]
    return (torch.stack(parts, 1) / whole).unflatten(1, (-1, 4))


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="as `cryoden compare --data` takes it")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--volumes", type=int, default=12)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    module, _ = load_data(arguments.data)
    network = load_denoiser(arguments.checkpoint)
    dataset = module.test_volumes()
    found = []
    for batch in batches(dataset, spaced(len(dataset), arguments.volumes), module.batch_size, module.num_workers):
        with torch.inference_mode():
            found.append(of_batch(network(batch["degraded"]), batch["clean"], batch["measured"]))
    each = torch.cat(found).double()
    mean = each.mean(0)
    below = mean.cumsum(0)
    nrmse = ((below[:, 1] + below[:, 3]) / (below[:, 0] + below[:, 2])).sqrt()
    rows = []
    print("| of Nyquist | truth, measured | error | truth, wedge | error | NRMSE below |\n" + "|---" * 6 + "|")
    for (low, high), values, error in zip(pairwise(SHELLS), mean.tolist(), nrmse.tolist(), strict=True):
        shell = f"{low:g} to {high:g}" if high <= 1 else "corners"
        print(f"| {shell} | " + " | ".join(f"{value:.3f}" for value in (*values, error)) + " |")
        names = ("truth_measured", "error_measured", "truth_wedge", "error_wedge", "nrmse_below")
        rows.append({"shell": shell} | {n: round(v, 5) for n, v in zip(names, (*values, error), strict=True)})
    median = float(each[:, :, [1, 3]].sum((1, 2)).sqrt().median())
    print(f"NRMSE {median:.3f}, median of {len(each)} volumes")
    if arguments.output:
        command = shlex.join(["python", "experiments/error_spectrum.py", *sys.argv[1:]])
        made = {name: provenance()[name] for name in ("created", "versions", "hardware")}
        record = {"commands": [command], **made, "volumes": len(each), "nrmse": round(median, 5), "rows": rows}
        write_text(arguments.output, json.dumps(record, indent=1, ensure_ascii=False) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
