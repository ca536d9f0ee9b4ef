"""Evaluate a model on captioned images: text->image and image->text, before and after re-ranking."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.ann import RECALL_AT, share_found
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.exact import nearest
from indexes.recovery import current_binding
from retrieval.captions import CannotRead, CaptionedImage, CaptionSet, Skipped, absent_images, read_image_bytes
from retrieval.encoders.base import Encoder, TextFeatures
from retrieval.engine import CANDIDATES, Engine
from retrieval.evaluation.metrics import RelevantRanks, candidate_ranks, caption_relevance, streamed_ranks
from retrieval.fusion import PhotoScorer, Scorer
from retrieval.images import UnreadableImage
from retrieval.indexing.pipeline import index_images
from retrieval.progress import SILENT, Observer

TEXTS_AT_ONCE = 256
TIMED_QUERIES = 200
ANN_QUERIES = 200


@dataclass(frozen=True)
class Direction:
    """The ranks of the relevant items of each query, and the query's image, over which figures are resampled.

    image_of_query: int64 [queries]. base: under the first stage; reranked: as people see them, None without a scorer.
    first: int64 [queries], the item that came first."""

    image_of_query: NDArray[np.int64]
    base: RelevantRanks
    reranked: RelevantRanks | None
    first: NDArray[np.int64]

    @property
    def seen(self) -> RelevantRanks:
        return self.base if self.reranked is None else self.reranked


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; `retrieval.evaluation.record` makes figures of it.

    text_to_image: every caption is a query, over all images. image_to_text: every image is a query, over all captions.
    candidates: N of the second stage, None without a scorer. milliseconds: by stage, float64 [queries], of captions
    asked one at a time. ann_recall: share of the exact first ten that the ANN search finds for captions, None where
    search is exact. left_out: everything of the set that is not evaluated, and why. from_index: whether the embeddings
    were those of a collection made before."""

    captions: CaptionSet
    images: tuple[CaptionedImage, ...]
    model: str
    fingerprint: str
    candidates: int | None
    text_to_image: Direction
    image_to_text: Direction
    milliseconds: dict[str, NDArray[np.float64]]
    ann_recall: float | None
    left_out: tuple[Skipped, ...]
    from_index: bool

    @property
    def texts(self) -> tuple[str, ...]:
        """All captions, image by image: the queries of text->image, the items of image->text."""
        return tuple(caption for image in self.images for caption in image.captions)

    @property
    def checksum(self) -> str:
        """16 hexadecimal digits over images and captions: only where they agree can queries be paired."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update("\0".join([image.image, *image.captions, ""]).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]


def evaluate(
    captions: CaptionSet,
    encoder: Encoder,
    workspace: Path,
    *,
    index: Path | None = None,
    scorer: Scorer | None = None,
    candidates: int = CANDIDATES,
    strict: bool = False,
    observer: Observer = SILENT,
) -> Evaluation:
    """Evaluate an encoder, and a scorer if there is one, on a set of captioned images.

    Embeddings come from the collection `index` where it holds all the images, unchanged, under this encoder's
    fingerprint; else they are computed into a temporary collection in the folder `workspace`. Images that are missing
    or unreadable are left out with their captions and named; with `strict` they are a `CrosslookError`."""
    absent = absent_images(captions)
    names = {item.what for item in absent}
    present = [image for image in captions.images if image.image not in names]
    left_out = [*captions.skipped, *absent]
    _refuse(captions, left_out if strict else [], present)
    known = None if index is None else _in_index(captions, present, index, encoder)
    if known is None:
        collection, positions, unreadable = _embed(captions, present, encoder, workspace, observer)
        left_out += unreadable
    else:
        collection, positions = known
    used = [image for image, position in zip(present, positions, strict=True) if position >= 0]
    _refuse(captions, left_out if strict else [], used)
    return _evaluate(
        Engine(collection, encoder, scorer, candidates),
        captions,
        used,
        positions[positions >= 0],
        tuple(left_out),
        from_index=known is not None,
    )


def _refuse(captions: CaptionSet, left_out: Sequence[Skipped], usable: Sequence[CaptionedImage]) -> None:
    if left_out:
        first = left_out[0]
        raise CrosslookError(
            f"{captions.source}: {len(left_out)} left out, first {first.what} ({first.why}): mend that, or leave out "
            "--strict"
        )
    if not usable:
        raise CrosslookError(
            f"{captions.source}: none of its images can be read below {captions.images_dir}: name their folder with "
            "--images"
        )


def _in_index(
    captions: CaptionSet, images: Sequence[CaptionedImage], index: Path, encoder: Encoder
) -> tuple[Collection, NDArray[np.int64]] | None:
    """The collection and the images' positions, where it holds all of them as they are now, made with this encoder."""
    binding = current_binding(index)
    if binding is None or binding.fingerprint != encoder.fingerprint or captions.images_dir is None:
        return None
    collection = Collection.open(index)
    table = collection.table(["path", "size", "mtime_ns"])
    columns = (table[name].to_pylist() for name in ("path", "size", "mtime_ns", "position"))
    rows = {path: (size, mtime, position) for path, size, mtime, position in zip(*columns, strict=True)}
    positions = []
    for image in images:
        path = os.path.abspath(captions.images_dir / image.image)
        try:
            status = os.stat(path)
        except OSError:  # it was there a moment ago: it is named when it is read
            return None
        size, mtime, position = rows.get(os.fsencode(path), (-1, -1, -1))
        if (size, mtime) != (status.st_size, status.st_mtime_ns):
            return None
        positions.append(position)
    return collection, np.array(positions, dtype=np.int64)


