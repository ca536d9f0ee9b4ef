"""Rows in the memory of a device of torch. The tests run the same code on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.numbering import Mask
from indexes.on_device.base import DeviceError, Shortlists
from indexes.on_device.precision import full_sums
from indexes.on_device.torch_memory import device_errors, free_bytes

CUDA = "cuda"
ALIGNMENT = 8  # float16 values, for the fastest kernels
ROWS_COPIED = 65_536
ELEMENTS_AT_ONCE = 2**30  # of the rows of one product: 2 GiB
PRODUCTS_AT_ONCE = 2**28  # half a GiB
QUERIES_AT_ONCE = 256
GROUPS = 64  # rows whose largest product is compared first
ROOM = 2**30  # bytes that stay free, for products
SPARE = 8  # a matrix has room for an eighth more rows than it must, for those that later commits add


class TorchMatrix:
    """See `Matrix`. The rows lie in few large tensors: one, and another when later rows do not fit into it any more."""

    def __init__(self, device: str, dim: int, rows: int) -> None:
        import torch

        self.norm = 0.0
        self._torch = torch
        self._device = device
        self._dim = dim
        self._width = -(-dim // ALIGNMENT) * ALIGNMENT
        self._tensors: list[Any] = []  # [capacity, width]
        self._starts: list[int] = []  # of the first row in each tensor
        self._rows = 0
        with device_errors():
            self._grow(rows)

    def __len__(self) -> int:
        return self._rows

    def add(self, block: NDArray[np.float16]) -> NDArray[np.int64]:
        """See `Matrix`."""
        torch, is_cuda = self._torch, self._device.startswith(CUDA)
        before, tensors, irregular, low = self._rows, len(self._tensors), [np.zeros(0, np.int64)], 0
        with device_errors():
            size = (min(ROWS_COPIED, len(block)), self._width)
            staging = torch.zeros(size, dtype=torch.float16, pin_memory=is_cuda)
            try:
                while low < len(block):
                    if self._rows == self._capacity:
                        self._grow(len(block) - low)
                    count = min(ROWS_COPIED, len(block) - low, self._capacity - self._rows)
                    staging[:count, : self._dim].numpy()[:] = block[low : low + count]
                    irregular.append(low + self._copy(staging[:count]))
                    low += count
            except BaseException:  # no row of this call counts, so that its tensors would begin at wrong rows
                self._rows = before
                del self._tensors[tensors:], self._starts[tensors:]
                raise
        return np.concatenate(irregular)

    def barred(self, mask: Mask) -> Any:
        """See `Matrix`."""
        with device_errors():
            return self._torch.from_numpy(np.array(mask)).to(self._tensors[0].device)

    def shortlists(self, queries: NDArray[np.float32], count: int, rows: int, barred: Any) -> Shortlists:
        """See `Matrix`."""
        torch = self._torch
        halves = np.zeros((len(queries), self._width), np.float16)
        with np.errstate(over="ignore", invalid="ignore"):
            halves[:, : self._dim] = queries
        with device_errors():
            on_device = torch.from_numpy(halves).to(self._tensors[0].device)
            with full_sums() as sums:
                parts = [
                    self._largest(part, min(count, rows), rows, barred) for part in on_device.split(QUERIES_AT_ONCE)
                ]
            products = torch.cat([part[0] for part in parts]).cpu().numpy()
            indices = torch.cat([part[1] for part in parts]).cpu().numpy()
        last = products[:, -1]
        with np.errstate(invalid="ignore", over="ignore"):  # of infinite products
            bounds = last.astype(np.float64) + np.spacing(np.abs(last)).astype(np.float64)  # they were rounded
        if not sums.kept:  # nothing bounds what a sum of float16 values may be
            bounds = np.full(len(queries), np.inf)
        if count >= rows:
            bounds = np.full(len(queries), -np.inf)
        bounds[np.isneginf(last)] = -np.inf
        return Shortlists(np.where(np.isneginf(products), -1, indices), products.astype(np.float32), bounds)

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Matrix`."""
        torch = self._torch
        fetched = np.empty((0, self._dim), np.float32)
        with device_errors():
            for tensor, start in zip(self._tensors, self._starts, strict=False):
                inside = (rows >= start) & (rows < start + len(tensor))
                if inside.any():
                    indices = torch.from_numpy(rows[inside] - start).to(self._tensors[0].device)
                    part = self._on_processor(tensor[indices][:, : self._dim].float())
                    if inside.all():
                        return part
                    fetched = fetched if len(fetched) else np.empty((len(rows), self._dim), np.float32)
                    fetched[inside] = part
        return fetched

    def _on_processor(self, tensor: Any) -> NDArray[np.float32]:
        """By way of pinned memory, to which a GPU copies ten times as fast."""
        if not self._device.startswith(CUDA):
            return np.asarray(tensor.numpy())
        pinned = self._torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return np.asarray(pinned.copy_(tensor).numpy())

    @property
    def _capacity(self) -> int:
        return sum(len(tensor) for tensor in self._tensors)

    def _grow(self, rows: int) -> None:
        """Make room for so many rows more, and for an eighth of all rows besides, where that fits. Only within
        `device_errors`."""
        torch, row_bytes = self._torch, 2 * self._width
        free = free_bytes(self._device) - ROOM
        if rows * row_bytes > free:
            raise DeviceError(
                f"the embeddings take {rows * row_bytes / 2**30:.1f} GiB, and {max(free, 0) / 2**30:.1f} GiB of the "
                "GPU's memory can be used"
            )
        capacity = int(min(rows + (self._capacity + rows) // SPARE + 1, free / row_bytes))
        start = self._capacity
        tensor = torch.empty((capacity, self._width), dtype=torch.float16, device=self._device)
        self._starts.append(start)  # before the tensor, so that a thread that sees the tensor sees its start
        self._tensors.append(tensor)

    def _copy(self, staging: Any) -> NDArray[np.int64]:
        """Add rows that fit into the last tensor, and return which are not finite. staging: [n, width]."""
        torch = self._torch
        low = self._rows - self._starts[-1]
        target = self._tensors[-1][low : low + len(staging)]
        target.copy_(staging)
        squares = target.float().square().sum(dim=1)
        is_regular = torch.isfinite(squares)
        if not bool(is_regular.all()):
            target[~is_regular] = 0
            squares[~is_regular] = 0
        self.norm = max(self.norm, 1.001 * float(squares.max().sqrt()))  # the sum was rounded
        self._rows += len(staging)
        irregular: NDArray[np.int64] = (~is_regular).nonzero()[:, 0].cpu().numpy()
        return irregular

    def _largest(self, queries: Any, count: int, rows: int, barred: Any) -> tuple[Any, Any]:
        """The largest products and their rows, [q, count] each, largest first. queries: float16 [q, width]."""
        torch, values, indices = self._torch, [], []
        for start, block in self._blocks(rows, len(queries)):
            products = queries @ block.T
            if barred is not None:
                products.masked_fill_(barred[start : start + len(block)], -torch.inf)
            best, at = largest_products(products, min(count, len(block)))
            values.append(best)
            indices.append(at + start)
        if len(values) == 1:
            return values[0], indices[0]
        best, at = torch.cat(values, dim=1).topk(count, dim=1)
        return best, torch.cat(indices, dim=1).gather(1, at)

    def _blocks(self, rows: int, queries: int) -> Iterator[tuple[int, Any]]:
        """The first rows in blocks, with the row that each begins with."""
        at_once = max(min(ELEMENTS_AT_ONCE // self._width, PRODUCTS_AT_ONCE // queries) // GROUPS * GROUPS, GROUPS)
        for tensor, start in zip(self._tensors, self._starts, strict=False):
            used = min(rows - start, len(tensor))
            for low in range(0, max(used, 0), at_once):
                yield start + low, tensor[low : min(low + at_once, used)]


def largest_products(products: Any, count: int) -> tuple[Any, Any]:
    """`torch.topk` of many columns: values and columns, [q, count], largest first. products: [q, n], without nan.

    Columns are taken in groups. The `count` groups with the largest products hold `count` products that are at least as
    large as every product of another group, so that the largest are among theirs."""
    columns = products.shape[1]
    groups = columns // GROUPS
    if count >= groups:
        best, at = products.topk(count, dim=1)
        return best, at
    import torch

    grouped = products[:, : groups * GROUPS].unflatten(1, (GROUPS, groups))  # a group: every `groups`-th column
    chosen = grouped.amax(dim=1).topk(count, dim=1, sorted=False).indices  # [q, count]
    steps = groups * torch.arange(GROUPS, device=products.device)
    rest = torch.arange(groups * GROUPS, columns, device=products.device).expand(len(products), -1)
    candidates = torch.cat([(chosen[:, :, None] + steps).flatten(1), rest], dim=1)
    best, at = products.gather(1, candidates).topk(count, dim=1)
    return best, candidates.gather(1, at)
