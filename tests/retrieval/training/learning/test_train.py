"""Training on made-up features that have something to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.progress import Epoch, Observer, Step
from tests.retrieval.training.made_up import classes, made_up, settings

pytestmark = pytest.mark.torch


def weights(model: Any) -> dict[str, NDArray[Any]]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def best(history: Sequence[Epoch], stage: str) -> Epoch:
    return max((epoch for epoch in history if epoch.stage == stage), key=lambda epoch: epoch.quality)


def test_it_learns_what_images_and_captions_share(tmp_path):
    from retrieval.training.learning.heads_stage import HeadsStage
    from retrieval.training.learning.scorer_stage import ScorerStage
    from retrieval.training.learning.train import train

    data, dev, chosen = made_up(200), made_up(40, seed=1), settings()
    model, history = train(data, dev, classes(), tmp_path, chosen)
    stages = [(stage, number) for stage in ("heads", "scorer") for number in range(8)]
    assert [(epoch.stage, epoch.number) for epoch in history] == stages
    assert best(history, "heads").quality > max(0.8, 1.5 * history[0].quality)
    assert HeadsStage(model.heads, model.inputs, data, dev, chosen, "").judge(model.heads) == best(history, "heads").dev
    assert ScorerStage(model, data, dev, chosen, "").judge(model.scorer) == best(history, "scorer").dev
    for first, last in ((history[0], history[7]), (history[8], history[15])):
        assert all(last.losses[name] < first.losses[name] for name in first.losses)


@pytest.mark.parametrize(("itm", "lm"), [(1.0, 0.0), (0.0, 1.0)])
def test_the_scorer_learns_from_either_loss_alone(tmp_path, monkeypatch, itm, lm):
    """Its fusion, among all images, without the heads, which would find nearly all by themselves if they learnt."""
    from retrieval.training.inference import fusion_of, regions_of
    from retrieval.training.learning.scorer_stage import ScorerStage
    from retrieval.training.learning.train import train

    dev = made_up(40, seed=1)
    dev = replace(dev, vocabulary_ids=np.full_like(dev.vocabulary_ids, -1))  # its tokens need not be in any vocabulary

    def share_right(stage, scorer):
        regions = regions_of(stage.model.inputs, scorer, dev)
        logits = fusion_of(scorer, dev, np.arange(dev.text_count)[:, None], np.arange(40), regions)
        return {"fusion": float((logits.argmax(axis=1) == dev.image_of_text).mean())}

    monkeypatch.setattr(ScorerStage, "judge", share_right)
    chosen = settings(epochs=12, patience=99, itc=0.0, itm=itm, lm=lm, hard=False)  # the heads do not learn
    _, history = train(made_up(200), dev, classes(), tmp_path, chosen)
    assert set(history[-1].losses) == {"itm" if itm else "lm"}
    assert best(history, "scorer").quality > (0.4 if itm else 0.15)  # chance is 0.025


def test_matching_sets_in_when_the_scorer_has_read_for_a_while(tmp_path):
    from retrieval.training.learning.train import train

    chosen = settings(epochs=4, match_from=0.5)
    _, history = train(made_up(80), made_up(20, seed=1), classes(), tmp_path, chosen)
    losses = [set(epoch.losses) for epoch in history if epoch.stage == "scorer"]
    assert losses == [{"lm"}, {"lm"}, {"lm", "itm"}, {"lm", "itm"}]


@pytest.mark.parametrize(("epochs", "patience"), [(1, 8), (2, 8), (9, 2)])
def test_matching_is_never_left_out(tmp_path, epochs, patience):
    """Neither by few epochs, nor by what reads so badly that it would be stopped before."""
    from retrieval.training.learning.train import train

    chosen = settings(epochs=epochs, patience=patience, match_from=0.7)
    chosen = replace(chosen, scorer=replace(chosen.scorer, learning_rate=0.0))
    _, history = train(made_up(80), made_up(20, seed=1), classes(), tmp_path, chosen)
    assert "itm" in history[-1].losses


def test_hard_negatives_are_those_that_the_heads_confuse(tmp_path, monkeypatch):
    from retrieval.training.data.mining import grouped_order
    from retrieval.training.learning.train import train

    calls: list[tuple[NDArray[np.int64], int]] = []

    def recorded(neighbours, group, rng):
        calls.append((neighbours, group))
        return grouped_order(neighbours, group, rng)

    monkeypatch.setattr("retrieval.training.learning.scorer_stage.grouped_order", recorded)
    train(made_up(80), made_up(20, seed=1), classes(), tmp_path / "hard", settings(epochs=1, group=5))
    assert calls and all(neighbours.shape == (80, 30) and group == 5 for neighbours, group in calls)
    calls.clear()
    train(made_up(80), made_up(20, seed=1), classes(), tmp_path / "any", settings(epochs=1, hard=False))
    assert not calls


def test_captions_that_share_no_token_cannot_be_learnt_from(tmp_path):
    from retrieval.training.learning.train import train

    data = made_up(80)
    data = replace(data, vocabulary_ids=np.full_like(data.vocabulary_ids, -1))
    with pytest.raises(CrosslookError, match="give more captions"):
        train(data, made_up(20, seed=1), classes(), tmp_path, settings(epochs=1))


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    from retrieval.training.learning.train import train

    def run(name, seed):
        model, _ = train(made_up(80), made_up(20, seed=1), classes(), tmp_path / name, settings(epochs=2, seed=seed))
        return weights(model)

    first, again, other = run("first", 0), run("again", 0), run("other", 1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("moment", [("heads", 1), ("heads", 2), ("scorer", 1)])
def test_a_run_stopped_after_an_epoch_ends_in_the_same_weights(tmp_path, moment):
    from retrieval.training.learning.train import train

    data, dev, chosen = made_up(80), made_up(20, seed=1), settings(epochs=3)
    uninterrupted, history = train(data, dev, classes(), tmp_path / "uninterrupted", chosen)

    class Killed(Exception):
        pass

    def kill(epoch):
        if (epoch.stage, epoch.number) == moment:
            raise Killed

    with pytest.raises(Killed):
        train(data, dev, classes(), tmp_path / "part", chosen, Observer(epoch=kill))
    epochs: list[Epoch] = []
    steps: list[Step] = []
    observer = Observer(epoch=epochs.append, step=steps.append)
    resumed, resumed_history = train(data, dev, classes(), tmp_path / "part", chosen, observer)
    assert resumed_history == history and len(epochs) == 6 - 3 * (moment[0] == "scorer") - moment[1] - 1
    assert [step.what for step in steps if step.done == step.total] == [
        f"{epoch.stage}, epoch {epoch.number + 1} of 3" for epoch in epochs
    ]
    assert all(step.losses for step in steps)
    assert all(np.array_equal(weights(uninterrupted)[name], value) for name, value in weights(resumed).items())


def test_a_run_of_other_settings_is_not_taken_over(tmp_path):
    from retrieval.training.learning.train import train

    train(made_up(80), made_up(20, seed=1), classes(), tmp_path, settings(epochs=1))
    with pytest.raises(CrosslookError, match="choose another --out"):
        train(made_up(80), made_up(20, seed=1), classes(), tmp_path, settings(epochs=1, group=5))


def test_a_run_that_trains_something_else_is_not_taken_over(tmp_path):
    from retrieval.training.learning.train import train

    (tmp_path / "towers.safetensors").write_bytes(b"")
    with pytest.raises(CrosslookError, match="a run that trains towers: choose another --out"):
        train(made_up(80), made_up(20, seed=1), classes(), tmp_path, settings(epochs=1))


def test_it_stops_when_dev_gets_no_better(tmp_path):
    from retrieval.training.learning.train import train

    rng = np.random.default_rng(0)
    noise = made_up(20, seed=1)
    noise.text_embeddings[:] = rng.normal(size=noise.text_embeddings.shape)
    noise.text_embeddings[:] /= np.linalg.norm(noise.text_embeddings.astype(np.float32), axis=1, keepdims=True)
    chosen = settings(epochs=50, patience=2)
    chosen = replace(chosen, heads=replace(chosen.heads, learning_rate=0.0), lm=0.0, itm=0.0)
    _, history = train(made_up(80), noise, classes(), tmp_path, chosen)
    assert [epoch.stage for epoch in history].count("heads") == 3


def test_the_scorer_of_another_encoder_is_chosen_by_its_own_embeddings(tmp_path):
    """There are no heads: the first stage is what the towers say, before and after."""
    from retrieval.training.inference import embed
    from retrieval.training.learning.train import train
    from retrieval.training.model.heads import HeadSettings
    from retrieval.training.model.model import ModelSettings
    from retrieval.training.model.regions import RegionSettings

    # Images are embedded where their first caption is.
    data, dev = (
        replace(features, global_features=features.text_embeddings[None, ::2])
        for features in (made_up(200), made_up(40, seed=1))
    )
    shape = ModelSettings(HeadSettings(ensemble=0), RegionSettings(global_dim=384, dim=32))
    model, history = train(data, dev, np.zeros((0, 384), np.float32), tmp_path, settings(itc=0.0, model=shape))
    images, _ = embed(model.inputs, model.heads, dev)
    np.testing.assert_array_equal(images[0], dev.global_features[0].astype(np.float32))
    assert {epoch.stage for epoch in history} == {"scorer"} and set(history[0].losses) == {"itm", "lm"}
    assert history[-1].quality > 0.9
    assert history[-1].losses["lm"] < history[0].losses["lm"]


def test_the_learning_rate_rises_linearly_and_falls_by_half_a_cosine():
    from retrieval.training.learning.schedule import Schedule

    schedule = Schedule(epochs=10, batch=1, captions=1, learning_rate=2.0, warm_up=0.1)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[50] == pytest.approx(1.0 + 2e-3) and 2e-3 < rates[-1] < 4e-3