def _embed(
    captions: CaptionSet, images: Sequence[CaptionedImage], encoder: Encoder, workspace: Path, observer: Observer
) -> tuple[Collection, NDArray[np.int64], list[Skipped]]:
    """A temporary collection of the images, their positions (-1: unreadable), and what was unreadable."""
    by_name = {os.fsencode(image.image): image for image in images}

    def read(name: bytes) -> bytes:
        try:
            return read_image_bytes(captions, by_name[name])
        except CannotRead as error:
            raise UnreadableImage(error.reason) from error

    reasons: dict[bytes, str] = {}

    def failure(name: bytes, reason: str) -> None:
        reasons[name] = reason
        observer.failure(name, reason)

    path = workspace / "collection"
    if index_images(list(by_name), read, path, encoder, observer=replace(observer, failure=failure)).interrupted:
        raise KeyboardInterrupt
    collection = Collection.open(path)
    table = collection.table(["path"])
    found = dict(zip(table["path"].to_pylist(), table["position"].to_pylist(), strict=True))
    unreadable = [
        Skipped(image.image, f"image {reasons.get(name, 'cannot be read now')}")
        for name, image in by_name.items()
        if name not in found
    ]
    return collection, np.array([found.get(name, -1) for name in by_name], dtype=np.int64), unreadable


def _evaluate(
    engine: Engine,
    captions: CaptionSet,
    images: Sequence[CaptionedImage],
    positions: NDArray[np.int64],
    left_out: tuple[Skipped, ...],
    from_index: bool,
) -> Evaluation:
    texts = [caption for image in images for caption in image.captions]
    image_of_caption = np.repeat(np.arange(len(images)), [len(image.captions) for image in images])
    to_image, to_text = caption_relevance(image_of_caption)
    image_embeddings = engine.collection.embeddings(positions).astype(np.float32)
    text_embeddings = np.concatenate([features.embeddings for _, features in _encoded(engine.encoder, texts)])
    base = streamed_ranks(text_embeddings, image_embeddings, to_image)
    base_back = streamed_ranks(image_embeddings, text_embeddings, to_text)
    reranked = reranked_back = None
    if engine.scorer is None:
        first = nearest(text_embeddings, [image_embeddings], [None], 1)[1][:, 0]
        first_back = nearest(image_embeddings, [text_embeddings], [None], 1)[1][:, 0]
    else:
        of_captions, of_images = rerank(engine, texts, text_embeddings, image_embeddings, positions)
        reranked = candidate_ranks(of_captions.items, of_captions.scores, to_image, rest=base)
        reranked_back = candidate_ranks(of_images.items, of_images.scores, to_text, rest=base_back)
        first, first_back = of_captions.first, of_images.first
    return Evaluation(
        captions=captions,
        images=tuple(images),
        model=engine.encoder.name,
        fingerprint=engine.encoder.fingerprint,
        candidates=None if engine.scorer is None else engine.candidates,
        text_to_image=Direction(image_of_caption, base, reranked, first),
        image_to_text=Direction(np.arange(len(images)), base_back, reranked_back, first_back),
        milliseconds=_time_queries(engine, texts),
        ann_recall=_ann_recall(engine.collection, text_embeddings),
        left_out=left_out,
        from_index=from_index,
    )


