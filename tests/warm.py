"""What a process has imported and made that those of `apart` begin as copies of: it takes seconds."""

import matplotlib.pyplot
import skimage.metrics
import torchmetrics

import cryoden.commands.fit
import cryoden.evaluation
from cryoden.particles import load_particle

__all__ = ["cryoden", "matplotlib", "skimage", "torchmetrics"]

for seed in (1, 2):  # the particles of most tests
    load_particle(f"phantom:{seed}")
