"""A run from captioned images to a model directory: what it trains on, and what a kill leaves."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.lite import LiteEncoder
from retrieval.progress import Epoch, Observer
from tests.retrieval.training.photo_runs import one_epoch, train_once

pytestmark = pytest.mark.torch


def test_the_test_split_is_never_looked_at(sample_set):
    from retrieval.training.run import split_sets

    splits = ("train", "dev", "test")
    images = tuple(replace(image, split=splits[index % 3]) for index, image in enumerate(sample_set.images))
    training, dev = split_sets([replace(sample_set, images=images)])
    assert {image.split for image in training[0].images} == {"train"}
    assert {image.split for image in dev[0].images} == {"dev"}
    training, dev = split_sets([replace(sample_set, images=tuple(replace(image, split=None) for image in images))])
    assert len(dev[0].images) == 1 and len(training[0].images) == 17


def test_too_few_images_are_refused(sample_set, tmp_path):
    with pytest.raises(CrosslookError, match="1 image to choose by"):
        train_once(replace(sample_set, images=sample_set.images[3:]), tmp_path / "out", tmp_path / "cache")
    with pytest.raises(CrosslookError, match="1 image to train on"):
        train_once(replace(sample_set, images=sample_set.images[:5]), tmp_path / "out", tmp_path / "cache")


@pytest.mark.parametrize("moment", ["write_model", "put_in_place"])
def test_a_kill_while_the_model_is_written_loses_nothing(sample_set, tmp_path, monkeypatch, moment):
    """The same command finishes without training again, and the former model stays until the new one is complete."""
    from retrieval.training import run

    class Killed(Exception):
        pass

    def killed(*arguments):
        if moment == "put_in_place":  # half of the files are in place
            (tmp_path / "out" / "config.json").unlink()
            (arguments[0] / "text_head.onnx").replace(tmp_path / "out" / "text_head.onnx")
        raise Killed

    def train(seed: int) -> list[Epoch]:
        """The epochs that it ran."""
        epochs: list[Epoch] = []
        run.train_model(
            [sample_set],
            LiteEncoder(device="cpu"),
            tmp_path / "out",
            one_epoch(seed=seed),
            views=1,
            cache=tmp_path / "cache",
            observer=Observer(epoch=epochs.append),
        )
        return epochs

    train(0)
    before = load_encoder(str(tmp_path / "out")).fingerprint
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(run, moment, killed)
        train(1)
    if moment == "write_model":
        assert load_encoder(str(tmp_path / "out")).fingerprint == before
    assert train(1) == [], "no epoch is run again"
    assert load_encoder(str(tmp_path / "out")).fingerprint != before
    assert (tmp_path / "out" / "log.jsonl").read_text().count("\n") == 2, "an epoch of each stage"
    assert not (tmp_path / "out" / "run").exists()


def test_a_model_of_open_clip_is_not_overwritten(sample_set, tiny_clip, tmp_path):
    shutil.copytree(tiny_clip, tmp_path / "clip")
    with pytest.raises(CrosslookError, match="would be lost"):
        train_once(sample_set, tmp_path / "clip", tmp_path / "cache")


def test_of_a_model_of_another_kind_nothing_stays(sample_set, tiny_clip, tmp_path):
    from retrieval.encoders.adapted import AdaptedEncoder
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.training.run import train_model

    train_once(sample_set, tmp_path / "out", tmp_path / "cache")
    clip = load_openclip(str(tiny_clip), "cpu")
    train_model([sample_set], clip, tmp_path / "out", one_epoch(), views=1, cache=tmp_path / "cache")
    assert isinstance(load_encoder(str(tmp_path / "out"), "cpu"), AdaptedEncoder)
    assert not (tmp_path / "out" / "image_head.onnx").exists()
