"""A degradation of one's own: sections that came out brighter or darker than their neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoden.simulation.degradation import Degradation, Parameters


@dataclass(frozen=True)
class Flicker(Degradation):
    """Multiplies each section along z by a random number around 1, of standard deviation `spread`."""

    spread: float = 0.1

    def sample(self, generator: torch.Generator) -> dict[str, float]:
        """Draw for one volume: plain numbers, so that it can be stored and made again."""
        return {"seed": int(torch.randint(2**31, (), generator=generator))}

    def apply(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Damage (B, C, D, H, W) volumes, each by its own parameters."""
        seeds = [int(each["seed"]) for each in parameters]
        drawn = [torch.randn(volumes.shape[2], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return volumes * (1 + self.spread * torch.stack(drawn)[:, None, :, None, None].to(volumes))
