"""The two kinds of network, and what a caller may rely on for each."""

import inspect
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from cryoden.errors import CryodenError

_PLAIN = (int, float, str, bool, type(None))


def constructor_arguments(module: nn.Module) -> dict[str, Any]:
    """The arguments that build the same network again: `type(module)(**constructor_arguments(module))`.

    As in scikit-learn, every constructor argument is kept as an attribute of the same name.

    Args:
        module: A network of this package, or one that keeps the same convention.

    Returns:
        Name to plain value (int, float, str, bool, None, or a list of these), in the constructor's order.

    Raises:
        CryodenError: An argument is not kept, is not plain, or has no name of its own.

    Examples:
        >>> from cryoden.networks.upsample_unet import UpsampleUnet
        >>> constructor_arguments(UpsampleUnet(channels=8))
        {'channels': 8, 'norm': 'batch', 'nonnegative': True}
    """
    arguments = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        where = f"{type(module).__name__}: constructor argument {name!r}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise CryodenError(f"{where} is written {parameter}; name each argument, so that it can be kept")
        if not hasattr(module, name):
            raise CryodenError(f"{where} is not kept as an attribute; write self.{name} = {name} in __init__")
        value = getattr(module, name)
        value = list(value) if isinstance(value, tuple) else value
        if not all(isinstance(each, _PLAIN) for each in (value if isinstance(value, list) else [value])):
            raise CryodenError(
                f"{where} must be int, float, str, bool, None or a list of these, which a checkpoint can keep, got a "
                f"{type(value).__name__}; make what is needed of plain values in __init__"
            )
        arguments[name] = value
    return arguments


class DenoisingNetwork(nn.Module, ABC):
    """Maps degraded volumes to denoised ones, both (B, 1, D, H, W).

    A network sees standardised volumes (background 0, spread 1: `cryoden.scaling`) and predicts density above
    background in the same unit, so a fresh network answers about 0 everywhere.

    Attributes:
        multiple: D, H and W must each be a multiple of this.
        nonnegative: It never answers below 0.
        reach: The answer at a voxel depends on what lies up to this many voxels away along each axis, and on nothing
            beyond (batch norms at rest, as after training); None where it depends on more, or nobody has said.
    """

    multiple: int = 1
    nonnegative: bool = False
    reach: int | None = None

    def __init__(self) -> None:
        super().__init__()  # without it, a network that has no constructor would take any argument

    @abstractmethod
    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""

    def end_linearly(self) -> None:
        """Drop the end that keeps answers from falling below 0, if there is one: noise, say, does.

        Raises:
            CryodenError: There is one that cannot be dropped.
        """
        if self.nonnegative:
            raise CryodenError(
                f"{type(self).__name__} never answers below 0, where noise does, and has no linear form; "
                "take a network that has one, such as UpsampleUnet"
            )

    def check_box(self, volumes: Tensor) -> None:
        """Refuse volumes that this network cannot take.

        Args:
            volumes: Should be (B, 1, D, H, W).

        Raises:
            CryodenError: The shape is another one, or an axis is not a multiple of `multiple`.
        """
        shape = tuple(volumes.shape)
        name = type(self).__name__
        if len(shape) != 5 or shape[1] != 1:
            raise CryodenError(f"{name} takes volumes of shape (batch, 1, D, H, W), got {shape}")
        if any(size == 0 or size % self.multiple for size in shape[2:]):
            raise CryodenError(
                f"{name} takes boxes whose axes are multiples of {self.multiple} voxels, "
                f"got {' x '.join(map(str, shape[2:]))}: pad or crop the volume"
            )


class DiscriminatorNetwork(nn.Module, ABC):
    """Tells real from generated volumes, given the degraded volume they belong to.

    Attributes:
        box: Voxels along each axis that it is made for, or None where any multiple of 16 will do.
    """

    box: int | None = None

    @abstractmethod
    def features(self, degraded: Tensor, candidate: Tensor) -> list[Tensor]:
        """What it makes of candidates (B, 1, D, H, W) beside degraded (B, 1, D, H, W).

        Returns:
            The features after each hidden stage, (B, ...), and last its raw logits, (B, ...).
        """

    def forward(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        """Score candidates (B, 1, D, H, W) beside degraded (B, 1, D, H, W): raw logits (B, ...)."""
        return self.features(degraded, candidate)[-1]

    def pair(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        """Both as the two channels of one tensor.

        Args:
            degraded: (B, 1, D, H, W).
            candidate: (B, 1, D, H, W).

        Returns:
            (B, 2, D, H, W).

        Raises:
            CryodenError: A shape that this network is not made for.
        """
        for name, volumes in (("degraded", degraded), ("candidate", candidate)):
            shape = tuple(volumes.shape)
            if self.box is not None and shape[1:] != (1, self.box, self.box, self.box):
                raise CryodenError(
                    f"{type(self).__name__}(box={self.box}) takes {name} volumes of shape (batch, 1, "
                    f"{', '.join([str(self.box)] * 3)}), got {shape}: give it the data's box"
                )
            if len(shape) != 5 or shape[1] != 1 or any(size == 0 or size % 16 for size in shape[2:]):
                raise CryodenError(
                    f"{type(self).__name__} takes {name} volumes of shape (batch, 1, D, H, W) whose axes are "
                    f"multiples of 16 voxels, got {shape}"
                )
        return torch.cat([degraded, candidate], dim=1)


def network_record(network: DenoisingNetwork) -> dict[str, Any]:
    """Name and constructor arguments of a network, as plain values: what a checkpoint keeps with the weights.

    Args:
        network: A network that keeps its constructor arguments as attributes.

    Returns:
        {"class_path": ..., "init_args": {...}}.

    Raises:
        CryodenError: It does not keep them, or they are not plain.
    """
    kind = type(network)
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": constructor_arguments(network),
    }


def build_network(record: dict[str, Any]) -> DenoisingNetwork:
    """The network that `network_record` described, with fresh weights.

    Args:
        record: {"class_path": ..., "init_args": {...}}.

    Raises:
        CryodenError: The class is not installed here, or is not a denoising network.
    """
    module, _, name = record["class_path"].rpartition(".")
    if module.startswith(f"{__package__}."):
        module = __package__  # which names them all, whatever file they were in when the record was made
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CryodenError(
            f"network {record['class_path']}: not found here ({error}); install the package that defines it"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, DenoisingNetwork)):
        raise CryodenError(f"network {record['class_path']}: not a subclass of cryoden's DenoisingNetwork")
    return kind(**record["init_args"])
