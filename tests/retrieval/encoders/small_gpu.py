"""A GPU with little memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SmallGpu:
    """A function of a device with room for so many items at once. calls: sizes of the batches that fitted."""

    def __init__(self, encode: Any, room: int) -> None:
        self.encode, self._room = encode, room
        self.calls: list[int] = []

    def __call__(self, prepared: Sequence[Any], *others: Any) -> Any:
        import torch

        if len(prepared) > self._room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.calls.append(len(prepared))
        return self.encode(prepared, *others)
