"""Made-up scorers, for tests of their callers, and made-up candidates, for tests of scorers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.rows import Row
from retrieval.calibration import Calibration
from retrieval.encoders import Encoder, QueryFeatures
from retrieval.fusion import Candidates, EncodedQuery, Evidence, TwoWayLogits
from retrieval.images import Photo
from retrieval.query import Query
from tests.support import FakeEncoder


class MadeUpCandidates:
    """Candidates in memory. side: the argument of the last call of `photos`."""

    side: int | None = None

    def __init__(
        self,
        similarities: Sequence[float] | NDArray[np.float32] | None = None,
        regions: NDArray[Any] | None = None,
        photos: Sequence[Photo | None] = (),
    ) -> None:
        count = len(photos if similarities is None else similarities)
        self.similarities = np.zeros(count, np.float32)
        if similarities is not None:
            self.similarities[:] = similarities
        self.images = list(photos)
        self._regions = regions

    def __len__(self) -> int:
        return len(self.similarities)

    def regions(self) -> NDArray[Any]:
        assert self._regions is not None
        return self._regions

    def rows(self) -> list[Row]:
        return [Row(index, b"", 0, 0, bytes(16), 1, 1, None) for index in range(len(self))]

    def photos(self, side: int) -> Iterator[Photo | None]:
        self.side = side
        yield from self.images


def encoded(text: str, encoder: Encoder | None = None) -> EncodedQuery:
    query = Query.of(text)
    return EncodedQuery(query, (encoder or FakeEncoder()).encode_queries([query]).of(0))


class MadeUpScorer:
    """Scores by similarity; base of the others."""

    reranks = True
    calibrated = False

    def load(self) -> None:
        pass

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        return candidates.similarities

    def score_both_ways(self, query: EncodedQuery, candidates: Candidates) -> TwoWayLogits:
        logits = self.score(query, candidates)
        return TwoWayLogits(logits, logits)

    def explain(self, query: EncodedQuery, similarity: np.float32, regions: NDArray[Any]) -> Evidence | None:
        return None


class LastFirst(MadeUpScorer):
    """Reverses the order of the candidates. last_call: the query and the regions of the last call."""

    last_call: tuple[EncodedQuery, NDArray[Any]]

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        self.last_call = (query, candidates.regions())
        return -candidates.similarities


class Calibrated(MadeUpScorer):
    """Logits 3, 2, 1, 0, -1, ... for the candidates, nearest first."""

    calibrated = True

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        return 3.0 - np.arange(len(candidates), dtype=np.float32)


class Brightest(MadeUpScorer):
    """Reads the images again and prefers bright ones. last_call: its query and how many it could read."""

    last_call: tuple[str, int]

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        photos = list(candidates.photos(4))
        self.last_call = (query.query.only_text("the brightest"), sum(photo is not None for photo in photos))
        return np.array([np.nan if photo is None else photo.pixels.mean() for photo in photos], np.float32)


class TwoWayScorer(MadeUpScorer):
    """Each text and image have a logit that is a fixed function of both, and another one in the other direction. pairs:
    how many were judged."""

    to_image = Calibration(1, 1, 0)
    to_text = Calibration(1, 3, -1, 9)

    def __init__(self) -> None:
        self.pairs = 0

    def fusion(self, features: QueryFeatures, regions: NDArray[Any]) -> NDArray[np.float32]:
        assert features.tokens.shape[0] == len(features.embeddings) == 1 and features.mask.all()
        return np.sin(100 * features.embeddings[0, 0] + 50 * regions[:, 0, 0].astype(np.float32))

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        return self.score_both_ways(query, candidates).to_image

    def score_both_ways(self, query: EncodedQuery, candidates: Candidates) -> TwoWayLogits:
        self.pairs += len(candidates)
        fusion, length = self.fusion(query.features, candidates.regions()), int(query.features.mask.sum())
        similarities = candidates.similarities
        return TwoWayLogits(
            self.to_image.logits(similarities, fusion), self.to_text.logits(similarities, fusion, length)
        )


class ManyPairs(TwoWayScorer):
    """`TwoWayScorer` for many pairs at once. batches: how many queries came together."""

    fault: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def score_many(self, queries: Sequence[EncodedQuery], candidates: Sequence[Candidates]) -> list[TwoWayLogits]:
        self.batches.append(len(queries))
        return [self.score_both_ways(query, item) for query, item in zip(queries, candidates, strict=True)]
