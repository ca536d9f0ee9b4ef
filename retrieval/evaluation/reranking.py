"""Re-rank the candidates of every text and of every image, each pair judged once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.products import nearest_of_many
from retrieval.encoders.base import Encoder
from retrieval.engine import Engine
from retrieval.fusion import EncodedQuery, score_many
from retrieval.fusion.base import BatchScorer
from retrieval.fusion.candidates import CollectionCandidates
from retrieval.query import Query

TEXTS_AT_ONCE = 256
TEXTS_SCORED_AT_ONCE = 512  # several batches of a GPU, which computes one while the next is arranged


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
    """The candidates of every text and of every image, scored. The scorer judges a text with all images that it is
    paired with in either direction, so that no pair is judged twice. It judges one text at a time, so that the regions
    of one text's candidates are in memory, unless it gains by many.

    Raises `CrosslookError` if the scorer cannot see an image."""
    images_each, texts_each = (min(engine.candidates, len(items)) for items in (positions, texts))
    images_of_text = nearest_of_many(text_embeddings, [image_embeddings], [None], images_each)[1]
    texts_of_image = nearest_of_many(image_embeddings, [text_embeddings], [None], texts_each)[1]
    slots_by_text = np.argsort(texts_of_image.ravel(), kind="stable")  # a slot: one candidate of one image
    starts = np.searchsorted(texts_of_image.ravel()[slots_by_text], np.arange(len(texts) + 1))
    logits = np.zeros(images_of_text.shape, np.float32)
    logits_back = np.zeros(texts_of_image.shape, np.float32)
    at_once = TEXTS_SCORED_AT_ONCE if isinstance(engine.scorer, BatchScorer) else 1
    queries = encoded_texts(engine.encoder, texts)
    for low in range(0, len(texts), at_once):
        pairs = [
            _pairs_of(text, images_of_text, texts_of_image, slots_by_text[starts[text] : starts[text + 1]])
            for text in range(low, min(low + at_once, len(texts)))
        ]
        candidates = [
            CollectionCandidates(
                engine.collection,
                positions[pair.images],
                image_embeddings[pair.images] @ text_embeddings[pair.text],
                engine.read_image,
            )
            for pair in pairs
        ]
        both = score_many(engine.scorer, list(islice(queries, len(pairs))), candidates)
        for pair, of_pair, images in zip(pairs, both, candidates, strict=True):
            _refuse_unseen(of_pair.to_image, images)
            logits[pair.text] = of_pair.to_image[pair.of_text]
            logits_back.ravel()[pair.slots] = of_pair.to_text[pair.of_slots]
    return ScoredLists(images_of_text, logits), ScoredLists(texts_of_image, logits_back)


@dataclass(frozen=True)
class _Pairs:
    """The images that one text is judged with. images: int64 [n], ascending, without repeats. of_text: where in it are
    the candidates of the text. slots: the candidates of images that are this text. of_slots: where in it their images
    are."""

    text: int
    images: NDArray[np.int64]
    of_text: NDArray[np.int64]
    slots: NDArray[np.int64]
    of_slots: NDArray[np.int64]


def _pairs_of(
    text: int, images_of_text: NDArray[np.int64], texts_of_image: NDArray[np.int64], slots: NDArray[np.int64]
) -> _Pairs:
    images_of_slots = slots // texts_of_image.shape[1]
    images, places = np.unique(np.concatenate([images_of_text[text], images_of_slots]), return_inverse=True)
    of_text, of_slots = np.split(places, [len(images_of_text[text])])
    return _Pairs(text, images, of_text, slots, of_slots)


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
