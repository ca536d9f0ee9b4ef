"""Training on made-up features that have something to learn, and its way to a model directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.demo import gather_samples
from indexes.errors import CrosslookError
from retrieval.captions import read_captions
from retrieval.encoders.lite import LiteEncoder

pytestmark = pytest.mark.torch


def made_up(images, *, views=1, captions=2, seed=0, noise=10.0):
    """Images whose cells and captions' words both carry the same few numbers, through fixed random maps."""
    from retrieval.training.cells import CELLS, CHANNELS
    from retrieval.training.features import Features

    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    to_cells, to_words = fixed.normal(size=(12, CHANNELS)), fixed.normal(size=(12, 384)) / 20
    meaning = rng.normal(size=(images, 12))
    blurred = (meaning @ to_cells) + noise * rng.normal(size=(views, images, CHANNELS))
    cells = np.repeat(blurred[:, :, None], CELLS, axis=2)
    owners = np.repeat(np.arange(images), captions)
    texts = meaning[owners] @ to_words + 0.01 * rng.normal(size=(len(owners), 384))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return Features(
        cells.astype(np.float16),
        rng.normal(size=(views, images, 1000)).astype(np.float16),
        texts.astype(np.float16),
        np.repeat(np.concatenate([texts, 20 * texts], axis=1), 3, axis=0).astype(np.float16),
        np.arange(0, 3 * len(owners) + 1, 3),
        owners,
        np.repeat(owners % 5, 3),
    )


def settings(**changes):
    from retrieval.training.heads import HeadSettings
    from retrieval.training.loop import TrainSettings
    from retrieval.training.model import ModelSettings
    from retrieval.training.scorer import ScorerSettings

    heads = HeadSettings(members=2, hidden=64, regions=32, words=32, dropout=0.1)
    small = ModelSettings(heads, ScorerSettings(dim=32, dropout=0.1))
    usual = {"epochs": 8, "batch": 40, "scorer_batch": 20, "average": 0.8, "model": small, "softness": 0.0}
    return TrainSettings(**(usual | changes))


