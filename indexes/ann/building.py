"""Make an ANN index of FAISS, or add rows to one.

Centroids are compared one by one. A graph over them (HNSW), which inner products mislead, missed a tenth of the nearest
images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from indexes.ann.base import unusable_ann
from indexes.ann.faiss_index import KIND
from indexes.ann.faiss_module import import_faiss
from indexes.ann.filling import DIMENSIONS_A_CODE, fill_by_device, padded_dim, padded_rows
from indexes.ann.source import Source
from indexes.ann.tuning import exact_ids, measured, tuned
from indexes.errors import CrosslookError
from indexes.manifest import AnnEntry
from indexes.numbering import RowId
from indexes.on_device.base import Backend

FEWEST_LISTS, MOST_LISTS = 64, 65_536
SAMPLED_A_LIST = 40


def build_ann(source: Source, recall_target: float, path: Path, backend: Backend | None = None) -> AnnEntry:
    """Make an index over all rows and write it to `path`. Half of the texts tune it, the others measure it.

    recall_target: share of the exact first `RECALL_AT` to find, 0 to 1. backend: of a device that learns the lists,
    fills them, and searches exactly; codes, tuning and measuring are the processor's. Raises `CrosslookError` if it
    cannot be written, or FAISS is not installed, and `DeviceError`."""
    index = _trained(source, backend)
    if backend is None:
        _add(index, source, after=0)
    else:
        fill_by_device(index, source, backend)
    exact = exact_ids(source, backend)
    entry = AnnEntry(recall_target=recall_target, rows=source.rows, last_id=source.last_id, kind=KIND)
    tuning, measuring = slice(0, None, 2), slice(1, None, 2)
    entry = tuned(index, entry, source, source.texts[tuning], exact[tuning])
    return _written(index, measured(index, entry, source, source.texts[measuring], exact[measuring]), path)


def extend_ann(old: Path, entry: AnnEntry, source: Source, path: Path, backend: Backend | None = None) -> AnnEntry:
    """Add the rows that an index does not cover yet, and write it to `path`. It keeps how it is tuned.

    Where there are texts, it is measured again, which reads all rows. backend: of a device that searches exactly for
    that. Raises as `build_ann`, and where `old` cannot be read."""
    try:
        index = import_faiss().read_index(str(old))
    except RuntimeError as error:
        raise unusable_ann(old, "it is not an index of FAISS") from error
    _add(index, source, after=entry.last_id)
    entry = replace(entry, rows=int(index.ntotal), last_id=source.last_id)
    if len(source.texts):
        entry = measured(index, entry, source, source.texts, exact_ids(source, backend))
    return _written(index, entry, path)


def lists_for(rows: int) -> int:
    """The power of two nearest to 2 sqrt(rows). Twice as many lists are hardly faster to search, and take four times as
    long to learn."""
    lists = 2 ** round(math.log2(2 * math.sqrt(max(rows, 1))))
    return int(min(max(lists, FEWEST_LISTS), MOST_LISTS))


def _trained(source: Source, backend: Backend | None) -> Any:
    """An empty index with centroids and codes for these rows."""
    faiss = import_faiss()
    lists, dim = lists_for(source.rows), source.dim
    source.progress("learning lists and codes", 0, 1)
    padded = padded_dim(dim)
    pad = f"Pad{padded}," if padded != dim else ""
    factory = f"{pad}IVF{lists},PQ{padded // DIMENSIONS_A_CODE}x4fsr"  # r: codes of residuals
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(index).cp.min_points_per_centroid = 1
    sample = source.sample(SAMPLED_A_LIST * lists)
    if backend is not None and len(sample) >= lists:  # FAISS keeps the centroids that it is given
        faiss.extract_index_ivf(index).quantizer.add(padded_rows(backend.centroids(sample, lists)))
    index.train(sample)
    source.progress("learning lists and codes", 1, 1)
    return index


def _add(index: Any, source: Source, after: RowId) -> None:
    for ids, block in source.blocks("adding images", after):
        index.add_with_ids(block, ids)


def _written(index: Any, entry: AnnEntry, path: Path) -> AnnEntry:
    try:
        import_faiss().write_index(index, str(path))
    except RuntimeError as error:  # faiss does not say why; a full disk is the likeliest
        raise CrosslookError(f"cannot write {path}: {str(error).splitlines()[-1]}; is the disk full?") from error
    return replace(entry, bytes=path.stat().st_size)
