"""Choose how many lists a query scans and how long its shortlist is, and measure what that finds.

Both are done with texts, not with images: text embeddings are out of distribution for an index of images, so that
recall is lower at equal settings."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.ann.faiss_index import one_thread, search
from indexes.ann.faiss_module import import_faiss
from indexes.ann.source import ROWS_AT_ONCE, Source
from indexes.exact import as_float32
from indexes.manifest import AnnEntry
from indexes.numbering import RowIds
from indexes.on_device.base import Backend
from indexes.on_device.certificate import Special, certified
from indexes.products import nearest_of_many

RECALL_AT = 10
SEARCHING = "searching exactly, to measure by"
SHORTLISTS = (100, 200, 400, 800, 1600, 3200)
TIMED_TEXTS = 100
MARGIN = 0.005  # of recall, for texts it was not tuned with


def recall(ids: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The mean share of the ids in a row of `exact`, int64 [q, k], that are also in the same row of `ids`, int64
    [q, n]. -1 pads `exact`."""
    is_id = exact >= 0
    hits = (exact[:, :, None] == ids[:, None]).any(axis=2) & is_id
    return float(hits.sum() / max(is_id.sum(), 1))


def exact_ids(source: Source, backend: Backend | None = None) -> RowIds:
    """The ids of the `RECALL_AT` nearest rows to each text, int64 [q, RECALL_AT], padded with -1. backend: of a device
    that searches them. Raises `DeviceError`."""
    if backend is not None and len(source.texts):
        return _exact_ids_by_device(source, backend)
    faiss, texts = import_faiss(), source.texts
    best = np.full((len(texts), RECALL_AT), -np.inf, np.float32)
    nearest = np.full((len(texts), RECALL_AT), -1, np.int64)
    for ids, block in source.blocks(SEARCHING):
        similarities, rows = faiss.knn(texts, block, min(RECALL_AT, len(ids)), metric=faiss.METRIC_INNER_PRODUCT)
        best = np.concatenate([best, similarities], axis=1)
        nearest = np.concatenate([nearest, ids[rows]], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :RECALL_AT]
        best, nearest = np.take_along_axis(best, order, axis=1), np.take_along_axis(nearest, order, axis=1)
    return nearest


def _exact_ids_by_device(source: Source, backend: Backend) -> RowIds:
    """Texts for which the device proves nothing are compared with all rows by the processor."""
    matrix = backend.matrix(source.dim, source.rows)
    special = [np.zeros(0, np.int64)]
    for part in source.parts:
        for low in range(0, len(part.ids), ROWS_AT_ONCE):
            special.append(len(matrix) + matrix.add(part.embeddings[low : low + ROWS_AT_ONCE]))
            source.progress(SEARCHING, len(matrix), source.rows)
    barred = np.zeros(source.rows, np.bool_)
    barred[np.concatenate(special)] = True  # they are no embeddings, and never nearest
    none = Special(np.zeros(0, np.int64), np.zeros((0, source.dim), np.float32))
    on_device = matrix.barred(barred) if barred.any() else None
    result = certified(matrix, source.texts, RECALL_AT, source.rows, on_device, none)
    uncertain = np.flatnonzero(~result.is_certain)
    if len(uncertain):
        arrays = [part.embeddings for part in source.parts]
        masks = np.split(~barred, np.cumsum([len(array) for array in arrays[:-1]], dtype=np.int64))
        compared = nearest_of_many(source.texts[uncertain], arrays, masks, RECALL_AT)
        result.rows[uncertain] = compared[1]
    ids = np.concatenate([part.ids for part in source.parts])
    return np.where(result.rows < 0, -1, ids[result.rows])


def tuned(index: Any, entry: AnnEntry, source: Source, texts: NDArray[np.float32], exact: RowIds) -> AnnEntry:
    """The entry with the fastest `nprobe` and `shortlist` that reach its recall target or, where none do, with those
    that come nearest to it. index: of FAISS. exact: of the texts, see `exact_ids`."""
    lists = import_faiss().extract_index_ivf(index).nlist
    steps, best = lists.bit_length(), (False, 0.0, entry)  # whether it reaches the target; minus ms, or recall
    for step in range(steps):
        nprobe = min(2**step, lists)
        ids = search(index, texts, SHORTLISTS[-1], nprobe)
        recalls = [recall(ids[:, :length], exact) for length in SHORTLISTS]
        is_enough = [value >= min(entry.recall_target + MARGIN, 1.0) for value in recalls]
        source.progress("tuning", step + 1, steps)
        if not any(is_enough):
            if not best[0] and max(recalls) > best[1]:
                length = SHORTLISTS[int(np.argmax(recalls))]
                best = False, max(recalls), replace(entry, nprobe=nprobe, shortlist=length)
            continue
        candidate = replace(entry, nprobe=nprobe, shortlist=SHORTLISTS[is_enough.index(True)])
        speed = -_milliseconds(index, candidate, source, texts)
        if not best[0] or speed > best[1]:
            best = True, speed, candidate
        if is_enough[0]:
            break  # with more lists the shortlist would be no shorter
    return best[2]


def measured(index: Any, entry: AnnEntry, source: Source, texts: NDArray[np.float32], exact: RowIds) -> AnnEntry:
    """The entry with its recall for these texts, and with the time of one. Arguments as for `tuned`."""
    share = recall(search(index, texts, entry.shortlist, entry.nprobe), exact)
    milliseconds = _milliseconds(index, entry, source, texts)
    return replace(entry, recall=share, milliseconds=milliseconds, measured_rows=entry.rows)


def _milliseconds(index: Any, entry: AnnEntry, source: Source, texts: NDArray[np.float32]) -> float:
    """The median time of a search by one text, exact scoring of the shortlist included."""
    seconds = []
    for text in texts[:TIMED_TEXTS]:
        started = time.perf_counter()
        with one_thread():
            ids = search(index, text[None], entry.shortlist, entry.nprobe)[0]
        as_float32(source.gather(ids[ids >= 0])) @ text
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))