def classes():
    found = np.random.default_rng(5).normal(size=(1000, 384)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def dev_with_whole(dev):
    """Whose images are embedded where their first caption is."""
    from dataclasses import replace

    return replace(dev, whole=dev.texts[None, ::2])


def weights(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def test_it_learns_what_images_and_captions_share(tmp_path):
    from retrieval.training.loop import judge, train

    model, history = train(made_up(200), made_up(40, seed=1), classes(), tmp_path, settings())
    assert history[-1].quality > max(0.8, 1.5 * history[0].quality)
    best = max(history, key=lambda epoch: epoch.quality)
    assert judge(model, made_up(40, seed=1)) == (best.text_to_image, best.image_to_text, best.reranked)
    for name in ("itc", "itm", "lm"):
        assert history[-1].losses[name] < history[0].losses[name]


def test_the_scorer_learns_by_itself(tmp_path):
    """Its fusion alone, among all images, without the heads."""
    from retrieval.training.loop import fusion_of, train

    dev = made_up(40, seed=1)
    chosen = settings(epochs=40, itc=0.0, lm=0.0, group=1, scorer_batch=40, learning_rate=3e-3, patience=40)
    model, _ = train(made_up(200), dev, classes(), tmp_path, chosen)
    everything = np.tile(np.arange(40), (len(dev.texts), 1))
    found = fusion_of(model, dev, np.arange(len(dev.texts)), everything)[..., 0]
    assert (found.argmax(axis=1) == dev.image_of_text).mean() > 0.4  # chance is 0.025


@pytest.mark.parametrize("name", ["itm", "lm"])
def test_a_loss_without_weight_is_not_computed(tmp_path, name):
    from retrieval.training.loop import train

    _, history = train(made_up(80), made_up(20, seed=1), classes(), tmp_path, settings(epochs=1, **{name: 0.0}))
    assert set(history[0].losses) == {"itc", "itm", "lm"} - {name}


@pytest.mark.parametrize(("changes", "weights_of_parts"), [({"lm": 0.0}, [1, 0]), ({"itm": 0.0}, [0, 1])])
def test_a_part_that_is_not_trained_has_no_say(tmp_path, changes, weights_of_parts):
    from retrieval.training.calibrate import calibrate
    from retrieval.training.loop import fusion_of, train

    dev = made_up(40, seed=1)
    model, _ = train(made_up(80), dev, classes(), tmp_path, settings(epochs=1, **changes))
    assert (model.weights != 0).tolist() == [bool(each) for each in weights_of_parts]
    calibrate(model, None, dev)
    assert (model.weights != 0).tolist() == [bool(each) for each in weights_of_parts]
    found = fusion_of(model, dev, np.arange(2), np.tile(np.arange(5), (2, 1)))
    assert found.any(axis=(0, 1)).tolist() == [bool(each) for each in weights_of_parts]


def test_captions_that_share_no_word_are_compared_and_not_read(tmp_path):
    from dataclasses import replace

    from retrieval.training.loop import train

    data = made_up(80)
    data = replace(data, numbers=np.full_like(data.numbers, -1))
    model, history = train(data, made_up(20, seed=1), classes(), tmp_path, settings(epochs=1))
    assert set(history[0].losses) == {"itc", "itm"} and model.weights.tolist() == [1, 0]
    assert all(np.isfinite(value).all() for value in weights(model).values())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    from retrieval.training.loop import train

    def run(name, seed):
        heads, _ = train(made_up(80), made_up(20, seed=1), classes(), tmp_path / name, settings(epochs=2, seed=seed))
        return weights(heads)

    runs = [run("first", 0), run("again", 0), run("other", 1)]
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not np.array_equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_a_run_stopped_after_an_epoch_ends_in_the_same_weights(tmp_path):
    from retrieval.training.loop import train

    data, dev, chosen = made_up(80), made_up(20, seed=1), settings(epochs=6, mine_every=3)
    whole, history = train(data, dev, classes(), tmp_path / "whole", chosen)

    class Killed(Exception):
        pass

    def kill(epoch):
        if epoch.number == 3:  # after hard negatives were found, before they are found anew
            raise Killed

    with pytest.raises(Killed):
        train(data, dev, classes(), tmp_path / "part", chosen, kill)
    resumed, resumed_history = train(data, dev, classes(), tmp_path / "part", chosen)
    assert resumed_history == history
    assert all(np.array_equal(weights(whole)[name], value) for name, value in weights(resumed).items())
    lines = (tmp_path / "part" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1, 2, 3, 4, 5]


def test_a_run_of_other_settings_is_not_taken_over(tmp_path):
    from retrieval.training.loop import train

    train(made_up(80), made_up(20, seed=1), classes(), tmp_path, settings(epochs=1))
    with pytest.raises(CrosslookError, match="choose another --out"):
        train(made_up(80), made_up(20, seed=1), classes(), tmp_path, settings(epochs=1, batch=20))


def test_it_stops_when_dev_gets_no_better(tmp_path):
    from retrieval.training.loop import train

    rng = np.random.default_rng(0)
    noise = made_up(20, seed=1)
    noise.texts[:] = rng.normal(size=noise.texts.shape)
    noise.texts[:] /= np.linalg.norm(noise.texts.astype(np.float32), axis=1, keepdims=True)
    chosen = settings(epochs=50, patience=2, learning_rate=0.0)
    _, history = train(made_up(80), noise, classes(), tmp_path, chosen)
    assert len(history) == 3


# On photographs.


@pytest.fixture(scope="module")
def sample_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    paths = gather_samples(folder / "photos")
    lines = [
        {"image": path.name, "captions": [path.stem, f"a photo of {path.stem}"], "split": "dev" if row < 4 else "train"}
        for row, path in enumerate(sorted(paths))
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(folder / "captions.jsonl", images_dir=folder / "photos")


def test_views_are_the_picture_its_mirror_image_and_crops_the_same_every_time(sample_set, lite):
    from retrieval.images import decode
    from retrieval.training.features import view
    from retrieval.training.towers import LiteTowers

    photo = decode((sample_set.images_dir / "coffee.png").read_bytes())
    towers = LiteTowers(lite)
    seen = [view(photo, number, towers, np.random.default_rng([7, number])) for number in range(4)]
    np.testing.assert_array_equal(seen[0], lite.prepare(photo))
    np.testing.assert_array_equal(seen[1], seen[0][:, ::-1])
    assert not np.array_equal(seen[2], seen[3])
    np.testing.assert_array_equal(seen[2], view(photo, 2, towers, np.random.default_rng([7, 2])))


def test_features_are_computed_once_and_are_those_of_the_towers(sample_set, tmp_path):
    from retrieval.images import decode
    from retrieval.training.features import cached_features
    from retrieval.training.towers import LiteTowers

    towers = LiteEncoder(device="cpu")
    found = cached_features([sample_set], LiteTowers(towers), tmp_path, 2)
    first = sample_set.images[0]
    prepared = towers.prepare(decode((sample_set.images_dir / first.image).read_bytes(), 224))
    logits = towers.maps([prepared], ["logits"])[0][0]
    np.testing.assert_allclose(found.whole[0, 0], logits, atol=0.02)
    texts = towers.text_tower.encode(list(first.captions))
    np.testing.assert_allclose(found.texts[:2], texts.embeddings, atol=1e-3)
    words, mask = found.words_of([0, 1])
    np.testing.assert_array_equal(mask.numpy(), texts.mask)
    np.testing.assert_allclose(words.numpy(), texts.tokens, atol=0.01)
    towers.maps = None  # from now on, computing would fail
    again = cached_features([sample_set], LiteTowers(towers), tmp_path, 2)
    np.testing.assert_array_equal(again.cells, found.cells)


def test_half_computed_features_are_computed_again(sample_set, tmp_path):
    from retrieval.training.features import cached_features
    from retrieval.training.towers import LiteTowers

    towers = LiteEncoder(device="cpu")
    whole = np.array(cached_features([sample_set], LiteTowers(towers), tmp_path, 1).cells)
    (folder,) = (path.parent for path in tmp_path.rglob("cells.npy"))
    (folder / "complete").unlink()
    (folder / "cells.npy").write_bytes(b"half")
    np.testing.assert_array_equal(cached_features([sample_set], LiteTowers(towers), tmp_path, 1).cells, whole)


def test_the_test_split_is_never_looked_at(sample_set):
    from dataclasses import replace

    from retrieval.training.run import split_sets

    splits = ("train", "dev", "test")
    images = tuple(replace(image, split=splits[index % 3]) for index, image in enumerate(sample_set.images))
    training, dev = split_sets([replace(sample_set, images=images)])
    assert {image.split for image in training[0].images} == {"train"}
    assert {image.split for image in dev[0].images} == {"dev"}
    training, dev = split_sets([replace(sample_set, images=tuple(replace(image, split=None) for image in images))])
    assert len(dev[0].images) == 1 and len(training[0].images) == 17


def test_too_few_images_are_refused(sample_set, tmp_path):
    from dataclasses import replace

    with pytest.raises(CrosslookError, match="1 image to choose by"):
        train_once(replace(sample_set, images=sample_set.images[3:]), tmp_path / "out", tmp_path / "cache")
    with pytest.raises(CrosslookError, match="1 image to train on"):
        train_once(replace(sample_set, images=sample_set.images[:5]), tmp_path / "out", tmp_path / "cache")


def train_once(sample_set, out, cache, **changes):
    from retrieval.training.loop import TrainSettings
    from retrieval.training.run import train_model

    encoder = LiteEncoder(device="cpu")
    return train_model([sample_set], encoder, out, TrainSettings(epochs=1, **changes), views=1, cache=cache)


def test_a_trained_directory_is_a_model_that_runs_as_torch_says(sample_set, tmp_path):
    import torch

    from retrieval.encoders import load_encoder
    from retrieval.fusion import own_scorer
    from retrieval.images import decode
    from retrieval.training.cells import Cells
    from retrieval.training.export import Explainer, read_model
    from retrieval.training.scorer import quantize

    out = tmp_path / "model"
    train_once(sample_set, out, tmp_path / "cache")
    onnx = ["explainer.onnx", "image_head.onnx", "scorer.onnx", "text_head.onnx"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["README.md", "config.json", "log.jsonl", "model.safetensors", *onnx]
    )
    assert sum((out / name).stat().st_size for name in onnx) < 0.1 * (out / "model.safetensors").stat().st_size
    encoder, (model, embedder) = load_encoder(str(out)), read_model(out)
    names = [sample_set.images_dir / image.image for image in sample_set.images]
    prepared = [encoder.prepare(decode(Path(name).read_bytes(), 224)) for name in names]
    logits, *maps = encoder.maps(prepared, ["logits", "stride8", "stride16", "stride32"])
    words = ["a dog", "a cup of coffee on a table"]
    texts = encoder.text_tower.encode(words)
    with torch.no_grad():
        inputs = model.inputs(
            Cells()(torch.from_numpy(np.stack(prepared)), *map(torch.from_numpy, maps)), torch.from_numpy(logits)
        )
        by_heads = model.heads.images(*inputs, torch.from_numpy(logits))
        images = embedder.images([*by_heads, model.heads.conse(torch.from_numpy(logits))]).numpy()
        regions = quantize(model.regions(*inputs))
        of_texts = model.heads.texts(*map(torch.from_numpy, (texts.embeddings, texts.tokens, texts.mask)))
        by_tower = torch.from_numpy(texts.embeddings)
        expected = embedder.texts([*of_texts, by_tower], model.heads.known(by_tower)).numpy()
    together = encoder.encode_images(prepared)
    np.testing.assert_allclose(together.embeddings, images, atol=1e-3)
    assert together.tokens.dtype == np.int8 and together.tokens.shape == (18, 49, 256)
    assert np.abs(together.tokens.astype(int) - regions.numpy()).max() <= 2
    found = encoder.encode_texts(words)
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-3)
    for index, alone in enumerate(prepared):
        one = encoder.encode_images([alone])
        np.testing.assert_array_equal(one.embeddings[0], together.embeddings[index])
        np.testing.assert_array_equal(one.tokens[0], together.tokens[index])
    assert encoder.fingerprint != load_encoder("lite-untrained").fingerprint
    scorer = own_scorer(encoder)
    for row in range(2):
        text = found.of(row)
        tensors = torch.from_numpy(text.tokens[0]), torch.from_numpy(together.tokens)
        with torch.no_grad():
            expected_fusion = [Explainer(model)(tensors[0], image)[0] for image in tensors[1]]
            fusion, looks, gradient, evidence = Explainer(model)(tensors[0], tensors[1][3])
        np.testing.assert_allclose(scorer.fusion(text, together.tokens), torch.stack(expected_fusion), atol=1e-3)
        attention = scorer.attention(text, together.tokens[3])
        assert attention.fusion == pytest.approx(float(fusion), abs=1e-3)
        np.testing.assert_allclose(attention.weights, looks, atol=1e-4)
        np.testing.assert_allclose(attention.gradient, gradient, atol=1e-3)
        np.testing.assert_allclose(attention.evidence, evidence, atol=1e-3)


@pytest.mark.parametrize("moment", ["write_model", "_put_in_place"])
def test_a_kill_while_the_model_is_written_loses_nothing(sample_set, tmp_path, monkeypatch, moment):
    """The same command finishes without training again, and a model that was there stays until the new one is whole."""
    from retrieval.encoders import load_encoder
    from retrieval.training import run

    class Killed(Exception):
        pass

    def killed(*arguments):
        if moment == "_put_in_place":  # half of the files are in place
            (tmp_path / "out" / "config.json").unlink()
            (arguments[0] / "text_head.onnx").replace(tmp_path / "out" / "text_head.onnx")
        raise Killed

    def train(seed, observed):
        from retrieval.training.loop import TrainSettings

        settings = TrainSettings(epochs=1, seed=seed)
        encoder, cache = LiteEncoder(device="cpu"), tmp_path / "cache"
        run.train_model(
            [sample_set], encoder, tmp_path / "out", settings, views=1, cache=cache, observe=observed.append
        )

    train(0, [])
    before = load_encoder(str(tmp_path / "out")).fingerprint
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(run, moment, killed)
        train(1, [])
    if moment == "write_model":
        assert load_encoder(str(tmp_path / "out")).fingerprint == before
    trained: list[object] = []
    train(1, trained)
    assert trained == [], "no epoch is run again"
    assert load_encoder(str(tmp_path / "out")).fingerprint != before
    assert (tmp_path / "out" / "log.jsonl").read_text().count("\n") == 1
    assert not (tmp_path / "out" / "run").exists()


def test_a_scorer_for_another_encoder_runs_as_torch_says(sample_set, tiny_clip, tmp_path):
    import torch

    from retrieval.encoders import load_encoder
    from retrieval.encoders.openclip import load_openclip
    from retrieval.fusion import own_scorer
    from retrieval.images import decode
    from retrieval.training.export import Explainer, read_model
    from retrieval.training.loop import TrainSettings
    from retrieval.training.run import train_model
    from retrieval.training.scorer import quantize

    clip, out = load_openclip(str(tiny_clip), "cpu"), tmp_path / "scorer"
    train_model([sample_set], clip, out, TrainSettings(epochs=1), views=3, cache=tmp_path / "cache")
    encoder, (model, embedder) = load_encoder(str(out), "cpu"), read_model(out)
    assert embedder is None and not model.heads.image
    paths = [sample_set.images_dir / image.image for image in sample_set.images]
    prepared = [encoder.prepare(decode(path.read_bytes(), encoder.image_size)) for path in paths]
    found, plain = encoder.encode_images(prepared), clip.encode_images(prepared)
    np.testing.assert_array_equal(found.embeddings, plain.embeddings)
    with torch.no_grad():
        cells, whole = torch.from_numpy(plain.tokens.astype(np.float32)), torch.from_numpy(plain.embeddings)
        regions = quantize(model.regions(*model.inputs(cells, whole)))
    assert found.tokens.dtype == np.int8 and found.tokens.shape == (len(paths), 16, 256)
    assert np.abs(found.tokens.astype(int) - regions.numpy()).max() <= 2
    text = encoder.encode_texts(["a cup of coffee"])
    np.testing.assert_array_equal(text.embeddings, clip.encode_texts(["a cup of coffee"]).embeddings)
    with torch.no_grad():
        expected = [
            Explainer(model)(torch.from_numpy(text.tokens[0]), row)[0] for row in torch.from_numpy(found.tokens)
        ]
    np.testing.assert_allclose(own_scorer(encoder).fusion(text, found.tokens), torch.stack(expected), atol=1e-3)
    assert encoder.fingerprint != clip.fingerprint
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"towers": "0123"}))
    with pytest.raises(CrosslookError, match="train it again"):
        load_encoder(str(out), "cpu")


