"""Where a fit's CPU time goes: quick.yaml's system and data on phantoms, a short run under Python's profiler.

Of the process that trains: what the workers do, and waiting for them, is not in it (see loading.py and density.py).
"""

import cProfile
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path

from timing import hardware

from cryoden.cli import main as cryoden

CONFIG = Path(__file__).parent.parent / "quick.yaml"
WORDS = [
    f"--config={CONFIG}",
    "--data.entries=[phantom:1,phantom:2,phantom:3,phantom:5]",
    "--data.holdout=[phantom:0]",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=6",
    "--trainer.limit_val_batches=1",
    "--trainer.num_sanity_val_steps=0",
]
# what → the function whose time, with all that it calls, it is
PARTS = {
    "training": ("training_epoch_loop.py", "advance"),
    "  forward and loss": ("autoencoder.py", "training_step"),
    "  backward": ("strategy.py", "backward"),
    "  gradients' check": ("safeguards.py", "on_before_optimizer_step"),
    "  AdamW": ("adam.py", "adam"),
    "  degradation on the device": ("base.py", "on_after_batch_transfer"),
    "  the loader, but for waiting": ("dataset.py", "__iter__"),
    "validation": ("evaluation_loop.py", "run"),
    "  the model": ("training.py", "_evaluate"),
    "  baselines": ("callbacks.py", "_score"),
    "  tables and picture": ("callbacks.py", "_finish"),
}


def main(*words: str) -> None:
    """Print the parts' CPU seconds, and the functions that take most themselves; words are added to the command."""
    print(hardware())
    profiler = cProfile.Profile(time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        profiler.runcall(cryoden, ["fit", *WORDS, *words])
    stats = pstats.Stats(profiler)
    times = {(Path(file).name, name): cumulative for (file, _, name), (*_, cumulative, _) in stats.stats.items()}
    for what, key in PARTS.items():
        print(f"{what:28s} {times[key]:7.2f} s of CPU")
    stats.sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main(*sys.argv[1:])
