"""Calibration against data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.calibration import Calibration, fit, fit_lists, list_weights, matches, reliability


def made_up(count=60_000, a=6.0, b=2.5, c=-4.0, seed=0):
    """Pairs that match with exactly the probability sigmoid(a s + b f + c)."""
    rng = np.random.default_rng(seed)
    similarities, fusion = rng.normal(0.3, 0.2, count), rng.normal(0, 1.5, count)
    return similarities, fusion, rng.random(count) < matches(a * similarities + b * fusion + c)


def test_the_true_parameters_are_found():
    fitted = fit(*made_up())
    assert (fitted.a, fitted.b, fitted.c) == pytest.approx((6.0, 2.5, -4.0), rel=0.05)


def test_the_fit_maximises_the_likelihood():
    """No neighbour in any direction is likelier."""
    similarities, fusion, labels = made_up(5_000)
    fitted = fit(similarities, fusion, labels)

    def likelihood(a, b, c):
        share = matches(a * similarities + b * fusion + c)
        return np.log(np.where(labels, share, 1 - share)).sum()

    best = likelihood(fitted.a, fitted.b, fitted.c)
    for step in np.concatenate([np.eye(3), -np.eye(3)]) * 0.01:
        assert likelihood(*(np.array([fitted.a, fitted.b, fitted.c]) + step)) < best


def lists(queries=4_000, candidates=20, a=6.0, b=2.5, seed=0):
    """Lists with one match each, drawn with exactly the odds exp(a s + b f)."""
    rng = np.random.default_rng(seed)
    similarities, fusion = rng.normal(0.3, 0.2, (queries, candidates)), rng.normal(0, 1.5, (queries, candidates))
    noise = rng.gumbel(size=similarities.shape)
    best = (a * similarities + b * fusion + noise).argmax(axis=1)
    return similarities, fusion, np.arange(candidates) == best[:, None]


def test_lists_tell_the_proportion_of_the_weights():
    fitted = fit_lists(*lists())
    assert fitted.b / fitted.a == pytest.approx(2.5 / 6, rel=0.05) and fitted.a > 0


def test_lists_of_several_matches_ask_that_some_match_comes_first():
    """The likelihood has its maximum at the fitted weights."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(300, 12, 3))
    is_match = scores @ [1.0, -0.5, 0.3] + rng.gumbel(size=(300, 12)) > 2.2
    best = list_weights(scores, is_match)

    def likelihood(weights):
        shares = np.exp(scores @ weights)[is_match.any(axis=1)]
        matching = (shares * is_match[is_match.any(axis=1)]).sum(axis=1)
        return np.log(matching / shares.sum(axis=1)).sum()

    assert (is_match.sum(axis=1) > 1).sum() > 100
    for step in 1e-2 * np.concatenate([np.eye(3), -np.eye(3)]):
        assert likelihood(best + step) < likelihood(best)


def test_lists_tell_what_the_length_of_a_text_is_worth():
    similarities, fusion, _ = lists()
    rng = np.random.default_rng(5)
    lengths = rng.integers(4, 30, similarities.shape)
    logits = 6 * similarities + 2.5 * fusion + 1.5 * np.log(lengths) + rng.gumbel(size=lengths.shape)
    is_match = logits == logits.max(axis=1, keepdims=True)
    fitted = fit_lists(similarities, fusion, is_match, lengths)
    assert (fitted.b / fitted.a, fitted.d / fitted.a) == pytest.approx((2.5 / 6, 1.5 / 6), rel=0.1)
    assert fit_lists(similarities, fusion, is_match).d == 0
    best = fitted.logits(similarities, fusion, lengths).argmax(axis=1)
    assert best.tolist() != fitted.logits(similarities, fusion).argmax(axis=1).tolist()


def test_a_fusion_of_pure_noise_gets_no_weight_in_lists():
    similarities, _, is_match = lists(b=0.0)
    noise = np.random.default_rng(1).normal(size=similarities.shape)
    fitted = fit_lists(similarities, noise, is_match)
    assert abs(fitted.b) * noise.std() < 0.05 * fitted.a * similarities.std()


