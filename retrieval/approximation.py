"""Keep a collection's ANN index in step with its rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from indexes.ann import FEWEST_ROWS, Rows, Source, build_ann, extend_ann
from indexes.collection import Collection, ann_folder
from indexes.errors import CrosslookError
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
OUTGROWN = 0.25  # rows that are new, or gone, by the rows of the index: then it is made anew


def update_ann(
    writer: CollectionWriter,
    recall_target: float,
    step: Callable[[Step], None],
    embed: Callable[[str, int], NDArray[np.float32]] | None = None,
) -> bool:
    """Make, extend or drop the index, whichever the collection needs; returns whether anything was done.

    embed: embeddings of so many texts by the model of a name, float32 [n, dim]; by default of `sample_texts`."""
    embed, collection, entry = embed or embed_samples, writer.collection, writer.manifest.ann
    if len(collection) < FEWEST_ROWS:
        if entry is not None:
            writer.drop_ann()
        return entry is not None
    source = partial(
        Source,
        parts=_parts(collection),
        gather=lambda ids: collection.embeddings(collection.positions(ids)),
        progress=lambda what, done, total: step(Step(what, done, total)),
    )
    model = collection.binding.model
    if entry is not None and entry.recall_target == recall_target and _can_be_read(collection):
        covered = sum(int((part.ids <= entry.last_id).sum()) for part in source.keywords["parts"])
        new, gone = len(collection) - covered, entry.rows - covered
        if not new and gone <= OUTGROWN * entry.rows:
            return False
        if new + gone <= OUTGROWN * entry.rows:
            old, texts = ann_folder(collection.folder) / entry.file_name, embed(model, TEXTS_TO_MEASURE_BY)
            found = writer.put_ann(lambda path: extend_ann(old, entry, source(texts=texts), path))
            if found.recall >= recall_target - TOLERANCE:
                return True
    texts = embed(model, TEXTS)
    writer.put_ann(lambda path: build_ann(source(texts=texts), recall_target, path))
    return True


def embed_samples(model: str, count: int) -> NDArray[np.float32]:
    encoder, texts = load_encoder(model, "cpu"), sample_texts(count)
    parts = [texts[low : low + TEXTS_AT_ONCE] for low in range(0, count, TEXTS_AT_ONCE)]
    return np.concatenate([encoder.encode_texts(part).embeddings for part in parts])


def ann_fault(collection: Collection) -> str | None:
    """Why the ANN index cannot be read, None where it can, or there is none."""
    try:
        collection.open_ann()
    except CrosslookError as error:
        return str(error)
    return None


def _can_be_read(collection: Collection) -> bool:
    return ann_fault(collection) is None


def _parts(collection: Collection) -> list[Rows]:
    found = []
    for segment, alive in collection.parts:
        if len(segment):
            ids, embeddings = segment.ids, segment.embeddings
            found.append(Rows(ids, embeddings) if alive is None else Rows(ids[alive], embeddings[alive]))
    return found


def describe(entry: AnnEntry) -> str:
    """One line for people."""
    return (
        f"ANN over {entry.rows:,} images: recall@10 {entry.recall:.3f} for texts (asked for {entry.recall_target:g}), "
        f"{entry.milliseconds:.1f} ms"
    )
