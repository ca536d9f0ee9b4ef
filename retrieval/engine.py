"""The query engine: encode, find the nearest, score them, rank."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import Lock, Thread
from typing import overload

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.rows import Row
from retrieval import images
from retrieval.calibration import matches
from retrieval.encoders import Encoder, TextFeatures, canonical_name, load_encoder
from retrieval.explain import Explanation, explain
from retrieval.fusion import PhotoScorer, Scorer, load_scorer
from retrieval.images import Photo, UnreadableImage
from retrieval.location import default_collection, spellings

CANDIDATES = 100
PHOTOS_AT_ONCE = 16


@dataclass(frozen=True)
class Hit:
    """One result. score: what ranked it. similarity: inner product of the embeddings, -1 to 1. match: calibrated
    probability that the image matches the query, 0 to 1, None without a calibrated scorer. width, height: pixels."""

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
    each stage took: encode, search, fetch, score, rows. best_match: of the first hit, also where it was left out for
    matching too little; None where there is none, or no calibrated scorer. unreadable: candidates that a scorer had to
    see again and could not, which are left out."""

    hits: tuple[Hit, ...]
    truncated: bool
    milliseconds: dict[str, float]
    best_match: float | None = None
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]


class Engine:
    """Answers queries over one commit of a collection.

    A scorer ranks the nearest `candidates` images, or as many as are asked for if that is more; without one, images are
    ranked by similarity."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        scorer: Scorer | PhotoScorer | None = None,
        candidates: int = CANDIDATES,
    ) -> None:
        if candidates < 1:
            raise CrosslookError(f"cannot re-rank {candidates} candidates: 1 or more")
        collection.check(encoder.name, encoder.fingerprint)
        self.collection = collection
        self.encoder = encoder
        self.scorer = scorer
        self.candidates = candidates
        self._is_loaded = False
        self._lock = Lock()

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        *,
        model: str | None = None,
        scorer: str | None = None,
        rerank: bool = True,
        candidates: int = CANDIDATES,
        device: str = "auto",
    ) -> Engine:
        """The engine over the collection at `path`, by default the user's own, with the model that made it, and that
        model's own scorer or the one named (see `load_scorer`).

        Raises `CrosslookError` where there is no collection, it is damaged, or was made with another `model`."""
        collection = Collection.open(default_collection() if path is None else Path(path))
        name = collection.binding.model if model is None else canonical_name(model)
        if name != collection.binding.model and not Path(name).is_dir():
            collection.check(name, "")  # names alone tell; of a directory, which may have been moved, the fingerprint
        encoder = load_encoder(name, "cpu" if device == "auto" else device)  # a few words take a GPU longer
        return cls(collection, encoder, load_scorer(encoder, scorer, device) if rerank else None, candidates)

    def search(self, text: str, k: int = 10, *, below: str | Path | None = None, min_match: float = 0.0) -> Results:
        """The k best images for a text, only those in the folder `below` if one is given, and with a match of at least
        `min_match` where there is a calibrated scorer.

        Raises `CrosslookError` for an empty text and a k below 1."""
        return self.search_many([text], k, below=below, min_match=min_match)[0]

    def search_many(
        self, texts: Sequence[str], k: int = 10, *, below: str | Path | None = None, min_match: float = 0.0
    ) -> list[Results]:
        """The same for several texts, which are encoded together; each is said to have taken its share of that time."""
        if not all(text.strip() for text in texts):
            raise CrosslookError('the query is empty: say what to look for, as in `search "a dog on a beach"`')
        if not 0 <= min_match <= 1:
            raise CrosslookError(f"a match is a probability, 0 to 1, not {min_match}")
        if k < 1:
            raise CrosslookError(f"cannot return {k} results: ask for 1 or more")
        folders = () if below is None else spellings(below)
        clock = _Clock()
        with clock.time("encode"), self._loading():
            features = self.encoder.encode_texts(texts)
        share = clock.milliseconds["encode"] / max(len(texts), 1)
        found = [self._rank(text, features.of(row), k, folders, share) for row, text in enumerate(texts)]
        return [_matching(results, min_match) for results in found]

    def explain(self, text: str, image: str | Path) -> Explanation:
        """Where the words of a text look in an image file, which need not be in the collection.

        Raises `CrosslookError` for a text without words, a model without a scorer, and a file that cannot be read."""
        return explain(self.encoder, text, Path(image))

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """The first time, what a search needs besides the encoder is loaded while that loads; searches that begin
        meanwhile wait. What fails fails again when it is used."""
        if self._is_loaded:
            yield
            return

        def load(part: Callable[[], object]) -> None:
            with suppress(Exception):
                part()

        parts: list[Callable[[], object]] = [lambda: self.collection.ann]
        scorer = self.scorer
        if scorer is not None and not isinstance(scorer, PhotoScorer):
            parts.append(lambda: scorer.load())
        with self._lock:
            threads = [Thread(target=load, args=(part,)) for part in parts]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                for thread in threads:
                    thread.join()
            self._is_loaded = True

    def _rank(
        self, text: str, features: TextFeatures, k: int, folders: Sequence[bytes], milliseconds: float
    ) -> Results:
        """The results of one text, which is encoded already, and took so many milliseconds."""
        clock = _Clock({"encode": milliseconds})
        with clock.time("search"):
            wanted = k if self.scorer is None else max(k, self.candidates)
            wanted = min(wanted, max(1, int(self.collection.starts[-1])))
            found, places = self.collection.nearest(features.embeddings, wanted, folders)
            positions = places[0][places[0] >= 0]
            similarities = found[0][: len(positions)]
        scores, unreadable = similarities, 0
        if isinstance(self.scorer, PhotoScorer):
            there, scores = _score_photos(self.scorer, text, self.collection.rows(positions), clock)
            unreadable = len(positions) - len(there)
            positions, similarities = positions[there], similarities[there]
        elif self.scorer is not None and len(positions):
            with clock.time("fetch"):
                tokens = self.collection.tokens(positions)
            with clock.time("score"):
                scores = self.scorer.to_image.logits(similarities, self.scorer.fusion(features, tokens))
        found_matches: NDArray[np.float64] | None = None
        if self.scorer is not None and self.scorer.calibrated:
            found_matches = matches(scores)
        with clock.time("rows"):
            order = np.argsort(-scores, kind="stable")[:k]
            rows = self.collection.rows(positions[order])
            hits = tuple(
                Hit(
                    rank=rank,
                    path=os.fsdecode(row.path),
                    score=float(scores[index]),
                    similarity=float(similarities[index]),
                    match=None if found_matches is None else float(found_matches[index]),
                    width=row.width,
                    height=row.height,
                    taken_at=row.taken_at,
                    id=row.id,
                )
                for rank, (index, row) in enumerate(zip(order, rows, strict=True), start=1)
            )
        return Results(hits, bool(features.truncated[0]), clock.milliseconds, unreadable=unreadable)


def _score_photos(
    scorer: PhotoScorer, text: str, rows: Sequence[Row], clock: _Clock
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which rows' files can be read again, and their scores; a few photos are held at once."""
    there: list[int] = []
    scores: list[NDArray[np.float32]] = []
    with clock.time("score"):
        for low in range(0, len(rows), PHOTOS_AT_ONCE):
            photos = [
                (low + index, _photo(row, scorer.image_size))
                for index, row in enumerate(rows[low : low + PHOTOS_AT_ONCE])
            ]
            there += [index for index, photo in photos if photo is not None]
            scores.append(scorer.score_photos(text, [photo for _, photo in photos if photo is not None]))
    return np.array(there, dtype=np.int64), np.concatenate([np.zeros(0, np.float32), *scores])


def _matching(results: Results, least: float) -> Results:
    """Without the hits that match less, and with the match of the best."""
    kept = tuple(hit for hit in results.hits if hit.match is None or hit.match >= least)
    return replace(results, hits=kept, best_match=results.hits[0].match if results.hits else None)


def _photo(row: Row, side: int) -> Photo | None:
    """The image of a row, None where its file is gone or cannot be read any more."""
    try:
        return images.decode(Path(os.fsdecode(row.path)).read_bytes(), side)
    except (OSError, UnreadableImage):
        return None


class _Clock:
    """Milliseconds by stage."""

    def __init__(self, milliseconds: dict[str, float] | None = None) -> None:
        self.milliseconds = milliseconds or {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.milliseconds[stage] = 1000 * (time.perf_counter() - started)
