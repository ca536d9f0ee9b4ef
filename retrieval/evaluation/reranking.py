"""Re-rank the candidates of every text and of every image, each pair judged once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.exact import nearest
from retrieval.encoders.base import Encoder
from retrieval.engine import Engine
from retrieval.fusion import EncodedQuery
from retrieval.fusion.candidates import CollectionCandidates
from retrieval.query import Query

TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class ScoredLists:
    """items: int64 [queries, n], the candidates of each query. logits: float32 [queries, n], the scorer's."""

    items: NDArray[np.int64]
    logits: NDArray[np.float32]

    @property
    def first(self) -> NDArray[np.int64]:
        best: NDArray[np.int64] = np.take_along_axis(self.items, self.logits.argmax(axis=1)[:, None], axis=1)[:, 0]
        return best


def rerank(
    engine: Engine,
    texts: Sequence[str],
    text_embeddings: NDArray[np.float32],
    image_embeddings: NDArray[np.float32],
    positions: NDArray[np.int64],
) -> tuple[ScoredLists, ScoredLists]:
    """The candidates of every text and of every image, scored. The scorer judges one text at a time, with all images
    that it is paired with in either direction, so that no pair is judged twice and the regions of one text's candidates
    are in memory at a time.

    Raises `CrosslookError` if the scorer cannot see an image."""
    images_of_text = nearest(text_embeddings, [image_embeddings], [None], min(engine.candidates, len(positions)))[1]
    texts_of_image = nearest(image_embeddings, [text_embeddings], [None], min(engine.candidates, len(texts)))[1]
    slots_by_text = np.argsort(texts_of_image.ravel(), kind="stable")  # a slot: one candidate of one image
    starts = np.searchsorted(texts_of_image.ravel()[slots_by_text], np.arange(len(texts) + 1))
    logits = np.zeros(images_of_text.shape, np.float32)
    logits_back = np.zeros(texts_of_image.shape, np.float32)
    for text, query in enumerate(encoded_texts(engine.encoder, texts)):
        slots = slots_by_text[starts[text] : starts[text + 1]]
        images_of_slots = slots // texts_of_image.shape[1]
        pairs = np.concatenate([images_of_text[text], images_of_slots])
        images, pair_in_images = np.unique(pairs, return_inverse=True)
        similarities = image_embeddings[images] @ text_embeddings[text]
        candidates = CollectionCandidates(engine.collection, positions[images], similarities, engine.read_image)
        both = engine.scorer.score_both_ways(query, candidates)
        _refuse_unseen(both.to_image, candidates)
        of_text, of_slots = np.split(pair_in_images, [len(images_of_text[text])])
        logits[text] = both.to_image[of_text]
        logits_back.ravel()[slots] = both.to_text[of_slots]
    return ScoredLists(images_of_text, logits), ScoredLists(texts_of_image, logits_back)


def _refuse_unseen(logits: NDArray[np.float32], candidates: CollectionCandidates) -> None:
    unseen = np.flatnonzero(np.isnan(logits))
    if len(unseen):
        path = os.fsdecode(candidates.rows()[unseen[0]].path)
        raise CrosslookError(f"the scorer cannot read {path} again: evaluate once the file can be read, or without it")


def encoded_texts(encoder: Encoder, texts: Sequence[str]) -> Iterator[EncodedQuery]:
    """Every text as a query, `TEXTS_AT_ONCE` of which are encoded together."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        queries = [Query.of(text) for text in texts[start : start + TEXTS_AT_ONCE]]
        features = encoder.encode_queries(queries)
        yield from (EncodedQuery(query, features.of(row)) for row, query in enumerate(queries))
