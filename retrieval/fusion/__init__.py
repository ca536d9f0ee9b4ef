"""How well do the nearest images match the query? The second stage of a search.

In: an encoded query, and its candidates, which are read as far as a scorer looks at them. Out: a logit for each
candidate (`base.Scorer`). `load_scorer` finds the scorer of a name or of an encoder."""

from retrieval.fusion.base import Candidates, EncodedQuery, Evidence, Scorer, TwoWayLogits, score_many
from retrieval.fusion.by_name import has_scorer, load_scorer, own_scorer
from retrieval.fusion.scorer import FusionScorer
from retrieval.fusion.similarity import BySimilarity

__all__ = [
    "BySimilarity",
    "Candidates",
    "EncodedQuery",
    "Evidence",
    "FusionScorer",
    "Scorer",
    "TwoWayLogits",
    "has_scorer",
    "load_scorer",
    "own_scorer",
    "score_many",
]
