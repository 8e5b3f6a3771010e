"""A network with its grey scale: what is trained, saved, loaded and run."""

import hashlib
import json
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.networks.base import DenoisingNetwork, build_network, network_record
from cryoden.scaling import Scale
from cryoden.version import __version__

_SCALE = "median and quartiles"  # what `cryoden.scaling` goes by; weights are good for no other


class Denoiser(nn.Module):
    """A network that denoises volumes of any grey scale.

    Args:
        generator: the network.
        standardize: show the network volumes whose background is 0 and whose spread is 1, as `cryoden.scaling` measures
            them on the specimen, and give the answer, density above background, the grey scale of the input:
            f(a x + b) = a f(x) + b for a > 0.
        residual: the network predicts the noise, which is taken from the input (Wolterink et al. 2017, "Generative
            Adversarial Networks for Noise Reduction in Low-Dose CT"); it is made to end linearly, since noise is below
            0 as often as above.
        voxel_size: Å, that it was trained at; None where nothing is known.
        system: the name of what trained it.

    Raises:
        CryodenError: the network cannot be described in a checkpoint, or is residual and never answers below 0.
    """

    generator: DenoisingNetwork

    def __init__(
        self,
        generator: DenoisingNetwork,
        *,
        standardize: bool = True,
        residual: bool = False,
        voxel_size: float | None = None,
        system: str = "",
    ) -> None:
        super().__init__()
        if residual:
            generator.end_linearly()
        self._network = network_record(generator)  # now, since an hour of training later is too late to refuse it
        self.generator = generator
        self.standardize = standardize
        self.residual = residual
        self.voxel_size = voxel_size
        self.system = system

    def forward(self, degraded: Tensor) -> Tensor:
        """Denoise whole volumes.

        Args:
            degraded: (B, 1, D, H, W), any unit; of any size.

        Returns:
            (B, 1, D, H, W), float32, in the unit of `degraded`. Where a volume is filled with one value, as margins
            are, it is as it was.
        """
        if not self.standardize:
            return self.density(degraded)
        scale = Scale.of(degraded)
        left_out = scale.left_out(degraded)
        answer = scale.restore(self.density(scale.standardize(degraded, left_out)))
        return torch.where(left_out, degraded.float(), answer)

    def density(self, volumes: Tensor) -> Tensor:
        """What the network makes of volumes in the grey scale it is shown: (B, 1, D, H, W) to the same, float32.

        Where the network takes multiples of some voxels only, volumes are mirrored at the ends of their axes.
        """
        whole, shape = volumes, volumes.shape[2:]
        for axis, size in enumerate(shape, start=2):
            missing = -size % self.generator.multiple
            if missing:
                index = torch.from_numpy(mirrored(np.arange(size + missing), size)).to(whole.device)
                whole = whole.index_select(axis, index)
        answer: Tensor = self.generator(whole).float()
        answer = answer[..., : shape[0], : shape[1], : shape[2]]
        return volumes.float() - answer if self.residual else answer

    def digest(self) -> str:
        """64 hexadecimal digits that stand for all that decides what comes out: the weights, and how they are used."""
        used = {"network": self._network, "standardize": self.standardize, "residual": self.residual, "scale": _SCALE}
        digest = hashlib.sha256(json.dumps({**used, "voxel_size": self.voxel_size}, sort_keys=True).encode())
        for name, value in self.generator.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """All that is needed, beside the weights, to build this denoiser again, and their digest; plain values."""
        return {
            "version": __version__,
            "system": self.system,
            "digest": self.digest(),
            "network": self._network,
            "standardize": self.standardize,
            "residual": self.residual,
            "scale": _SCALE,
            "voxel_size": self.voxel_size,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """The denoiser that `record` described, with fresh weights.

        Raises:
            CryodenError: its network is not to be had here, or it was trained on another grey scale.
            KeyError: something is missing in the record.
        """
        if record["standardize"] and record.get("scale") != _SCALE:
            raise CryodenError(
                f"it was trained on volumes scaled by their {record.get('scale', 'mean and standard deviation')}, as "
                f"cryoden {record['version']} did, and this one scales by {_SCALE}: train it again"
            )
        return cls(
            build_network(record["network"]),
            standardize=record["standardize"],
            residual=record["residual"],
            voxel_size=record["voxel_size"],
            system=record["system"],
        )


def denoiser_of(model: nn.Module) -> Denoiser:
    """The denoiser itself, of a denoiser or of a training that has one.

    Raises:
        CryodenError: the model has none.
    """
    denoiser = getattr(model, "denoiser", model)
    if not isinstance(denoiser, Denoiser):
        raise CryodenError(
            f"model: got a {type(model).__name__}; needed is a Denoiser, such as load_denoiser gives, or a training"
        )
    return denoiser


def mirrored(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Places beyond the ends of an axis, reflected into it as often as needed, without repeating the ends."""
    period = max(1, 2 * (size - 1))
    index = index % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)
