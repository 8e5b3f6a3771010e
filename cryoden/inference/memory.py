"""How much memory a network needs, without running it."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def peak_memory(network: nn.Module, batch_size: int, tile: tuple[int, int, int]) -> int:
    """Bytes of the tensors that live at once while a network denoises, in float32; torch's own needs come on top.

    Args:
        network: In evaluation mode, or not.
        batch_size: Tiles at once.
        tile: Their edges in voxels.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), _Watch() as watch:
        shadow(torch.empty(batch_size, 1, *tile, device="meta"))
    weights = sum(tensor.nbytes for tensor in shadow.state_dict().values())
    return int(watch.peak + weights)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made within it and still referred to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler to keep it out: that takes longer than a small tomogram

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.endswith("_") and not name.endswith("__"):  # in place: makes nothing
            return args[0]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
