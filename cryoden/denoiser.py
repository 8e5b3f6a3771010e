"""A network with its grey scale: what is trained, saved, loaded and run."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.networks.base import DenoisingNetwork, build_network, check_network, network_record, python_number
from cryoden.scaling import Scale
from cryoden.version import __version__
from cryoden.volume import LONGEST, SHORTEST, is_length

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

    Attributes:
        name: of a model that comes with cryoden; else that of the network's class.

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
        self.name = type(generator).__name__

    def forward(self, degraded: Tensor) -> Tensor:
        """Denoise whole volumes.

        Args:
            degraded: (B, 1, D, H, W), any unit; of any size.

        Returns:
            (B, 1, D, H, W), float32, in the unit of `degraded`. Where a volume is filled with one value, as margins
            are, it is as it was.

        Raises:
            CryodenError: The shape is another; or, in evaluation mode, some voxels are NaN or infinite. In training,
                where to ask the device would hold it up, and in a graph of `torch.export`, the answer is NaN.
        """
        if degraded.ndim != 5 or degraded.shape[1] != 1:
            raise CryodenError(
                f"volumes: got shape {tuple(degraded.shape)}; needed is (B, 1, D, H, W), which volume[None, None] has "
                "where one has (D, H, W)"
            )
        asks = not self.training and not torch.compiler.is_compiling()  # a graph has no branches that go by values
        if asks and not degraded.isfinite().all():
            bad = int((~degraded.isfinite()).sum())
            raise CryodenError(f"volumes: {bad} voxels are NaN or infinite; replace them, such as by the mean")
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
        return digest_of(self._fields(), self.generator.state_dict())

    def record(self) -> dict[str, Any]:
        """All that is needed, beside the weights, to build this denoiser again, and their digest; plain values."""
        return {**self._fields(), "digest": self.digest()}

    def _fields(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "system": self.system,
            "network": self._network,
            "standardize": self.standardize,
            "residual": self.residual,
            "scale": _SCALE,
            "voxel_size": python_number(self.voxel_size),
        }

    @classmethod
    def from_record(cls, record: Any, weights: Mapping[str, Tensor], most: int) -> Self:
        """The denoiser that `record` described, from a file that may be damaged, or anyone's.

        Args:
            record: of `record`.
            weights: its network's, as a state dict.
            most: bytes of the file.

        Raises:
            CryodenError: the record or the weights are not as they were written, the network is not to be had here, or
                it was trained on another grey scale.
        """
        _check_record(record)
        if record["standardize"] and record.get("scale") != _SCALE:
            raise CryodenError(
                f"it was trained on volumes scaled by their {record.get('scale', 'mean and standard deviation')}, as "
                f"cryoden {record['version']} did, and this one scales by {_SCALE}: train it again"
            )
        # those of cryoden before it kept a digest have none
        if record.get("digest") is not None and record["digest"] != digest_of(record, weights):
            raise CryodenError("its weights are not those that were written, so the file is damaged; copy it again")
        check_network(record["network"], weights, most)
        denoiser = cls(
            build_network(record["network"]),
            standardize=record["standardize"],
            residual=record["residual"],
            voxel_size=record["voxel_size"],
            system=record["system"],
        )
        denoiser.generator.load_state_dict(weights)
        return denoiser


def digest_of(record: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits of what a record says of a denoiser's use, and of its weights."""
    digest = hashlib.sha256(json.dumps({name: record.get(name) for name in _USE}, sort_keys=True, default=str).encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_record(record: Any) -> None:
    """Refuse a record in which a field is missing, or of another kind than was written."""
    if not isinstance(record, dict):
        raise CryodenError(f"its description is no table of fields but {str(record)[:100]!r}")
    for name, (allowed, is_right) in _FIELDS.items():
        value = record.get(name)
        if not is_right(value):
            what = f"is {str(value)[:100]!r}" if name in record else "is missing"
            raise CryodenError(f"{name} {what} in its description; allowed is {allowed}")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 100 and value.isprintable()


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_length(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and is_length(value))


_USE = ("network", "standardize", "residual", "scale", "voxel_size")
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "version": ("a short text", _is_name),
    "system": ("a short text", _is_name),
    "network": ("a table of class_path and init_args", lambda value: isinstance(value, dict)),
    "standardize": ("true or false", _is_flag),
    "residual": ("true or false", _is_flag),
    "scale": ("a short text, or nothing", lambda value: value is None or _is_name(value)),
    "voxel_size": (f"a length from {SHORTEST:g} to {LONGEST:g} angstrom, or nothing", _is_length),
    "digest": ("a text, or nothing", lambda value: value is None or _is_name(value)),
}


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