def test_matches_fitted_on_lists_are_believable():
    similarities, fusion, is_match = lists()
    predicted = matches(fit_lists(similarities, fusion, is_match).logits(similarities, fusion))
    assert reliability(predicted, is_match).error < 0.02


def test_lists_without_a_match_count_for_the_probability_alone():
    similarities, fusion, is_match = lists()
    emptied = is_match.copy()
    emptied[::2] = False
    full, half = fit_lists(similarities, fusion, is_match), fit_lists(similarities, fusion, emptied)
    assert half.b / half.a == pytest.approx(full.b / full.a, rel=0.1)
    assert matches(half.logits(similarities, fusion)).mean() == pytest.approx(emptied.mean(), rel=1e-3)


def test_a_score_that_never_varies_has_no_weight():
    fitted = fit([0.1, 0.4, 0.2, 0.9], [3, 3, 3, 3], [False, True, False, True])
    assert fitted.b == 0 and fitted.a > 0


def test_the_fit_does_not_depend_on_the_scale_of_the_scores():
    similarities, fusion, labels = made_up(5_000)
    fitted, scaled = fit(similarities, fusion, labels), fit(similarities * 1e-3, fusion * 1e4, labels)
    assert (scaled.a * 1e-3, scaled.b * 1e4, scaled.c) == pytest.approx((fitted.a, fitted.b, fitted.c), rel=1e-4)


def test_pairs_that_can_be_told_apart_perfectly_still_give_finite_parameters():
    fitted = fit([0.1, 0.2, 0.8, 0.9], [0, 0, 0, 0], [False, False, True, True])
    assert np.isfinite([fitted.a, fitted.b, fitted.c]).all() and fitted.a > 0
    shares = matches(fitted.logits([0.1, 0.2, 0.8, 0.9], [0, 0, 0, 0]))
    assert shares.min() > 0.1 and shares.max() < 0.9, "four pairs make nothing certain"


def test_lists_never_turn_their_own_order_round():
    """Even if the queries with high scores are those without a match."""
    similarities, fusion, is_match = lists()
    is_match[::2] = False
    similarities[::2] += 5
    fitted = fit_lists(similarities, fusion, is_match)
    assert fitted.a > 0 and fitted.b > 0


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_kind_are_refused(label):
    with pytest.raises(ValueError, match="pairs that match"):
        fit([0.1, 0.2], [0, 1], [label, label])


def test_matches_are_probabilities_at_any_logit():
    assert matches([-1e9, -5, 0, 5, 1e9]).tolist() == pytest.approx([0, 0.0066929, 0.5, 0.9933071, 1], abs=1e-6)


def test_logits_are_the_weighted_sum():
    assert Calibration(2, 3, -1).logits([0.5, 0], [1, 2]).tolist() == [3, 5]
    assert Calibration(2, 3, -1, 10).logits([0.5, 0], [1, 2], [1, np.e]).tolist() == [3, 15]


def test_calibrated_matches_are_believable_and_raw_ones_are_not():
    similarities, fusion, labels = made_up()
    calibrated = matches(fit(similarities, fusion, labels).logits(similarities, fusion))
    assert reliability(calibrated, labels).error < 0.01
    assert reliability(matches(fusion), labels).error > 0.1


def test_the_calibration_error_of_a_small_example():
    """Bin [0, .5): predicted .2, observed 0; bin [.5, 1]: predicted .8, observed .5. Two pairs each."""
    small = reliability([0.1, 0.3, 0.7, 0.9], [False, False, False, True], bins=2)
    assert small.count.tolist() == [2, 2]
    assert small.predicted.tolist() == pytest.approx([0.2, 0.8]) and small.observed.tolist() == [0, 0.5]
    assert small.error == pytest.approx((0.2 + 0.3) / 2)


def test_a_match_of_exactly_one_has_a_bin():
    assert reliability([1.0, 1.0], [True, True], bins=10).count[-1] == 2
