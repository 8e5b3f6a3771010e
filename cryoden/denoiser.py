"""A network with its grey scale: what is trained, saved, loaded and run."""

from typing import Any, Self

from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.networks.base import DenoisingNetwork, build_network, network_record
from cryoden.scaling import Scale, restore, standardize
from cryoden.version import __version__


class Denoiser(nn.Module):
    """A network that denoises volumes of any grey scale.

    Args:
        generator: the network.
        standardize: show the network volumes of mean 0 and standard deviation 1, and give the output the grey scale and
            the mean of the input: f(a x + b) = a f(x) + b for a > 0.
        residual: the network predicts the noise, which is taken from the input (Wolterink et al. 2017, "Generative
            Adversarial Networks for Noise Reduction in Low-Dose CT"); it is made to end linearly, since noise is below
            0 as often as above.
        voxel_size: Å, that it was trained at; None where nothing is known.
        system: the name of what trained it.
        offset: how far the mean of a clean volume lies from that of the degraded one, see `cryoden.scaling.restore`.

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
        offset: float = 0.0,
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
        self.offset = offset

    def forward(self, degraded: Tensor) -> Tensor:
        """Denoise volumes.

        Args:
            degraded: (B, 1, D, H, W), any unit.

        Returns:
            (B, 1, D, H, W), float32, in the unit of `degraded`.
        """
        if not self.standardize:
            return self.density(degraded)
        scale = Scale.of(degraded)
        return restore(self.density(standardize(degraded, scale)), scale, self.offset)

    def density(self, volumes: Tensor) -> Tensor:
        """What the network makes of volumes in the grey scale it is shown: (B, 1, D, H, W) to the same, float32."""
        answer: Tensor = self.generator(volumes).float()
        return volumes.float() - answer if self.residual else answer

    def record(self) -> dict[str, Any]:
        """All that is needed, beside the weights, to build this denoiser again; plain values."""
        return {
            "version": __version__,
            "system": self.system,
            "network": self._network,
            "standardize": self.standardize,
            "residual": self.residual,
            "offset": self.offset,
            "voxel_size": self.voxel_size,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """The denoiser that `record` described, with fresh weights.

        Raises:
            CryodenError: its network is not to be had here.
            KeyError: something is missing in the record.
        """
        return cls(
            build_network(record["network"]),
            standardize=record["standardize"],
            residual=record["residual"],
            voxel_size=record["voxel_size"],
            system=record["system"],
            offset=record.get("offset", 0.0),  # before it was measured, it was 0
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
