"""Filters: which rows a search may return, decided by what is stored of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from indexes.caching import ArrayCache
from indexes.folders import are_in_folder
from indexes.numbering import Mask
from indexes.segment import Segment

CACHED_BYTES = 64 * 2**20  # of masks; a row takes one byte


class Filter(Protocol):
    """A condition on rows. A filter is a hashable value: equal filters pass the same rows, so that masks can be cached.

    `mask` depends on the rows alone, which never change in a segment; not on which of them are dead, nor on anything
    outside of the segment. It may be called from several threads at once."""

    def __hash__(self) -> int: ...

    def mask(self, segment: Segment) -> Mask:
        """bool [rows]: True where the row passes. Raises `CrosslookError` when the segment cannot be read."""
        ...


@dataclass(frozen=True)
class InFolder:
    """Passes images in one of some folders, at any depth, and images whose own path is one of `folders`.

    folders: absolute paths, as bytes, without links unless rows are stored under the link's name."""

    folders: tuple[bytes, ...]

    def mask(self, segment: Segment) -> Mask:
        """See `Filter`."""
        mask = np.zeros(len(segment), np.bool_)
        if len(segment) and self.folders:
            paths = segment.column("path")
            for folder in self.folders:
                mask |= are_in_folder(paths, folder)
        return mask


class MaskCache:
    """The masks of filters over the segments of one collection; see `ArrayCache`."""

    def __init__(self, capacity: int = CACHED_BYTES) -> None:
        """capacity: bytes of masks to keep."""
        self._masks = ArrayCache(capacity)

    def mask(self, segment: Segment, filters: Sequence[Filter]) -> Mask:
        """bool [rows], read-only: True where the row passes all filters, of which there must be at least one."""
        masks = [self._mask(segment, condition) for condition in filters]
        if len(masks) == 1:
            return masks[0]
        mask: Mask = np.logical_and.reduce(masks)
        mask.flags.writeable = False
        return mask

    def _mask(self, segment: Segment, condition: Filter) -> Mask:
        def make() -> Mask:
            mask = condition.mask(segment)
            if mask.dtype != np.bool_ or mask.shape != (len(segment),):
                raise TypeError(f"{condition} gave {mask.dtype} {mask.shape} for {len(segment)} rows")
            return mask

        return self._masks.get((segment.entry.number, condition), make)