def test_a_model_of_open_clip_is_not_overwritten(sample_set, tiny_clip, tmp_path):
    import shutil

    shutil.copytree(tiny_clip, tmp_path / "clip")
    with pytest.raises(CrosslookError, match="would be lost"):
        train_once(sample_set, tmp_path / "clip", tmp_path / "cache")


def test_of_a_model_of_another_kind_nothing_stays(sample_set, tiny_clip, tmp_path):
    from retrieval.encoders import load_encoder
    from retrieval.encoders.adapted import AdaptedEncoder
    from retrieval.encoders.openclip import load_openclip
    from retrieval.training.loop import TrainSettings
    from retrieval.training.run import train_model

    train_once(sample_set, tmp_path / "out", tmp_path / "cache")
    clip = load_openclip(str(tiny_clip), "cpu")
    train_model([sample_set], clip, tmp_path / "out", TrainSettings(epochs=1), views=1, cache=tmp_path / "cache")
    assert isinstance(load_encoder(str(tmp_path / "out"), "cpu"), AdaptedEncoder)
    assert not (tmp_path / "out" / "image_head.onnx").exists()


@pytest.mark.parametrize("damage", ["{", "{}", "[]"])
def test_a_damaged_directory_says_so(tmp_path, damage):
    from retrieval.encoders import load_encoder

    (tmp_path / "config.json").write_text(damage)
    with pytest.raises(CrosslookError, match="config.json is damaged"):
        load_encoder(str(tmp_path))