@dataclass(frozen=True)
class Candidates:
    """items: int64 [queries, n], the candidates of each query. scores: float32 [queries, n], the scorer's."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]

    @property
    def first(self) -> NDArray[np.int64]:
        best: NDArray[np.int64] = np.take_along_axis(self.items, self.scores.argmax(axis=1)[:, None], axis=1)[:, 0]
        return best


def rerank(
    engine: Engine,
    texts: Sequence[str],
    text_embeddings: NDArray[np.float32],
    image_embeddings: NDArray[np.float32],
    positions: NDArray[np.int64],
) -> tuple[Candidates, Candidates]:
    """The candidates of every text and of every image, scored. Texts come in turn, each with all the images that it is
    paired with in either direction, so that no pair is scored twice and tokens of few texts are held at once."""
    scorer = engine.scorer
    assert scorer is not None and not isinstance(scorer, PhotoScorer)
    images_of_text = nearest(text_embeddings, [image_embeddings], [None], min(engine.candidates, len(positions)))[1]
    texts_of_image = nearest(image_embeddings, [text_embeddings], [None], min(engine.candidates, len(texts)))[1]
    by_text = np.argsort(texts_of_image.ravel(), kind="stable")
    starts = np.searchsorted(texts_of_image.ravel()[by_text], np.arange(len(texts) + 1))
    scores = np.zeros(images_of_text.shape, np.float32)
    scores_back = np.zeros(texts_of_image.shape, np.float32)
    for start, features in _encoded(engine.encoder, texts):
        for row in range(len(features.embeddings)):
            text = start + row
            slots = by_text[starts[text] : starts[text + 1]]
            asking = slots // texts_of_image.shape[1]
            images, where = np.unique(np.concatenate([images_of_text[text], asking]), return_inverse=True)
            similarities = image_embeddings[images] @ text_embeddings[text]
            fusion = scorer.fusion(features.of(row), engine.collection.tokens(positions[images]))
            asked, asked_for = np.split(where, [len(images_of_text[text])])
            scores[text] = scorer.to_image.logits(similarities[asked], fusion[asked])
            length = int(features.mask[row].sum())
            scores_back.ravel()[slots] = scorer.to_text.logits(similarities[asked_for], fusion[asked_for], length)
    return Candidates(images_of_text, scores), Candidates(texts_of_image, scores_back)


def _ann_recall(collection: Collection, texts: NDArray[np.float32]) -> float | None:
    """Of some of the texts, spread over all."""
    if collection.ann is None:
        return None
    some = texts[np.unique(np.linspace(0, len(texts) - 1, ANN_QUERIES).astype(int))]
    return share_found(*(collection.nearest(some, RECALL_AT, exact=exact)[1] for exact in (False, True)))


def _encoded(encoder: Encoder, texts: Sequence[str]) -> Iterator[tuple[int, TextFeatures]]:
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield start, encoder.encode_texts(texts[start : start + TEXTS_AT_ONCE])


def _time_queries(engine: Engine, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Milliseconds by stage of some of the texts, spread over all, asked one at a time by a warm engine."""
    engine.search(texts[0])
    chosen = np.unique(np.linspace(0, len(texts) - 1, TIMED_QUERIES).astype(int))
    taken = [engine.search(texts[index]).milliseconds for index in chosen]
    stages = {stage: np.array([each[stage] for each in taken]) for stage in taken[0]}
    return stages | {"total": np.sum(list(stages.values()), axis=0)}
