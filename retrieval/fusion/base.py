"""What a scorer is: a query and its candidates in, logits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from indexes.rows import Row
from retrieval.encoders.base import QueryFeatures
from retrieval.images import Photo
from retrieval.query import Query


@dataclass(frozen=True)
class EncodedQuery:
    """A query with its features, of this query alone and without padding (`QueryFeatures.of`)."""

    query: Query
    features: QueryFeatures


class Candidates(Protocol):
    """The images that are compared with one query, n of them. Nothing is read before it is asked for, so that a scorer
    costs only what it looks at."""

    @property
    def similarities(self) -> NDArray[np.float32]:
        """Inner products of the embeddings with the query's, float32 [n]."""
        ...

    def __len__(self) -> int: ...

    def regions(self) -> NDArray[Any]:
        """The stored regions, [n, regions, region_dim], in the stored dtype."""
        ...

    def rows(self) -> list[Row]:
        """What else is stored of each image."""
        ...

    def photos(self, side: int) -> Iterator[Photo | None]:
        """Each image decoded again, one after the other; None for a file that is gone or that cannot be decoded any
        more. side: in pixels, that the scorer needs."""
        ...


class TwoWayLogits(NamedTuple):
    """Logits of pairs of one text and n images, float32 [n] each. to_image: rank images for the text. to_text:
    rank texts for each image, so they can be compared with the logits of other texts."""

    to_image: NDArray[np.float32]
    to_text: NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """Which regions of one image speak for which token of a text.

    logit: the match logit of the pair, the calibrated sum of similarity and fusion. fusion: what the regions add to the
    similarity, before calibration. lost: float32 [tokens, regions], how much of `fusion` each token would lose if
    nothing could attend to the region."""

    logit: float
    fusion: float
    lost: NDArray[np.float32]

    @property
    def heat(self) -> NDArray[np.float32]:
        """float32 [tokens, regions], 0 and up, in units of `fusion`: what speaks for a match. The gradient of the
        logit with respect to the attention (Chefer et al. 2021, "Generic Attention-model Explainability", and the maps
        of ALBEF and BLIP) estimates this; here it is measured."""
        return np.maximum(self.lost, 0)


class Scorer(Protocol):
    """Judges how well images match a query.

    A logit depends on the query and on its own candidate, not on the order or the number of the candidates, except for
    the rounding of floating point numbers. All methods may be called from several threads at once.

    reranks: whether the logits can order images in another way than their similarities do; if not, the engine asks for
    no more candidates than results. calibrated: whether the sigmoid of a logit is a probability, fitted on a validation
    set, that the image matches."""

    reranks: bool
    calibrated: bool

    def load(self) -> None:
        """Read the model's files now, while the query is encoded, instead of in the first `score`. Raises what `score`
        would."""
        ...

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        """Logits, float32 [n], the higher the better; nan for a candidate that the scorer had to see and could not,
        which the caller leaves out and reports.

        Raises `CrosslookError` for a query that the scorer cannot read, such as one by image."""
        ...

    def score_both_ways(self, query: EncodedQuery, candidates: Candidates) -> TwoWayLogits:
        """`score`, and the logits of the same pairs for ranking texts; each pair is judged once."""
        ...

    def explain(self, query: EncodedQuery, similarity: np.float32, regions: NDArray[Any]) -> Evidence | None:
        """Which regions of one image speak for which token; None of a scorer that cannot tell. similarity: of the image
        and the query. regions: of the image, [regions, region_dim]."""
        ...


@runtime_checkable
class BatchScorer(Protocol):
    """What a scorer may have besides, if it scores many pairs faster together.

    fault: why the processor scores in place of the GPU that was found, so that scoring is slower; None if it does not,
    or no GPU was asked for."""

    fault: str | None

    def score_many(self, queries: Sequence[EncodedQuery], candidates: Sequence[Candidates]) -> list[TwoWayLogits]:
        """`Scorer.score_both_ways` of each query with its own candidates."""
        ...


def score_many(scorer: Scorer, queries: Sequence[EncodedQuery], candidates: Sequence[Candidates]) -> list[TwoWayLogits]:
    """`score_both_ways` of each query with its own candidates: together if the scorer is a `BatchScorer`, else one
    after the other. Raises what `score` raises."""
    if isinstance(scorer, BatchScorer):
        return scorer.score_many(queries, candidates)
    return [scorer.score_both_ways(query, item) for query, item in zip(queries, candidates, strict=True)]


def fault_of(scorer: Scorer) -> str | None:
    """`BatchScorer.fault`, None of other scorers."""
    return scorer.fault if isinstance(scorer, BatchScorer) else None