def test_a_scorer_whose_encoder_was_moved_says_what_it_misses(tmp_path):
    from retrieval.encoders import load_encoder

    (tmp_path / "config.json").write_text(json.dumps({"kind": "scorer", "encoder": "/moved/away"}))
    with pytest.raises(CrosslookError, match="is a scorer for /moved/away"):
        load_encoder(str(tmp_path))


def test_the_scorer_of_another_encoder_is_chosen_by_its_own_embeddings(tmp_path):
    """There are no heads: the first stage is what the towers say, before and after."""
    from retrieval.training.heads import HeadSettings
    from retrieval.training.loop import embed, train
    from retrieval.training.model import ModelSettings
    from retrieval.training.scorer import ScorerSettings

    data, dev = made_up(200), made_up(40, seed=1)
    data, dev = dev_with_whole(data), dev_with_whole(dev)
    shape = ModelSettings(HeadSettings(members=0), ScorerSettings(whole=384, dim=32))
    model, history = train(data, dev, np.zeros((0, 384), np.float32), tmp_path, settings(itc=0.0, model=shape))
    np.testing.assert_array_equal(embed(model, dev)[0][0], dev.whole[0].astype(np.float32))
    assert set(history[0].losses) == {"itm", "lm"}
    assert history[0].text_to_image == history[-1].text_to_image > 0.9
    assert history[-1].losses["lm"] < history[0].losses["lm"]


