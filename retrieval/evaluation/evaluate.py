"""Evaluate a model on captioned images: text->image and image->text, before and after re-ranking."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.ann.tuning import RECALL_AT, recall
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.products import nearest_of_many
from indexes.recovery import current_binding
from retrieval.captions import CannotRead, CaptionedImage, CaptionSet, Skipped, absent_images, read_image_bytes
from retrieval.encoders.base import Encoder
from retrieval.engine import CANDIDATES, Engine
from retrieval.evaluation.metrics import RelevantRanks, candidate_ranks, caption_relevance, streamed_ranks
from retrieval.evaluation.reranking import encoded_texts, rerank
from retrieval.fusion import Scorer
from retrieval.fusion.candidates import ReadFile, read_file
from retrieval.images import UnreadableImage
from retrieval.indexing.pipeline import index_images
from retrieval.progress import SILENT, Observer

TIMED_QUERIES = 200
ANN_QUERIES = 200


@dataclass(frozen=True)
class Direction:
    """The ranks of the relevant items of each query.

    image_of_query: int64 [queries], the image that each query is or belongs to, over which figures are resampled. base:
    ranks by the first stage. reranked: ranks as a user sees them, None without a scorer. first: int64 [queries], the
    item that came first."""

    image_of_query: NDArray[np.int64]
    base: RelevantRanks
    reranked: RelevantRanks | None
    first: NDArray[np.int64]

    @property
    def final(self) -> RelevantRanks:
        return self.base if self.reranked is None else self.reranked


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation; `retrieval.evaluation.record` computes figures from it.

    text_to_image: every caption is a query, over all images. image_to_text: every image is a query, over all captions.
    candidates: N of the second stage, None without a scorer. scorer_device: what scored them, such as `cpu`; None
    without a scorer. milliseconds: by stage, float64 [queries], of captions
    asked one at a time. ann_recall: share of the exact first ten results that the ANN search returns for captions, None
    where search is exact. left_out: everything of the set that is not evaluated, and why. from_index: whether the
    embeddings were taken from an existing collection."""

    captions: CaptionSet
    images: tuple[CaptionedImage, ...]
    model: str
    fingerprint: str
    candidates: int | None
    scorer_device: str | None
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
        """16 hexadecimal digits over images and captions. Only evaluations with the same ones can be compared."""
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
    device: str = "cpu",
    of_single: Scorer | None = None,
    observer: Observer = SILENT,
) -> Evaluation:
    """Evaluate an encoder, and a scorer if one is given, on a set of captioned images.

    device: of the search, see `Engine`. of_single: the scorer of single queries, whose milliseconds are measured, where
    another one is faster for many pairs; None for `scorer`.

    Embeddings come from the collection `index` if it holds all the images, unchanged, under this encoder's fingerprint;
    else they are computed into a temporary collection in the folder `workspace`. Images that are missing or unreadable
    are left out with their captions and named; with `strict` they raise `CrosslookError`, as images do in any case that
    the scorer has to see again and cannot."""
    absent = absent_images(captions)
    names = {item.what for item in absent}
    present = [image for image in captions.images if image.image not in names]
    left_out = [*captions.skipped, *absent]
    _refuse(captions, left_out if strict else [], present)
    known = None if index is None else _in_index(captions, present, index, encoder)
    if known is None:
        read = _reader(captions, present)
        collection, positions, unreadable = _embed(present, read, encoder, workspace, observer)
        left_out += unreadable
    else:
        read = read_file
        collection, positions = known
    used = [image for image, position in zip(present, positions, strict=True) if position >= 0]
    _refuse(captions, left_out if strict else [], used)
    with Engine(collection, encoder, scorer, candidates, read, device) as engine:
        evaluation = _evaluate(
            engine, captions, used, positions[positions >= 0], tuple(left_out), from_index=known is not None
        )
        engine.scorer = of_single or engine.scorer
        return replace(evaluation, milliseconds=_time_queries(engine, evaluation.texts))


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
    """The collection and the positions of the images, int64 [images], if it holds all of them, unchanged, made with
    this encoder; else None."""
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
        except OSError:  # it existed a moment ago: reading it names it
            return None
        size, mtime, position = rows.get(os.fsencode(path), (-1, -1, -1))
        if (size, mtime) != (status.st_size, status.st_mtime_ns):
            return None
        positions.append(position)
    return collection, np.array(positions, dtype=np.int64)


