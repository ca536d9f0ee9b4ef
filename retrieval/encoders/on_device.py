"""Photos on a device of torch: how they get there, how they are resized there, and how results come back.

open_clip's validation preprocessing is done for many photos at once: the processor only decodes. Photos of one size are
resized together by two matrix products (`resampling`), in float32 and rounded as Pillow rounds, so that the model sees
the same pixels: but for ties, at most one level in some 10^-4 of the values.

Several threads may use one device at once, each on a separate stream (`separate_stream`)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexes.on_device.precision import full_float32
from retrieval.encoders.preprocessing import Preprocessing
from retrieval.encoders.registered_memory import is_registered
from retrieval.encoders.resampling import columns_first, columns_used, resampling_matrix

if TYPE_CHECKING:
    from torch import Tensor

PIXELS_AT_ONCE = 40_000_000  # that are float32 at once: half a gigabyte
LONGEST_SIDE = 20_000  # of what is resized here; longer pictures are left to Pillow
KEPT_BYTES = 512_000_000  # of resampling matrices on a device, a thousand of usual photos
COPYING_THREADS = 4


@dataclass(frozen=True)
class _Pass:
    """One pass of a resize: `length` pixels become `resized`, of which the crop keeps `side` from `first` on. columns:
    the input pixels that are sent."""

    length: int
    resized: int
    first: int
    columns: range


class DevicePreprocessing:
    """Does what `Preprocessing` does, on a device of torch. May be used by several threads at once."""

    def __init__(self, preprocessing: Preprocessing, device: Any) -> None:
        import torch

        self._preprocessing = preprocessing
        self._device = device
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
            for values in (preprocessing.mean, preprocessing.std)
        )
        self._copying = ThreadPoolExecutor(COPYING_THREADS, thread_name_prefix="stage")
        self._matrices: OrderedDict[tuple[int, ...], _Sent] = OrderedDict()
        self._matrix_bytes = 0
        self._changing = threading.Lock()

    def __call__(self, photos: Sequence[NDArray[np.uint8]]) -> Tensor:
        """float32 [n, 3, side, side] on the device, normalised. photos: uint8 [h, w, 3] each, of any sizes."""
        return self.levels(photos).div_(255).sub_(self._mean).div_(self._std)

    def levels(self, photos: Sequence[NDArray[np.uint8]]) -> Tensor:
        """The same before they are normalised: whole numbers from 0 to 255, as float32."""
        import torch

        side = self._preprocessing.side
        inputs = torch.empty((len(photos), 3, side, side), device=self._device)
        order = sorted(range(len(photos)), key=lambda index: photos[index].shape[:2])
        first = 0
        for (height, width), group in groupby(order, key=lambda index: photos[index].shape[:2]):
            alike = [photos[index] for index in group]
            across, down = self._passes(width, height)
            if self._is_extreme(across, down):
                for photo in alike:
                    levels = np.array(self._preprocessing.levels(photo))
                    inputs[first] = torch.from_numpy(levels).to(self._device).permute(2, 0, 1)
                    first += 1
                continue
            if 2 * len(across.columns) * len(down.columns) <= width * height:
                rows, columns = (slice(part.columns.start, part.columns.stop) for part in (down, across))
                alike = [photo[rows, columns] for photo in alike]
            else:
                across, down = (replace(part, columns=range(part.length)) for part in (across, down))
            height_used, width_used = alike[0].shape[:2]
            step = max(1, PIXELS_AT_ONCE // (height_used * width_used))
            for low in range(0, len(alike), step):
                chunk = alike[low : low + step]
                pixels = self._sent(chunk).view(len(chunk), height_used, width_used, 3)
                inputs[first : first + len(chunk)] = self._resized(pixels, across, down)
                first += len(chunk)
        return inputs if order == sorted(order) else inputs[_Sent(np.argsort(order), self._device).tensor()]

    def _passes(self, width: int, height: int) -> tuple[_Pass, _Pass]:
        """Along the rows of a photo, and along its columns."""
        side = self._preprocessing.side
        sizes = self._preprocessing.resized(width, height)
        passes = []
        for length, resized, first in zip((width, height), sizes, self._preprocessing.corner(*sizes), strict=True):
            rows = range(first, first + side)
            columns = columns_used(length, resized, self._preprocessing.interpolation, rows)
            passes.append(_Pass(length, resized, first, columns))
        return passes[0], passes[1]

    @staticmethod
    def _is_extreme(across: _Pass, down: _Pass) -> bool:
        """Whether the part of a photo that is used, or a matrix for it, is too large."""
        width, height = len(across.columns), len(down.columns)
        return max(width, height) > LONGEST_SIDE or width * height > PIXELS_AT_ONCE

    def _resized(self, pixels: Tensor, across: _Pass, down: _Pass) -> Tensor:
        """Levels, float32 [n, 3, side, side], of uint8 [n, h, w, 3], the columns of both passes."""
        side = self._preprocessing.side
        rows, columns = self._matrix(across), self._matrix(down)
        values = pixels.permute(0, 3, 1, 2).float()
        with full_float32():
            if columns_first(across.length, down.length, across.resized, down.resized):
                values = _rounded(_rounded(columns @ values) @ rows.T)
            else:
                values = _rounded(columns @ _rounded(values @ rows.T))
        assert values.shape[2:] == (side, side)
        return values

    def _matrix(self, part: _Pass) -> Tensor:
        """The rows of the resampling matrix that the crop keeps, float32 [side, columns]. Those that were used last are
        kept, for all threads. None waits for what another one sends, nor for the device."""
        key = (part.length, part.resized, part.first, len(part.columns))
        with self._changing:
            sent = self._matrices.get(key)
        if sent is None:
            rows = range(part.first, part.first + self._preprocessing.side)
            interpolation = self._preprocessing.interpolation
            matrix = resampling_matrix(part.length, part.resized, interpolation, rows, part.columns)
            sent = _Sent(matrix, self._device)
        with self._changing:
            if key not in self._matrices:
                self._matrices[key] = sent
                self._matrix_bytes += sent.nbytes
            self._matrices.move_to_end(key)
            while self._matrix_bytes > KEPT_BYTES and len(self._matrices) > 1:
                self._matrix_bytes -= self._matrices.popitem(last=False)[1].nbytes
        return sent.tensor()

    def _sent(self, photos: Sequence[NDArray[np.uint8]]) -> Tensor:
        """uint8 [bytes] on the device: the pixels of the photos, one after the other."""
        import torch

        ends = list(accumulate(photo.size for photo in photos))
        pixels = torch.empty(ends[-1], dtype=torch.uint8, device=self._device)
        if all(map(is_registered, photos)):
            for photo, end in zip(photos, ends, strict=True):
                pixels[end - photo.size : end].copy_(torch.from_numpy(photo.reshape(-1)), non_blocking=True)
            return pixels
        host = pixels if self._device.type == "cpu" else torch.empty(ends[-1], dtype=torch.uint8, pin_memory=True)
        buffer = host.numpy()

        def copy(index: int) -> None:
            np.copyto(buffer[ends[index] - photos[index].size : ends[index]], photos[index].reshape(-1))

        list(self._copying.map(copy, range(len(photos))))  # several threads: one copies slower than the bus
        # The pinned memory is not given to others before this copy has ended: torch keeps an event for it.
        return pixels if host is pixels else pixels.copy_(host, non_blocking=True)


class _Sent:
    """An array on a device. The processor does not wait until it is there."""

    def __init__(self, array: NDArray[Any], device: Any) -> None:
        import torch

        self.nbytes = array.nbytes
        self._is_on_gpu = device.type == "cuda"
        host = torch.from_numpy(np.array(array))
        if not self._is_on_gpu:
            self._tensor = host
            return
        self._tensor = host.pin_memory().to(device, non_blocking=True)
        self._arrival = torch.cuda.current_stream(device).record_event()

    def tensor(self) -> Tensor:
        """For the current stream of this thread, which waits until it is there."""
        import torch

        if self._is_on_gpu:
            stream = torch.cuda.current_stream(self._tensor.device)
            stream.wait_event(self._arrival)
            self._tensor.record_stream(stream)  # its memory is not used again before this stream is done with it
        return self._tensor


def _rounded(values: Tensor) -> Tensor:
    """Levels, 0 to 255, in place; halves up, as Pillow."""
    return values.add_(0.5).floor_().clamp_(0, 255)


def fetched(*tensors: Tensor) -> list[NDArray[Any]]:
    """The tensors as arrays. From a GPU they come by way of pinned memory, which is several times faster, once all work
    on the current stream is done."""
    import torch

    if tensors[0].device.type != "cuda":
        return [tensor.contiguous().numpy() for tensor in tensors]
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.numpy().copy() for copy in copies]


@contextmanager
def separate_stream(device: Any) -> Iterator[None]:
    """On a GPU, puts the work of this thread on a stream that no other thread uses meanwhile. It begins when all that
    is on the default stream is done. What is made inside must be used inside only, or be `fetched`."""
    import torch

    if device.type != "cuda":
        yield
        return
    idle = _IDLE_STREAMS.setdefault(str(device), [])
    try:
        stream = idle.pop()
    except IndexError:
        stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        idle.append(stream)


_IDLE_STREAMS: dict[str, list[Any]] = {}  # by device; torch keeps freed memory for every stream, so streams are few
