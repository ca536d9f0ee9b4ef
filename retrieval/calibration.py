"""Calibration: from scores to the probability that an image matches the query."""

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
    """logit = a * similarity + b * fusion + c + d * log(length), and match = sigmoid(logit). The logit ranks, the match
    is shown. length: of the text, in word pieces: where texts are ranked for an image, those that say more are a little
    likelier to be of it than similarity and fusion tell."""

    a: float
    b: float
    c: float
    d: float = 0.0

    def logits(self, similarities: ArrayLike, fusion: ArrayLike, lengths: ArrayLike = 1) -> NDArray[np.float32]:
        """float32, of the common shape of the inputs."""
        found = self.a * np.asarray(similarities) + self.b * np.asarray(fusion) + self.c + self.d * np.log(lengths)
        return np.asarray(found, dtype=np.float32)


def matches(logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities, 0 to 1, without overflow."""
    halves = np.asarray(logits, dtype=np.float64) / 2
    return 0.5 * (1 + np.tanh(halves))


def fit(similarities: ArrayLike, fusion: ArrayLike, is_match: ArrayLike) -> Calibration:
    """The a, b and c of greatest likelihood: logistic regression by Newton's method (Platt 1999, "Probabilistic Outputs
    for Support Vector Machines", in two variables). As there, the targets are a little less than certain, (n + 1) /
    (n + 2) of n matches, so that a few pairs that can be told apart perfectly do not give certainties.

    similarities, fusion, is_match: [pairs], of the candidates of a validation set. Raises `ValueError` when all pairs
    match or none does: then no probability can be told."""
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
        found = matches(design @ weights)
        gradient = design.T @ (labels - found) - RIDGE * weights
        curvature = (design * (found * (1 - found))[:, None]).T @ design + RIDGE * np.eye(3)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    a, b = weights[:2] / np.where(spread > 1e-12, spread, np.inf)  # what never varies has no weight
    return Calibration(float(a), float(b), float(weights[2] - center @ (weights[:2] / spread)))


def fit_lists(
    similarities: ArrayLike, fusion: ArrayLike, is_match: ArrayLike, lengths: ArrayLike | None = None
) -> Calibration:
    """a, b and, where lengths are given, d in the proportion that ranks best (`list_weights`), scaled and with the c
    that calibrate (`fit` of their sum). Pairs by themselves would weigh by what tells easy pairs apart, of which there
    are most.

    All [queries, candidates]; queries without a match among their candidates only count for the second step."""
    labels = np.asarray(is_match)
    scores = _columns(similarities, fusion, *([] if lengths is None else [np.log(lengths)]))
    weights = list_weights(scores, labels)
    found = fit((scores @ weights).ravel(), np.zeros(labels.size), labels.ravel())
    slope = max(found.a, SMALLEST_SLOPE)  # never turn round what the lists told
    a, b, *d = (slope * weights).tolist()
    return Calibration(a, b, found.c, *d)


def list_weights(scores: ArrayLike, is_match: ArrayLike) -> NDArray[np.float64]:
    """The weights of several scores under whose sum some match of each list is likeliest to come first (a softmax over
    its candidates, whichever match it is: Newton's method within expectation-maximisation), float64 [kinds].

    scores: [queries, candidates, kinds]. is_match: [queries, candidates]; queries without a match do not count."""
    columns, labels = np.asarray(scores, dtype=np.float64), np.asarray(is_match, dtype=np.float64)
    spread = np.maximum(columns.std(axis=(0, 1)), 1e-12)
    answered = labels.any(axis=1)
    lists, right = columns[answered] / spread, labels[answered]
    weights = np.zeros(len(spread))
    for _ in range(ITERATIONS):
        logits = lists @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        expected = np.einsum("qn,qnd->qd", shares, lists)
        credit = right * np.maximum(shares, 1e-300)
        credit /= credit.sum(axis=1, keepdims=True)
        gradient = np.einsum("qn,qnd->d", credit, lists) - expected.sum(axis=0) - RIDGE * weights
        around = lists - expected[:, None]
        curvature = np.einsum("qn,qnd,qne->de", shares, around, around) + RIDGE * np.eye(len(spread))
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, 5 / max(np.abs(step).max(), 1e-12))
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    found: NDArray[np.float64] = weights / spread
    return found


def _columns(*scores: ArrayLike) -> NDArray[np.float64]:
    return np.stack([np.asarray(each, np.float64) for each in scores], axis=-1)


@dataclass(frozen=True)
class Reliability:
    """How far probabilities can be believed. In each bin of equal width: predicted, the mean match; observed, the share
    that did match; count. error: the expected calibration error, mean |predicted - observed| weighted by count (ECE:
    Naeini et al. 2015; Guo et al. 2017, "On Calibration of Modern Neural Networks"), 0 to 1."""

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        held = self.count > 0
        gaps = np.abs(self.predicted[held] - self.observed[held])
        return float(np.average(gaps, weights=self.count[held]))


def reliability(probabilities: ArrayLike, is_match: ArrayLike, bins: int = BINS) -> Reliability:
    """Bins without a pair have nan for predicted and observed. probabilities, is_match: [pairs]."""
    shares, labels = np.ravel(np.asarray(probabilities, np.float64)), np.ravel(np.asarray(is_match, np.float64))
    bin_of = np.minimum((shares * bins).astype(int), bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(bin_of, weights=shares, minlength=bins) / count
        observed = np.bincount(bin_of, weights=labels, minlength=bins) / count
    return Reliability(predicted, observed, count)
