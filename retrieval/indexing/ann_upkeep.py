"""Keep a collection's ANN index in step with its rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from indexes.ann.base import FEWEST_ROWS
from indexes.ann.building import build_ann, extend_ann
from indexes.ann.faiss_index import KIND
from indexes.ann.faiss_module import import_faiss
from indexes.ann.kinds import unknown
from indexes.ann.source import Rows, Source
from indexes.collection import Collection
from indexes.manifest import AnnEntry
from indexes.paths import ann_folder
from indexes.writer import CollectionWriter
from retrieval.encoders import load_encoder
from retrieval.indexing.ann_device import with_device
from retrieval.progress import Step
from retrieval.sample_texts import sample_texts

RECALL_TARGET = 0.95
TEXTS = 1000
TEXTS_TO_MEASURE_BY = 200
TEXTS_AT_ONCE = 100
TOLERANCE = 0.02  # of recall, when it is measured with `TEXTS_TO_MEASURE_BY` texts
MEASURED_AGAIN = 0.05  # rows added since the last measurement, as a share of the rows at that time
OUTGROWN = 0.25  # rows added or gone since the index was made, as a share of its rows: then it is made anew


def update_ann(
    writer: CollectionWriter,
    recall_target: float | None,
    step: Callable[[Step], None],
    note: Callable[[str], None] = lambda line: None,
    device: str = "cpu",
) -> bool:
    """Make, extend or drop the index as the collection needs. Returns whether anything was done.

    recall_target: None for that of the index in force. step: called with the progress. note: called if an index of a
    later version is replaced; nothing is lost with it, since every index is made of the embeddings; and if a GPU fails,
    so that the processor goes on. device: `cuda` for a GPU, `auto` for a GPU where there is one and the collection is
    large. Raises `CrosslookError` where FAISS is not installed, or the index cannot be written, and for `cuda` without
    a GPU."""
    collection, entry = writer.collection, writer.manifest.ann
    if recall_target is None:
        recall_target = RECALL_TARGET if entry is None else entry.recall_target
    if len(collection) < FEWEST_ROWS:
        if entry is not None:
            _note_later(entry, "it is dropped, since exact search is as fast here", note)
            writer.drop_ann()
        return entry is not None
    import_faiss()  # before anything takes time, so that a missing FAISS is reported at once
    parts = _parts(collection)

    def source(texts: int) -> Source:
        return Source(
            parts,
            lambda ids: collection.embeddings(collection.positions(ids)),
            embed_samples(collection, texts),
            lambda what, done, total: step(Step(what, done, total)),
        )

    is_extensible = entry is not None and entry.kind == KIND and entry.recall_target == recall_target
    if entry is not None and is_extensible and collection.ann is not None:
        covered = sum(int((part.ids <= entry.last_id).sum()) for part in parts)
        new, gone = len(collection) - covered, entry.rows - covered
        if not new and gone <= OUTGROWN * entry.rows:
            return False
        is_small = new + gone <= OUTGROWN * entry.rows
        if is_small and _extend(writer, entry, new, source, device, note) >= _least_recall(entry):
            return True
    if entry is not None:
        _note_later(entry, "it is made anew", note)
    make = partial(build_ann, source(TEXTS), recall_target)
    writer.put_ann(lambda path: with_device(make, path, device, len(collection), note))
    return True


def _note_later(entry: AnnEntry, outcome: str, note: Callable[[str], None]) -> None:
    later = unknown(entry)
    if later is not None:
        note(f"the ANN index is {later}, which this version cannot read: {outcome}")


def _extend(
    writer: CollectionWriter,
    entry: AnnEntry,
    new: int,
    source: Callable[[int], Source],
    device: str,
    note: Callable[[str], None],
) -> float:
    """Add `new` rows to the index and return its recall. It is measured again if the index has grown enough."""
    grown = entry.rows + new - entry.measured_rows
    is_measured = grown > MEASURED_AGAIN * entry.measured_rows
    small_source = source(TEXTS_TO_MEASURE_BY if is_measured else 0)
    old = ann_folder(writer.folder) / entry.file_name
    make, rows = partial(extend_ann, old, entry, small_source), len(writer.collection)
    return writer.put_ann(lambda path: with_device(make, path, device if is_measured else "cpu", rows, note)).recall


def _least_recall(entry: AnnEntry) -> float:
    """The recall below which an extended index is made anew. An index that never reached its target is not made anew
    for that."""
    return min(entry.recall_target, entry.recall) - TOLERANCE


def embed_samples(collection: Collection, count: int) -> NDArray[np.float32]:
    """Embeddings of `count` sample texts by the model of a collection, float32 [count, dim]. Raises `CrosslookError`
    where the model is not the one that made the collection."""
    if not count:
        return np.zeros((0, collection.binding.dim), np.float32)
    encoder, texts = load_encoder(collection.binding.model, "cpu"), sample_texts(count)
    collection.check(encoder.name, encoder.fingerprint)
    parts = [texts[low : low + TEXTS_AT_ONCE] for low in range(0, count, TEXTS_AT_ONCE)]
    return np.concatenate([encoder.encode_texts(part).embeddings for part in parts])


def _parts(collection: Collection) -> list[Rows]:
    """The rows that count, by segment."""
    parts = []
    for segment, alive in zip(collection.segments, collection.alive, strict=True):
        if len(segment) and (alive is None or alive.any()):
            ids, embeddings = segment.ids, segment.embeddings.mapped
            parts.append(Rows(ids, embeddings) if alive is None else Rows(ids[alive], embeddings[alive]))
    return parts


def search_line(entry: AnnEntry | None, fault: str | None) -> str:
    """How a collection is searched, one line for people. fault: why its index cannot be used."""
    if entry is None:
        return "exact"
    return describe(entry) if fault is None else f"exact, since {fault}"


def describe(entry: AnnEntry) -> str:
    """An index, one line for people."""
    measured = "" if entry.measured_rows == entry.rows else f"; measured when there were {entry.measured_rows:,}"
    return (
        f"ANN over {entry.rows:,} images: recall@10 {entry.recall:.3f} for texts (asked for {entry.recall_target:g}), "
        f"{entry.milliseconds:.1f} ms{measured}"
    )
