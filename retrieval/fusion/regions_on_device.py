"""The regions of candidate images on a device, each sent once."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.on_device.torch_memory import lacks_memory
from retrieval.fusion.candidates import CollectionCandidates

if TYPE_CHECKING:
    from torch import Tensor

    from indexes.collection import Collection
    from retrieval.fusion.base import Candidates

MOST_BYTES = 2_000_000_000  # that are on the device for one part of the candidates, and stay
BLOCK_BYTES = 250_000_000  # that are allocated at once: a tensor that grew would be there twice


@dataclass(frozen=True)
class Regions:
    """Of images that are numbered from 0. blocks: [capacity, regions, region_dim] each; all have `capacity` rows but
    the last may have fewer."""

    blocks: tuple[Tensor, ...]
    capacity: int

    def of(self, images: NDArray[np.int64]) -> Tensor:
        """[n, regions, region_dim]. images: int64 [n]."""
        if len(self.blocks) == 1:
            return self.blocks[0][sent(images, self.blocks[0].device)]
        first = self.blocks[0]
        regions = torch.empty((len(images), *first.shape[1:]), dtype=first.dtype, device=first.device)
        for number in np.unique(images // self.capacity):
            places = np.flatnonzero(images // self.capacity == number)
            rows = sent(images[places] % self.capacity, first.device)
            regions[sent(places, first.device)] = self.blocks[number][rows]
        return regions


class RegionsOnDevice:
    """Keeps the regions of the collection that was asked for last; an evaluation asks for the same images again and
    again. May be called from several threads."""

    def __init__(self, device: Any, most_bytes: int = MOST_BYTES, block_bytes: int = BLOCK_BYTES) -> None:
        self._device = device
        self._most_bytes = most_bytes
        self._block_bytes = block_bytes
        self._lock = Lock()
        self._collection: weakref.ref[Collection] | None = None
        self._row_of = np.empty(0, np.int64)  # of each position of the collection; -1 for one that is not here
        self._blocks: tuple[Tensor, ...] = ()
        self._capacity = 1
        self._count = 0

    def __call__(self, candidates: Sequence[Candidates]) -> Iterator[tuple[Regions, NDArray[np.int64]]]:
        """The candidates, one after the other, in parts whose regions fit: the regions of some images, and which image
        of these each candidate of the part is, int64. A part may be dropped before the next one is asked for.

        Raises what torch raises where the memory does not suffice for a few."""
        collection = _common_collection(candidates)
        if collection is None:
            yield from self._of_others(candidates)
            return
        positions = np.concatenate([item.positions for item in candidates if isinstance(item, CollectionCandidates)])
        while len(positions):
            most = self._most_images(collection.binding.region_shape, np.dtype(collection.binding.region_dtype))
            most = min(most, int(collection.starts[-1]))
            part = positions if len(np.unique(positions)) <= most else positions[:most]
            with self._lock:
                regions = self._of_collection(collection, part, most)
            if regions is not None:
                yield regions
                positions = positions[len(part) :]
            del regions  # before there are those of the next part

    def of_array(self, regions: NDArray[Any]) -> Iterator[tuple[Regions, NDArray[np.int64]]]:
        """The same of regions in memory, [n, regions, region_dim], which do not stay on the device."""
        most = self._most_images(regions.shape[1:], regions.dtype)
        for low in range(0, len(regions), most):
            part = as_tensor(np.ascontiguousarray(regions[low : low + most])).to(self._device)
            yield Regions((part,), len(part)), np.arange(len(part))

    def _of_others(self, candidates: Sequence[Candidates]) -> Iterator[tuple[Regions, NDArray[np.int64]]]:
        waiting: list[NDArray[Any]] = []
        for item in candidates:
            regions = item.regions()
            if waiting and sum(part.nbytes for part in waiting) + regions.nbytes > self._most_bytes:
                yield from self.of_array(np.concatenate(waiting))
                waiting = []
            waiting.append(regions)
        yield from self.of_array(np.concatenate(waiting))

    def clear(self) -> None:
        """Free the memory."""
        with self._lock:
            self._collection, self._blocks, self._count = None, (), 0

    def _most_images(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
        return max(1, self._most_bytes // (prod(shape) * dtype.itemsize))

    def _of_collection(
        self, collection: Collection, positions: NDArray[np.int64], most: int
    ) -> tuple[Regions, NDArray[np.int64]] | None:
        """None where memory was short, after which fewer bytes are taken at once. most: images that may stay."""
        distinct = np.unique(positions)
        if self._collection is None or self._collection() is not collection:
            self._forget(collection)
        missing = distinct[self._row_of[distinct] < 0]
        if self._blocks and self._count + len(missing) > most:
            self._forget(collection)
            missing = distinct
        if len(missing) and not self._append(collection.regions(missing), missing, most):
            self._forget(collection)
            self._most_bytes //= 2
            return None
        return Regions(self._blocks, self._capacity), self._row_of[positions]

    def _forget(self, collection: Collection) -> None:
        """Begins anew. What callers still hold stays as it is."""
        self._collection = weakref.ref(collection)
        self._row_of = np.full(int(collection.starts[-1]), -1, np.int64)  # dead rows have positions, too
        self._blocks, self._count = (), 0

    def _append(self, regions: NDArray[Any], positions: NDArray[np.int64], most: int) -> bool:
        """False where memory was short, though more than one image may be there."""
        try:
            self._copy(as_tensor(regions), most)
        except RuntimeError as error:
            if most == 1 or not lacks_memory(error):
                raise
            return False
        self._row_of[positions] = np.arange(self._count - len(regions), self._count)
        return True

    def _copy(self, rows: Tensor, most: int) -> None:
        if not self._blocks:
            self._capacity = max(1, self._block_bytes // rows[0].nbytes)
        while len(rows):
            if self._count == len(self._blocks) * self._capacity:
                size = (min(self._capacity, most - self._count), *rows.shape[1:])
                self._blocks += (torch.empty(size, dtype=rows.dtype, device=self._device),)
            first = self._count - (len(self._blocks) - 1) * self._capacity
            count = min(len(rows), len(self._blocks[-1]) - first)
            self._blocks[-1][first : first + count] = rows[:count].to(self._device)
            self._count += count
            rows = rows[count:]


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Shares the array's memory, unless that is read-only, which torch warns of."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def sent(array: NDArray[Any], device: torch.device) -> Tensor:
    """On the device; the processor goes on meanwhile."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _common_collection(candidates: Sequence[Candidates]) -> Collection | None:
    """The collection that all candidates are of."""
    collections = {
        id(item.collection): item.collection for item in candidates if isinstance(item, CollectionCandidates)
    }
    is_of_one = len(collections) == 1 and all(isinstance(item, CollectionCandidates) for item in candidates)
    return next(iter(collections.values())) if is_of_one else None