def test_words_are_numbered_that_enough_captions_have():
    from retrieval.training.features import FEWEST_TEXTS, number_words

    pieces = [[101, 5, 6, 102]] * FEWEST_TEXTS + [[101, 7, 7, 102]] * (FEWEST_TEXTS - 1) + [[101, 6, 102]]
    found = number_words(pieces, [101, 102])
    assert found.tolist() == [-1, 0, 1, -1] * FEWEST_TEXTS + [-1] * 4 * (FEWEST_TEXTS - 1) + [-1, 1, -1]


@pytest.mark.parametrize("made_of", ["lite", "open_clip"])
def test_the_command_trains_indexes_and_searches(sample_set, tmp_path, made_of, request):
    import os
    import subprocess
    import sys

    def search(*words):
        command = [sys.executable, "-c", "from cli.main import main; main()", *map(str, words)]
        environment = os.environ | {"CROSSLOOK_INDEX": str(tmp_path / "c")}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    out, photos = tmp_path / "model", sample_set.images_dir
    options = ["--images", photos, "--epochs", 1, "--views", 1, "--cache", tmp_path / "cache", "--out", out]
    if made_of == "open_clip":
        options += ["--model", request.getfixturevalue("tiny_clip")]
    run = search("train", sample_set.source, *options)
    assert run.returncode == 0, run.stderr
    assert ("epoch 1: itc" if made_of == "lite" else "epoch 1: itm") in run.stderr and f"--model {out}" in run.stderr
    assert all((out / name).read_text().startswith("<svg") for name in ("run.svg", "reliability.svg"))
    assert search("index", photos, "--model", out).returncode == 0
    assert len(search("a cup of coffee").stdout.splitlines()) == 10
    assert json.loads(search("a cup of coffee", "--json").stdout.splitlines()[0])["match"] is not None
    again = search("train", sample_set.source, "--images", photos, "--model", out, "--out", tmp_path / "other")
    assert again.returncode == 2 and "name `lite`, or a model of open_clip" in again.stderr
    assert search("train", sample_set.source, "--images", photos, "--images", photos, "--out", out).returncode == 2
    for wrong in (("--itc", 0 if made_of == "lite" else -1), ("--lm", -1), ("--members", 0)):
        run = search("train", sample_set.source, *options, *wrong)
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1, run.stderr
