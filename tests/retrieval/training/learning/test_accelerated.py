"""Training as on a GPU, against training step by step in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval.progress import Observer
from tests.retrieval.training.accelerated import IN_FLOAT32, accelerate
from tests.retrieval.training.made_up import classes, made_up, settings

pytestmark = pytest.mark.torch


class Killed(Exception):
    pass


def kill(epoch):
    if epoch.number == 1:
        raise Killed


def trained_in(out, observer=None, **changes):
    """Weights and history after all stages."""
    from retrieval.training.learning.train import train

    chosen = settings(**({"epochs": 4, "match_from": 0.4, "softness": 0.2} | changes))
    data, dev = made_up(100, views=3), made_up(30, seed=1)
    model, history = train(data, dev, classes(), out, chosen, observer or Observer())
    return {name: value.numpy() for name, value in model.state_dict().items()}, history


def test_batches_in_advance_and_features_on_the_device_change_not_a_bit(tmp_path, monkeypatch):
    steps: dict[str, list[object]] = {"plain": [], "ahead": []}
    plain, history = trained_in(tmp_path / "plain", Observer(step=steps["plain"].append))
    accelerate(monkeypatch, **IN_FLOAT32)
    ahead, again = trained_in(tmp_path / "ahead", Observer(step=steps["ahead"].append))
    assert again == history and steps["ahead"] == steps["plain"]
    for name, value in plain.items():
        np.testing.assert_array_equal(ahead[name], value)


def test_in_16_bits_it_learns_as_well(tmp_path, monkeypatch):
    _, history = trained_in(tmp_path / "plain", epochs=6)
    accelerate(monkeypatch)
    weights, in_16_bits = trained_in(tmp_path / "half", epochs=6)
    assert all(value.dtype != np.float16 and np.isfinite(value).all() for value in weights.values())
    for one, other in zip(history, in_16_bits, strict=True):
        assert one.losses != other.losses, "it was computed in another way"
        for name, loss in one.losses.items():
            assert other.losses[name] == pytest.approx(loss, rel=0.1, abs=0.1)
        assert other.quality == pytest.approx(one.quality, abs=0.15)


@pytest.mark.parametrize("begins_fast", [True, False])
def test_a_run_goes_on_on_the_other_device(tmp_path, monkeypatch, begins_fast):
    _, expected = trained_in(tmp_path / "plain", epochs=3)
    for fast in (begins_fast, not begins_fast):
        with monkeypatch.context() as patched:
            if fast:
                accelerate(patched)
            if fast == begins_fast:
                with pytest.raises(Killed):
                    trained_in(tmp_path / "run", Observer(epoch=kill), epochs=3)
            else:
                epochs: list[object] = []
                _, history = trained_in(tmp_path / "run", Observer(epoch=epochs.append), epochs=3)
    assert len(epochs) == 4, "two of the heads were done"
    assert [epoch.stage for epoch in history] == [epoch.stage for epoch in expected]
    for one, other in zip(expected, history, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=0.1, abs=0.1)


def test_a_run_in_16_bits_that_was_killed_ends_in_the_same_weights(tmp_path, monkeypatch):
    accelerate(monkeypatch)
    expected, history = trained_in(tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        trained_in(tmp_path / "part", Observer(epoch=kill))
    weights, again = trained_in(tmp_path / "part")
    assert again == history
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value)


def test_features_on_the_device_are_those_on_disk(monkeypatch):
    from dataclasses import replace

    from retrieval.training.data import keeping

    monkeypatch.setattr(keeping, "AT_ONCE", 100_000)  # several parts
    data = made_up(20, views=3)
    data = replace(data, starts=np.cumsum([0, *np.tile([2, 4, 5, 1], 10)]))
    (kept,) = keeping.kept_on_device([data], 1 << 30)
    assert set(kept.kept) == {"tokens", "text_embeddings", "global_features", "cells"} and not data.kept
    rng = np.random.default_rng(0)
    views, images, texts = rng.integers(3, size=9), rng.integers(20, size=9), rng.integers(40, size=9)
    indices: list[tuple[str, tuple[Any, ...]]]
    indices = [("cells", (views, images)), ("cells", (0, slice(3, 9))), ("cells", (0, slice(None, None, 4)))]
    indices += [("global_features", (0, images)), ("text_embeddings", (texts,)), ("text_embeddings", ())]
    for name, index in indices:
        one, other = kept.rows_of(name, *index), data.rows_of(name, *index)
        assert one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes(), name
    for one, other in zip(kept.tokens_of(texts), data.tokens_of(texts), strict=True):
        assert one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


def test_only_what_fits_stays_on_the_device():
    from retrieval.training.data.keeping import kept_on_device

    data, dev = made_up(20), made_up(10, seed=1)
    room = data.tokens.nbytes + data.text_embeddings.nbytes + data.global_features.nbytes
    first, second = kept_on_device([data, dev], room)
    assert list(first.kept) == ["tokens", "text_embeddings", "global_features"] and not second.kept
    assert not any(part.kept for part in kept_on_device([data, dev], 0))
