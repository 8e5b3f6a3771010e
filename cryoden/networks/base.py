"""The two kinds of network, and what a caller may rely on for each."""

import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cryoden.errors import CryodenError, one_line
from cryoden.networks.blocks import is_of_all_levels

_PLAIN = (int, float, str, bool, type(None))
LARGEST = 4096  # of what a network is built with: channels and so on are far below


def constructor_arguments(module: nn.Module) -> dict[str, Any]:
    """The arguments that build the same network again: `type(module)(**constructor_arguments(module))`.

    As in scikit-learn, every constructor argument is kept as an attribute of the same name.

    Args:
        module: A network of this package, or one that keeps the same convention.

    Returns:
        Name to plain value (int, float, str, bool, None, or a list of these), in the constructor's order.

    Raises:
        CryodenError: An argument is not kept, is not plain, has no name of its own, or is a number that no network is
            built with again.

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
        value = _listed(getattr(module, name))
        if not all(isinstance(each, _PLAIN) for each in (value if isinstance(value, list) else [value])):
            raise CryodenError(
                f"{where} must be int, float, str, bool, None or a list of these, which a checkpoint can keep, got a "
                f"{type(value).__name__}; make what is needed of plain values in __init__"
            )
        if not _is_modest(value):  # now, as `build_network` would after all training
            raise CryodenError(
                f"{where}: got {str(value)[:100]}; a checkpoint is read with numbers from {-LARGEST} to {LARGEST} and "
                "lists of at most as many, as it may be anyone's; give less, or write the number into __init__"
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


def with_defaults(record: dict[str, Any], network: DenoisingNetwork) -> dict[str, Any]:
    """A record that may be from before a network had all of its arguments, with the defaults of those that are missing.

    Args:
        record: {"class_path": ..., "init_args": {...}}.
        network: Of today.

    Returns:
        The record with all arguments; as it was, if it is of another class.
    """
    if record["class_path"] != network_record(network)["class_path"]:
        return record
    parameters = inspect.signature(type(network)).parameters
    defaults = {name: _listed(each.default) for name, each in parameters.items() if each.default is not each.empty}
    return {**record, "init_args": {**defaults, **record["init_args"]}}


def build_network(record: dict[str, Any]) -> DenoisingNetwork:
    """The network that `network_record` described, with fresh weights.

    A record may come from anyone, so it imports nothing: networks are those of this package, and those of modules that
    have been imported already.

    Args:
        record: {"class_path": ..., "init_args": {...}}.

    Raises:
        CryodenError: The class is not at hand here, is not a denoising network, or does not take these arguments.
    """
    class_path, arguments = record.get("class_path"), record.get("init_args")
    if not isinstance(class_path, str) or not re.fullmatch(r"[\w.]{1,200}", class_path):
        raise CryodenError(f"network {str(class_path)[:200]!r}: is no name of a class")
    if not isinstance(arguments, dict) or not all(map(_is_modest, arguments.values())):
        raise CryodenError(
            f"network {class_path}: its arguments are {str(arguments)[:200]}; each has a name, and is a text, a number "
            f"up to {LARGEST}, True, False, None, or a list of these"
        )
    kind = _class_of(class_path)
    try:
        return kind(**arguments)
    except Exception as error:  # whatever a constructor says of arguments that it was not made for
        raise CryodenError(f"network {class_path}: cannot be built with {arguments}: {one_line(error)}") from error


def check_network(record: dict[str, Any], weights: Mapping[str, Tensor], most: int) -> None:
    """Refuse weights that are not those of the network that a record describes, before it takes any memory.

    Args:
        record: {"class_path": ..., "init_args": {...}}.
        weights: As a state dict.
        most: Bytes that the weights may take: those of the file that they came from.

    Raises:
        CryodenError: The network cannot be built, or names, shapes or sizes are others.
    """
    with torch.device("meta"), _Unstarted():
        expected = build_network(record).state_dict()
    if sum(value.numel() * value.element_size() for value in weights.values()) > most:
        raise CryodenError(f"its weights are larger than the file, which has {most} bytes")
    for name in [*expected, *weights]:
        there, here = (tuple(each[name].shape) if name in each else None for each in (weights, expected))
        if there != here and not is_of_all_levels(name, there, here):
            told = [f"of shape {shape}" if shape is not None else "missing" for shape in (there, here)]
            raise CryodenError(
                f"its weights do not fit its description: {name} is {told[0]} in the file and {told[1]} in "
                f"{record['class_path']} with {record['init_args']}"
            )


class _Unstarted(TorchFunctionMode):
    """Leaves weights without a start: on the device meta they have no values, and torch imports its compiler for it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:  # a method of C++ has none
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _class_of(class_path: str) -> type[DenoisingNetwork]:
    home, _, name = class_path.rpartition(".")
    # the package names all of its own, whatever file they were in when the record was made
    module = sys.modules.get(__package__ if home.startswith(f"{__package__}.") else home)
    kind = getattr(module, name, None)
    if kind is None:
        hint = f"import {home} first, or name it: --module {home}" if module is None else f"{home} has no {name}"
        raise CryodenError(f"network {class_path}: not one of cryoden's, nor of a module that was imported; {hint}")
    if not (isinstance(kind, type) and issubclass(kind, DenoisingNetwork)):
        raise CryodenError(f"network {class_path}: not a subclass of cryoden's DenoisingNetwork")
    return kind


def _listed(value: Any) -> Any:
    """The same, a list for a tuple, and Python's numbers for numpy's: a checkpoint knows no others."""
    if isinstance(value, list | tuple):
        return [python_number(each) for each in value]
    return python_number(value)


def python_number(value: Any) -> Any:
    """Python's number for one of numpy's, which a checkpoint cannot keep; all else as it is.

    >>> python_number(np.float64(0.5))
    0.5
    """
    return value.item() if isinstance(value, np.generic) else value


def _is_modest(value: Any) -> bool:
    """Whether a value is plain, and no number that would make a constructor run for hours."""
    if isinstance(value, list):
        return len(value) <= LARGEST and all(not isinstance(each, list) and _is_modest(each) for each in value)
    return isinstance(value, _PLAIN) and (not isinstance(value, int | float) or abs(value) <= LARGEST)
