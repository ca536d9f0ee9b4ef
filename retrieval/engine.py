"""The query engine: encode, find the nearest, score them, rank."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.segment import Row
from retrieval.encoders import Encoder, TextFeatures, canonical_name, load_encoder
from retrieval.location import default_collection, spellings

CANDIDATES = 100


@dataclass(frozen=True)
class Hit:
    """One result. score: what ranked it. similarity: inner product of the embeddings, -1 to 1. match: calibrated
    probability that the image matches the query, None until there is a calibrated scorer. width, height: pixels."""

    rank: int
    path: str
    score: float
    similarity: float
    match: float | None
    width: int
    height: int
    taken_at: datetime | None
    id: int


@dataclass(frozen=True)
class Results(Sequence[Hit]):
    """The hits of one query, best first. truncated: the query was longer than the encoder reads. milliseconds: what
    each stage took: encode, search, fetch, score, rows."""

    hits: tuple[Hit, ...]
    truncated: bool
    milliseconds: dict[str, float]

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]


class Scorer(Protocol):
    """A fusion scorer: looks at the words of one query and the regions of its candidates."""

    def score(self, text: TextFeatures, tokens: NDArray[Any], similarities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Match logits, float32 [n]. text: of one query. tokens: [n, regions, token_dim]. similarities: float32 [n]."""
        ...


class Engine:
    """Answers queries over one commit of a collection.

    Without a scorer, images are ranked by similarity."""

    def __init__(
        self, collection: Collection, encoder: Encoder, scorer: Scorer | None = None, candidates: int = CANDIDATES
    ) -> None:
        collection.check(encoder.name, encoder.fingerprint)
        self.collection = collection
        self.encoder = encoder
        self.scorer = scorer
        self.candidates = candidates

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        *,
        model: str | None = None,
        scorer: Scorer | None = None,
        device: str = "auto",
    ) -> Engine:
        """The engine over the collection at `path`, by default the user's own, with the model that made it.

        Raises `CrosslookError` where there is no collection, it is damaged, or was made with another `model`."""
        collection = Collection.open(default_collection() if path is None else Path(path))
        name = collection.binding.model if model is None else canonical_name(model)
        if name != collection.binding.model and not Path(name).is_dir():
            collection.check(name, "")  # names alone tell; of a directory, which may have been moved, the fingerprint
        return cls(collection, load_encoder(name, device), scorer)

    def search(self, text: str, k: int = 10, *, below: str | Path | None = None) -> Results:
        """The k best images for a text, only those in the folder `below` if one is given.

        Raises `CrosslookError` for an empty text and a k below 1."""
        return self.search_many([text], k, below=below)[0]

    def search_many(self, texts: Sequence[str], k: int = 10, *, below: str | Path | None = None) -> list[Results]:
        """The same for several texts, which are encoded together; each is said to have taken its share of that time."""
        if not all(text.strip() for text in texts):
            raise CrosslookError('the query is empty: say what to look for, as in `search "a dog on a beach"`')
        if k < 1:
            raise CrosslookError(f"cannot return {k} results: ask for 1 or more")
        folders = () if below is None else spellings(below)
        clock = _Clock()
        with clock.time("encode"):
            features = self.encoder.encode_texts(texts)
        share = clock.milliseconds["encode"] / max(len(texts), 1)
        return [self._rank(features.of(row), k, folders, share) for row in range(len(texts))]

    def _rank(self, features: TextFeatures, k: int, folders: Sequence[bytes], milliseconds: float) -> Results:
        """The results of one encoded text. milliseconds: what encoding it took."""
        clock = _Clock({"encode": milliseconds})
        with clock.time("search"):
            wanted = k if self.scorer is None else max(k, self.candidates)
            wanted = min(wanted, max(1, int(self.collection.starts[-1])))
            found, places = self.collection.nearest(features.embeddings, wanted, folders)
            positions = places[0][places[0] >= 0]
            similarities = found[0][: len(positions)]
        scores = similarities
        if self.scorer is not None and len(positions):
            with clock.time("fetch"):
                tokens = self.collection.tokens(positions)
            with clock.time("score"):
                scores = self.scorer.score(features, tokens, similarities)
        with clock.time("rows"):
            order = np.argsort(-scores, kind="stable")[:k]
            rows = self.collection.rows(positions[order])
            hits = tuple(
                _hit(rank, row, float(scores[index]), float(similarities[index]))
                for rank, (index, row) in enumerate(zip(order, rows, strict=True), start=1)
            )
        return Results(hits, bool(features.truncated[0]), clock.milliseconds)


def _hit(rank: int, row: Row, score: float, similarity: float) -> Hit:
    return Hit(
        rank=rank,
        path=os.fsdecode(row.path),
        score=score,
        similarity=similarity,
        match=None,
        width=row.width,
        height=row.height,
        taken_at=row.taken_at,
        id=row.id,
    )


class _Clock:
    """Milliseconds by stage."""

    def __init__(self, milliseconds: dict[str, float] | None = None) -> None:
        self.milliseconds = milliseconds or {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.milliseconds[stage] = 1000 * (time.perf_counter() - started)
