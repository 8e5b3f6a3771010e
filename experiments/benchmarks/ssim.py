"""SSIM of 64^3 volumes on a CPU: ours against scikit-image and against torchmetrics' own, values compared."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from cryoden.metrics.functional import ssim


def main() -> None:
    """Print the medians of CPU seconds, on one thread, of runs that take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clean = torch.zeros(arguments.volumes, 1, 64, 64, 64)
    clean[..., 24:40, 22:42, 26:38] = torch.rand(arguments.volumes, 1, 16, 20, 12)
    denoised = clean + 0.03 * torch.randn_like(clean)
    methods: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: ssim(denoised, clean).tolist(),
        "scikit-image": lambda: [
            structural_similarity(b[0].numpy(), a[0].numpy(), data_range=1)
            for a, b in zip(denoised, clean, strict=True)
        ],
        "torchmetrics": lambda: structural_similarity_index_measure(
            denoised, clean, gaussian_kernel=False, kernel_size=7, data_range=1.0, reduction="none"
        ).tolist(),
    }
    values = {name: method() for name, method in methods.items()}
    difference = max(abs(a - b) for a, b in zip(values["ours"], values["scikit-image"], strict=True))
    assert difference < 1e-5, difference
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(arguments.runs):
        for name, method in methods.items():
            started = time.process_time()
            method()
            times[name].append((time.process_time() - started) / len(clean))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; largest difference {difference:.1e}")
    for name, value in medians.items():
        print(f"{name:13s} {1000 * value:8.1f} ms a volume, {value / medians['ours']:6.1f} times ours")


if __name__ == "__main__":
    main()