def _reader(captions: CaptionSet, images: Sequence[CaptionedImage]) -> ReadFile:
    """The content of an image by its name in the set. What it returns raises `UnreadableImage`."""
    by_name = {os.fsencode(image.image): image for image in images}

    def read(name: bytes) -> bytes:
        try:
            return read_image_bytes(captions, by_name[name])
        except CannotRead as error:
            raise UnreadableImage(error.reason) from error

    return read


def _embed(
    images: Sequence[CaptionedImage],
    read: ReadFile,
    encoder: Encoder,
    workspace: Path,
    observer: Observer,
) -> tuple[Collection, NDArray[np.int64], list[Skipped]]:
    """A temporary collection of the images, under their names in the set, their positions (-1: unreadable), and which
    were unreadable."""
    by_name = {os.fsencode(image.image): image for image in images}
    reasons: dict[bytes, str] = {}

    def failure(name: bytes, reason: str) -> None:
        reasons[name] = reason
        observer.failure(name, reason)

    path = workspace / "collection"
    if index_images(list(by_name), read, path, encoder, observer=replace(observer, failure=failure)).interrupted:
        raise KeyboardInterrupt
    collection = Collection.open(path)
    table = collection.table(["path"])
    positions = dict(zip(table["path"].to_pylist(), table["position"].to_pylist(), strict=True))
    unreadable = [
        Skipped(image.image, f"image {reasons.get(name, 'cannot be read now')}")
        for name, image in by_name.items()
        if name not in positions
    ]
    return collection, np.array([positions.get(name, -1) for name in by_name], dtype=np.int64), unreadable


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
    text_embeddings = np.concatenate([query.features.embeddings for query in encoded_texts(engine.encoder, texts)])
    base = streamed_ranks(text_embeddings, image_embeddings, to_image)
    base_back = streamed_ranks(image_embeddings, text_embeddings, to_text)
    reranked = reranked_back = None
    if not engine.scorer.reranks:
        first = nearest_of_many(text_embeddings, [image_embeddings], [None], 1)[1][:, 0]
        first_back = nearest_of_many(image_embeddings, [text_embeddings], [None], 1)[1][:, 0]
    else:
        lists_of_texts, lists_of_images = rerank(engine, texts, text_embeddings, image_embeddings, positions)
        reranked = candidate_ranks(lists_of_texts.items, lists_of_texts.logits, to_image, rest=base)
        reranked_back = candidate_ranks(lists_of_images.items, lists_of_images.logits, to_text, rest=base_back)
        first, first_back = lists_of_texts.first, lists_of_images.first
    return Evaluation(
        captions=captions,
        images=tuple(images),
        model=engine.encoder.name,
        fingerprint=engine.encoder.fingerprint,
        candidates=engine.candidates if engine.scorer.reranks else None,
        scorer_device=getattr(engine.scorer, "device", "cpu") if engine.scorer.reranks else None,
        text_to_image=Direction(image_of_caption, base, reranked, first),
        image_to_text=Direction(np.arange(len(images)), base_back, reranked_back, first_back),
        milliseconds={},
        ann_recall=_ann_recall(engine.collection, text_embeddings),
        left_out=left_out,
        from_index=from_index,
    )


def _ann_recall(collection: Collection, texts: NDArray[np.float32]) -> float | None:
    """Of a sample of the texts, evenly spaced; None without an ANN index."""
    if collection.ann is None:
        return None
    sample = texts[np.unique(np.linspace(0, len(texts) - 1, ANN_QUERIES).astype(int))]
    return recall(*(collection.nearest(sample, RECALL_AT, exact=exact)[1] for exact in (False, True)))


def _time_queries(engine: Engine, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Milliseconds by stage of a sample of the texts, evenly spaced, asked one at a time of a warm engine."""
    engine.search(texts[0])
    sample = np.unique(np.linspace(0, len(texts) - 1, TIMED_QUERIES).astype(int))
    timings = [engine.search(texts[index]).milliseconds for index in sample]
    stages = {stage: np.array([timing[stage] for timing in timings]) for stage in timings[0]}
    return stages | {"total": np.sum(list(stages.values()), axis=0)}
