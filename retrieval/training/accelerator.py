"""What a GPU does in another way than a CPU. Everything in training that depends on the kind of the device is here.

On a CPU all of it is off, and training computes in float32, one thing after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from indexes.on_device.torch_memory import free_bytes
from retrieval.training.parallel import current_device

if TYPE_CHECKING:
    from torch import Tensor

Drawn = TypeVar("Drawn")
FREE_OF_CPU = 1 << 30  # bytes
Batch = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Acceleration:
    """half: whether products are computed in bfloat16. fused: whether the optimiser updates all parameters by one
    kernel. ahead: batches that are loaded while another is learnt from. lag: steps after which losses are read, since
    reading one at once would wait for the device. makes_views: whether the device makes random views of photos.
    keeps_features: whether features stay on the device, and keeps_photos: whether decoded photos stay on disk for the
    next epoch, as far as there is room."""

    half: bool = False
    fused: bool = False
    ahead: int = 0
    lag: int = 0
    makes_views: bool = False
    keeps_features: bool = False
    keeps_photos: bool = False


def acceleration() -> Acceleration:
    """What the device of the training does."""
    if current_device().type != "cuda":
        return Acceleration()
    half = torch.cuda.is_bf16_supported(including_emulation=False)  # float16 would need its losses scaled
    return Acceleration(half=half, fused=True, ahead=4, lag=8, makes_views=True, keeps_features=True, keeps_photos=True)


def room() -> int:
    """Bytes of the device that may be filled for the whole run."""
    device = current_device()
    return int(free_bytes(device)) // 2 if device.type == "cuda" else FREE_OF_CPU


def staging(size: int) -> Tensor:
    """uint8 [size] in memory from which the device copies fastest."""
    return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=current_device().type == "cuda")


def reduced_precision() -> AbstractContextManager[Any]:
    """Products in bfloat16, where the device is faster so; the weights stay float32."""
    return torch.autocast(current_device().type, dtype=torch.bfloat16, enabled=acceleration().half)


def full_precision() -> AbstractContextManager[Any]:
    """Products in float32 again: for logits and losses. The inputs are made float32 by the caller."""
    return torch.autocast(current_device().type, enabled=False)


def optimizer_of(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.AdamW:
    """AdamW. Its state is float32 and the same on every device."""
    return torch.optim.AdamW(groups, fused=True if acceleration().fused else None, **settings)


class Lane:
    """Loads batches on the device beside the computing: on a GPU, in a stream of its own. Made in the thread that
    computes."""

    def __init__(self) -> None:
        self._device = current_device()
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        if self._stream is not None:  # what batches are made of may still be on its way
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def load(self, make: Callable[[Drawn], Batch], drawn: Drawn) -> tuple[Batch, Any]:
        """A batch, and the event after which it is complete. Called by any thread."""
        with torch.device(self._device), self._own_stream():
            batch = make(drawn)
            return batch, None if self._stream is None else self._stream.record_event()

    def receive(self, loaded: tuple[Batch, Any]) -> Batch:
        """The batch, for the thread that computes."""
        batch, event = loaded
        if event is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(event)
            for tensor in batch.values():
                if tensor.is_cuda:
                    tensor.record_stream(stream)  # its memory is not used again before this stream is done with it
        return batch

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield


class Reading:
    """Numbers on their way from the device."""

    def __init__(self, numbers: Iterable[Tensor]) -> None:
        values = torch.stack([number.detach().float() for number in numbers])
        self._event = None
        if values.is_cuda:
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            self._event = torch.cuda.current_stream().record_event()
        self._values = values

    def numbers(self) -> list[float]:
        """Waits until they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers
