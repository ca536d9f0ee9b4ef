"""Keep a collection's ANN index in step with its rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from indexes.ann import FEWEST_ROWS, Rows, Source, build_ann, extend_ann
from indexes.collection import Collection, ann_folder
from indexes.faiss_module import import_faiss
from indexes.manifest import AnnEntry
from indexes.writer import CollectionWriter
from retrieval.encoders import load_encoder
from retrieval.progress import Step
from retrieval.sample_texts import sample_texts

RECALL_TARGET = 0.95
TEXTS = 1000
TEXTS_TO_MEASURE_BY = 200
TEXTS_AT_ONCE = 100
TOLERANCE = 0.02  # of recall measured by few texts
MEASURED_AGAIN = 0.05  # rows that are new since it was measured, by the rows of then: then it is measured again
OUTGROWN = 0.25  # rows that are new, or gone, by the rows of the index: then it is made anew


def update_ann(writer: CollectionWriter, recall_target: float | None, step: Callable[[Step], None]) -> bool:
    """Make, extend or drop the index, whichever the collection needs; returns whether anything was done.

    recall_target: None for that of the index that is there."""
    collection, entry = writer.collection, writer.manifest.ann
    if recall_target is None:
        recall_target = RECALL_TARGET if entry is None else entry.recall_target
    if len(collection) < FEWEST_ROWS:
        if entry is not None:
            writer.drop_ann()
        return entry is not None
    import_faiss()  # said before anything else is done for it
    parts = _parts(collection)

    def source(texts: int) -> Source:
        return Source(
            parts,
            lambda ids: collection.embeddings(collection.positions(ids)),
            embed_samples(collection, texts),
            lambda what, done, total: step(Step(what, done, total)),
        )

    if entry is not None and entry.recall_target == recall_target and collection.ann is not None:
        covered = sum(int((part.ids <= entry.last_id).sum()) for part in parts)
        new, gone = len(collection) - covered, entry.rows - covered
        if not new and gone <= OUTGROWN * entry.rows:
            return False
        if new + gone <= OUTGROWN * entry.rows:
            grown = entry.rows + new - entry.measured_rows
            few = source(TEXTS_TO_MEASURE_BY if grown > MEASURED_AGAIN * entry.measured_rows else 0)
            old = ann_folder(collection.folder) / entry.file_name
            found = writer.put_ann(lambda path: extend_ann(old, entry, few, path))
            if found.recall >= min(recall_target, entry.recall) - TOLERANCE:
                return True
    whole = source(TEXTS)
    writer.put_ann(lambda path: build_ann(whole, recall_target, path))
    return True


def embed_samples(collection: Collection, count: int) -> NDArray[np.float32]:
    """Embeddings of so many sample texts by the model of a collection, float32 [n, dim]. Raises
    `CrosslookError` where it is not the one that made the collection."""
    if not count:
        return np.zeros((0, collection.binding.dim), np.float32)
    encoder, texts = load_encoder(collection.binding.model, "cpu"), sample_texts(count)
    collection.check(encoder.name, encoder.fingerprint)
    parts = [texts[low : low + TEXTS_AT_ONCE] for low in range(0, count, TEXTS_AT_ONCE)]
    return np.concatenate([encoder.encode_texts(part).embeddings for part in parts])


def _parts(collection: Collection) -> list[Rows]:
    found = []
    for segment, alive in collection.parts:
        if len(segment) and (alive is None or alive.any()):
            ids, embeddings = segment.ids, segment.embeddings.mapped
            found.append(Rows(ids, embeddings) if alive is None else Rows(ids[alive], embeddings[alive]))
    return found


def describe(entry: AnnEntry) -> str:
    """One line for people."""
    measured = "" if entry.measured_rows == entry.rows else f"; measured when there were {entry.measured_rows:,}"
    return (
        f"ANN over {entry.rows:,} images: recall@10 {entry.recall:.3f} for texts (asked for {entry.recall_target:g}), "
        f"{entry.milliseconds:.1f} ms{measured}"
    )
