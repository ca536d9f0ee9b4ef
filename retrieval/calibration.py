"""Calibration: from scores to the probability that an image matches the query.

match logit = a * similarity + b * fusion + c + d * log(length) and match = sigmoid(match logit), fitted on a validation
set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

ITERATIONS = 50
BINS = 15
RIDGE = 1e-6
SMALLEST_SLOPE = 1e-3


@dataclass(frozen=True)
class Calibration:
    """The weights of a match logit. The logit ranks, the match is shown.

    length: of the text, in tokens. Its weight d is 0 where images are ranked for a text. Where texts are ranked for an
    image, longer texts are a little likelier to match than similarity and fusion say."""

    a: float
    b: float
    c: float
    d: float = 0.0

    def logits(self, similarities: ArrayLike, fusion: ArrayLike, lengths: ArrayLike = 1) -> NDArray[np.float32]:
        """float32, of the common shape of the inputs."""
        logits = self.a * np.asarray(similarities) + self.b * np.asarray(fusion) + self.c + self.d * np.log(lengths)
        return np.asarray(logits, dtype=np.float32)


def matches(logits: ArrayLike) -> NDArray[np.float64]:
    """sigmoid(logits), float64, 0 to 1. Computed as (1 + tanh(logit / 2)) / 2, which does not overflow."""
    halves = np.asarray(logits, dtype=np.float64) / 2
    return 0.5 * (1 + np.tanh(halves))


def fit(similarities: ArrayLike, fusion: ArrayLike, is_match: ArrayLike) -> Calibration:
    """The a, b and c of maximum likelihood: logistic regression by Newton's method, after Platt 1999, "Probabilistic
    Outputs for Support Vector Machines", with two variables instead of one. As there, the targets of n+ matches and n-
    other pairs are (n+ + 1) / (n+ + 2) and 1 / (n- + 2) instead of 1 and 0, so that a few pairs which are perfectly
    separable do not lead to certainty.

    similarities, fusion, is_match: [pairs], of the candidates of a validation set. Raises `ValueError` when all pairs
    match or none does, since neither determines a probability."""
    labels = np.asarray(is_match, dtype=np.float64)
    if labels.min() == labels.max():
        raise ValueError("calibration needs pairs that match and pairs that do not")
    counts = labels.sum(), len(labels) - labels.sum()
    labels = np.where(labels > 0, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    columns = _columns(similarities, fusion)
    center, spread = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-12)
    design = np.concatenate([(columns - center) / spread, np.ones((len(columns), 1))], axis=1)
    weights = np.zeros(3)
    for _ in range(ITERATIONS):
        predicted = matches(design @ weights)
        gradient = design.T @ (labels - predicted) - RIDGE * weights
        curvature = (design * (predicted * (1 - predicted))[:, None]).T @ design + RIDGE * np.eye(3)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    a, b = weights[:2] / np.where(spread > 1e-12, spread, np.inf)  # a constant column gets no weight
    return Calibration(float(a), float(b), float(weights[2] - center @ (weights[:2] / spread)))


def fit_lists(
    similarities: ArrayLike, fusion: ArrayLike, is_match: ArrayLike, lengths: ArrayLike | None = None
) -> Calibration:
    """Fits in two steps. `list_weights` gives the proportion of a, b and, with `lengths`, d that ranks best; `fit` of
    the weighted sum gives their scale, and c. One fit over all pairs would choose weights that separate the easy pairs,
    which are the most frequent.

    All [queries, candidates]. Queries without a match among their candidates count for the second step only."""
    labels = np.asarray(is_match)
    scores = _columns(similarities, fusion, *([] if lengths is None else [np.log(lengths)]))
    weights = list_weights(scores, labels)
    scale = fit((scores @ weights).ravel(), np.zeros(labels.size), labels.ravel())
    slope = max(scale.a, SMALLEST_SLOPE)  # never reverse the order within lists
    a, b, *d = (slope * weights).tolist()
    return Calibration(a, b, scale.c, *d)


def list_weights(scores: ArrayLike, is_match: ArrayLike) -> NDArray[np.float64]:
    """The weights w, float64 [kinds], under which some match most likely comes first in each list. They maximise the
    sum over queries of log(sum of p_i over the matches i), p = softmax(scores @ w) over the candidates, by Newton's
    method within expectation-maximisation.

    scores: [queries, candidates, kinds]. is_match: [queries, candidates]; queries without a match do not count."""
    columns, labels = np.asarray(scores, dtype=np.float64), np.asarray(is_match, dtype=np.float64)
    spread = np.maximum(columns.std(axis=(0, 1)), 1e-12)
    has_match = labels.any(axis=1)
    lists, is_right = columns[has_match] / spread, labels[has_match]
    weights = np.zeros(len(spread))
    for _ in range(ITERATIONS):
        logits = lists @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        expected = np.einsum("qn,qnd->qd", shares, lists)
        credit = is_right * np.maximum(shares, 1e-300)
        credit /= credit.sum(axis=1, keepdims=True)
        gradient = np.einsum("qn,qnd->d", credit, lists) - expected.sum(axis=0) - RIDGE * weights
        around = lists - expected[:, None]
        curvature = np.einsum("qn,qnd,qne->de", shares, around, around) + RIDGE * np.eye(len(spread))
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, 5 / max(np.abs(step).max(), 1e-12))
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    unscaled: NDArray[np.float64] = weights / spread
    return unscaled


def _columns(*scores: ArrayLike) -> NDArray[np.float64]:
    return np.stack([np.asarray(values, np.float64) for values in scores], axis=-1)


@dataclass(frozen=True)
class Reliability:
    """How well predicted probabilities agree with observed frequencies, in bins of equal width, [bins] each.

    predicted: the mean probability. observed: the share of pairs that match. count: of pairs. error: the expected
    calibration error (ECE), the mean of |predicted - observed| weighted by count, 0 to 1 (Naeini et al. 2015; Guo et
    al. 2017, "On Calibration of Modern Neural Networks")."""

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        filled = self.count > 0
        gaps = np.abs(self.predicted[filled] - self.observed[filled])
        return float(np.average(gaps, weights=self.count[filled]))


def reliability(probabilities: ArrayLike, is_match: ArrayLike, bins: int = BINS) -> Reliability:
    """probabilities, is_match: [pairs]. Empty bins have nan for predicted and observed."""
    shares, labels = np.ravel(np.asarray(probabilities, np.float64)), np.ravel(np.asarray(is_match, np.float64))
    bin_of = np.minimum((shares * bins).astype(int), bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(bin_of, weights=shares, minlength=bins) / count
        observed = np.bincount(bin_of, weights=labels, minlength=bins) / count
    return Reliability(predicted, observed, count)
