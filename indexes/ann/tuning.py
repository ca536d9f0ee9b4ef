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
from indexes.ann.source import Source
from indexes.exact import as_float32
from indexes.manifest import AnnEntry
from indexes.numbering import RowIds

RECALL_AT = 10
SHORTLISTS = (100, 200, 400, 800, 1600, 3200)
TIMED_TEXTS = 100
MARGIN = 0.005  # of recall, for texts it was not tuned with


def recall(ids: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The mean share of the ids in a row of `exact`, int64 [q, k], that are also in the same row of `ids`, int64
    [q, n]. -1 pads `exact`."""
    is_id = exact >= 0
    hits = (exact[:, :, None] == ids[:, None]).any(axis=2) & is_id
    return float(hits.sum() / max(is_id.sum(), 1))


def exact_ids(source: Source) -> RowIds:
    """The ids of the `RECALL_AT` nearest rows to each text, int64 [q, RECALL_AT], padded with -1."""
    faiss, texts = import_faiss(), source.texts
    best = np.full((len(texts), RECALL_AT), -np.inf, np.float32)
    nearest = np.full((len(texts), RECALL_AT), -1, np.int64)
    for ids, block in source.blocks("searching exactly, to measure by"):
        similarities, rows = faiss.knn(texts, block, min(RECALL_AT, len(ids)), metric=faiss.METRIC_INNER_PRODUCT)
        best = np.concatenate([best, similarities], axis=1)
        nearest = np.concatenate([nearest, ids[rows]], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :RECALL_AT]
        best, nearest = np.take_along_axis(best, order, axis=1), np.take_along_axis(nearest, order, axis=1)
    return nearest


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
