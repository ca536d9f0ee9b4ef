"""The query engine: encode, find the nearest, score them, rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.commits import current_name
from indexes.errors import CrosslookError
from indexes.filters import Filter, InFolder
from retrieval.calibration import matches
from retrieval.encoders import Encoder, canonical_name, load_encoder
from retrieval.explain import Explanation, explain
from retrieval.first_stage import FirstStage
from retrieval.fusion import BySimilarity, EncodedQuery, Scorer, load_scorer, own_scorer
from retrieval.fusion.base import fault_of
from retrieval.fusion.candidates import CollectionCandidates, ReadFile, read_file
from retrieval.location import default_collection, spellings
from retrieval.query import Hit, Query, Results
from retrieval.second_stage import Scored, scored
from retrieval.timing import Clock

CANDIDATES = 100


class Engine:
    """Answers queries over one commit of a collection.

    A scorer ranks the nearest `candidates` images, or as many as are asked for if that is more. Without one, images are
    ranked by similarity. Any number of threads may use an engine at the same time; each gets the results that it would
    get alone.

    >>> with Engine.open() as engine:  # doctest: +SKIP
    ...     for hit in engine.search("a dog running on a beach", k=3):
    ...         print(hit.rank, f"{hit.match:.0%}", hit.path)
    1 56% /home/me/Photos/140430106_2978fda105.jpg
    2 16% /home/me/Photos/1057251835_6ded4ada9c.jpg
    3 14% /home/me/Photos/1131155939_b4b457b05e.jpg
    """

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        scorer: Scorer | None = None,
        candidates: int = CANDIDATES,
        read_image: ReadFile = read_file,
        device: str = "cpu",
    ) -> None:
        """read_image: reads an image file by its stored path, for scorers that see the images again. device: `cuda`
        holds the embeddings in a GPU's memory, where every search compares all of them; `auto` does so once
        `search_many` was asked so much that it pays; see `FirstStage`.

        Raises `CrosslookError` if the collection was made with another encoder, and for `cuda` without a GPU."""
        if candidates < 1:
            raise CrosslookError(f"cannot re-rank {candidates} candidates: 1 or more")
        collection.check(encoder.name, encoder.fingerprint)
        self.collection = collection
        self.encoder = encoder
        self.scorer: Scorer = scorer or BySimilarity()
        self.candidates = candidates
        self.read_image = read_image
        self._device = device
        self._first_stage = FirstStage(collection, device)
        self._is_loaded = False
        self._loading_lock = Lock()
        self._running_calls = 0
        self._is_closed = False
        self._state = Condition()  # guards `_running_calls` and `_is_closed`

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
        """The engine over the collection at `path`, by default the user's own, with the model that made it. Its scorer
        is the one named (see `load_scorer`), by default the model's own, none with `rerank=False`.

        Raises `CrosslookError` if no collection exists, it is damaged, or was made with another `model`."""
        collection = Collection.open(default_collection() if path is None else Path(path))
        name = collection.binding.model if model is None else canonical_name(model)
        if name != collection.binding.model and not Path(name).is_dir():
            collection.check(name, "")  # names are enough, except for directories, which may have been moved
        encoder = load_encoder(name, "cpu" if device == "auto" else device)  # a GPU takes longer for a few words
        loaded = load_scorer(encoder, scorer, device) if rerank else None
        return cls(collection, encoder, loaded, candidates, device=device)

    @property
    def device_fault(self) -> str | None:
        """Why the embeddings are not in the memory of the GPU that was asked for, or why it does not score, so that
        searching is slower; None if all is there, or no GPU was asked for."""
        return self._first_stage.fault or fault_of(self.scorer)

    def search(
        self, query: str | Query, k: int = 10, *, in_folder: str | Path | None = None, min_match: float = 0.0
    ) -> Results:
        """The k best images for a query. in_folder: only images in this folder, at any depth. min_match: leave out hits
        whose match is lower, 0 to 1; without a calibrated scorer it leaves out nothing.

        Raises `CrosslookError` for an empty query, one that the encoder or the scorer cannot read, and a k below 1."""
        return self.search_many([query], k, in_folder=in_folder, min_match=min_match)[0]

    def search_many(
        self,
        queries: Sequence[str | Query],
        k: int = 10,
        *,
        in_folder: str | Path | None = None,
        min_match: float = 0.0,
    ) -> list[Results]:
        """`search` for several queries, which are encoded together, and compared with the images together; the time of
        both is divided evenly among them.

        Raises `CrosslookError` as `search` does, and for a single text in place of a list."""
        if isinstance(queries, str):
            raise CrosslookError("a text is not a list of queries: use `search`, or put it in a list")
        with self._running():
            batch = [Query.of(query) for query in queries]
            if not all(part.text.strip() for query in batch for part in query.texts):
                raise CrosslookError('the query is empty: say what to look for, as in `search "a dog on a beach"`')
            if not 0 <= min_match <= 1:
                raise CrosslookError(f"a match is a probability, 0 to 1, not {min_match}")
            if k < 1:
                raise CrosslookError(f"cannot return {k} results: ask for 1 or more")
            if not batch:
                return []
            filters = [] if in_folder is None else [InFolder(tuple(sorted(spellings(in_folder))))]
            clock = Clock()
            with clock.time("encode"), self._loading():
                features = self.encoder.encode_queries(batch)
            with clock.time("search"):
                candidates = self._nearest(features.embeddings, k, filters)
            shares = {stage: milliseconds / len(batch) for stage, milliseconds in clock.milliseconds.items()}
            encoded = [EncodedQuery(query, features.of(row)) for row, query in enumerate(batch)]
            logits = scored(self.scorer, encoded, candidates)
            return [
                _with_match(self._ranked(query, images, of_images, k, shares), min_match)
                for query, images, of_images in zip(encoded, candidates, logits, strict=True)
            ]

    def explain(self, query: str | Query, image: str | Path) -> Explanation:
        """Where each word of a query looks in an image file, which need not be in the collection, by this engine's
        scorer, or the model's own if this engine does not re-rank.

        Raises `CrosslookError` for a query without words or of more than one text, a scorer that cannot tell, and a
        file that cannot be read."""
        with self._running():
            scorer = self.scorer if self.scorer.reranks else own_scorer(self.encoder) or self.scorer
            return explain(self.encoder, scorer, query, Path(image))

    def refreshed(self) -> Engine:
        """An engine over the newest commit, with the same encoder and scorer, which stay loaded. Returns this very
        engine if nothing was committed since it was opened, so close the old one only if the new one is not the old:

            new = engine.refreshed()
            if new is not engine:
                engine.close()

        Costs reading one small file if nothing was committed. Raises `CrosslookError` as `open` does."""
        with self._running():
            if current_name(self.collection.folder) == self.collection.manifest.file_name:
                return self
            collection = Collection.open(self.collection.folder)
            try:
                if collection.manifest.file_name != self.collection.manifest.file_name:
                    newer = Engine(
                        collection, self.encoder, self.scorer, self.candidates, self.read_image, self._device
                    )
                    newer._first_stage.follow(self._first_stage)
                    return newer
            except CrosslookError:  # it was made anew, with another encoder
                collection.close()
                raise
            collection.close()  # the same commit: CURRENT is damaged
            return self

    def close(self) -> None:
        """Close the collection's files, once the calls that are running have ended; later ones raise `CrosslookError`.
        Encoder and scorer stay usable, since other engines may share them."""
        with self._state:
            self._is_closed = True
            self._state.wait_for(lambda: not self._running_calls)
        self._first_stage.close()
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Keeps the engine open. Raises `CrosslookError` if it is closed."""
        with self._state:
            if self._is_closed:
                raise CrosslookError("this engine is closed: open another with Engine.open")
            self._running_calls += 1
        try:
            yield
        finally:
            with self._state:
                self._running_calls -= 1
                self._state.notify_all()

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """The first time, loads what a search needs besides the encoder, in threads, while the caller encodes; other
        searches wait. An error is not raised here, but when the part is used."""
        if self._is_loaded:
            yield
            return

        def load(part: Callable[[], object]) -> None:
            with suppress(Exception):
                part()

        parts: list[Callable[[], object]] = [self._first_stage.warm, lambda: self.scorer.load()]
        with self._loading_lock:
            threads = [Thread(target=load, args=(part,)) for part in parts]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                for thread in threads:
                    thread.join()
            self._is_loaded = True

    def _ranked(
        self, query: EncodedQuery, candidates: CollectionCandidates, of_images: Scored, k: int, shares: dict[str, float]
    ) -> Results:
        """shares: the query's of the milliseconds of the first stage, by stage."""
        logits, of_second = of_images
        clock = Clock(shares | of_second)
        visible = np.flatnonzero(~np.isnan(logits))
        order = visible[np.argsort(-logits[visible], kind="stable")][:k]
        hit_matches = matches(logits[order]).tolist() if self.scorer.calibrated else [None] * len(order)
        with clock.time("rows"):
            rows = self.collection.rows(candidates.positions[order])
            hits = tuple(
                Hit(
                    rank=rank,
                    path=os.fsdecode(row.path),
                    score=float(logits[index]),
                    similarity=float(candidates.similarities[index]),
                    match=match,
                    width=row.width,
                    height=row.height,
                    taken_at=row.taken_at,
                    id=row.id,
                )
                for rank, (index, row, match) in enumerate(zip(order, rows, hit_matches, strict=True), start=1)
            )
        unreadable = len(candidates) - len(visible)
        return Results(hits, bool(query.features.truncated[0]), clock.milliseconds, unreadable=unreadable)

    def _nearest(
        self, embeddings: NDArray[np.float32], k: int, filters: Sequence[Filter]
    ) -> list[CollectionCandidates]:
        """The candidates of each query. embeddings: float32 [q, dim]."""
        count = max(k, self.candidates) if self.scorer.reranks else k
        count = min(count, max(1, int(self.collection.starts[-1])))
        nearest = self._first_stage.nearest(embeddings, count, filters)
        return [
            CollectionCandidates(self.collection, positions[is_image], similarities[is_image], self.read_image)
            for similarities, positions, is_image in zip(*nearest, nearest[1] >= 0, strict=True)  # others pad
        ]


def _with_match(results: Results, min_match: float) -> Results:
    """Without the hits that match less than `min_match`, and with the match of the best."""
    hits = tuple(hit for hit in results.hits if hit.match is None or hit.match >= min_match)
    return replace(results, hits=hits, best_match=results.hits[0].match if results.hits else None)
