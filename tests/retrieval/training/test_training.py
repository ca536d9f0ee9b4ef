"""Training on made-up features that have something to learn, and its way to a model directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli.demo import gather_samples
from indexes.errors import CrosslookError
from retrieval.captions import read_captions
from retrieval.encoders.lite import LiteEncoder
from retrieval.training.watching import Watcher
from tests.guarding import run_commands
from tests.retrieval.training.made_up import classes, made_up, settings

pytestmark = pytest.mark.torch


def dev_with_whole(dev):
    """Whose images are embedded where their first caption is."""
    return replace(dev, whole=dev.texts[None, ::2])


def weights(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def best(history, stage):
    return max((each for each in history if each.stage == stage), key=lambda epoch: epoch.quality)


def test_it_learns_what_images_and_captions_share(tmp_path):
    from retrieval.training.learning.heads_stage import HeadsStage
    from retrieval.training.learning.scorer_stage import ScorerStage
    from retrieval.training.learning.train import train

    data, dev, chosen = made_up(200), made_up(40, seed=1), settings()
    model, history = train(data, dev, classes(), tmp_path, chosen)
    assert [(each.stage, each.number) for each in history] == [(s, n) for s in ("heads", "scorer") for n in range(8)]
    assert best(history, "heads").quality > max(0.8, 1.5 * history[0].quality)
    assert HeadsStage(model.heads, model.inputs, data, dev, chosen, "").judge(model.heads) == best(history, "heads").dev
    assert ScorerStage(model, data, dev, chosen, "").judge(model.scorer) == best(history, "scorer").dev
    for first, last in ((history[0], history[7]), (history[8], history[15])):
        assert all(last.losses[name] < first.losses[name] for name in first.losses)


@pytest.mark.parametrize(("itm", "lm"), [(1.0, 0.0), (0.0, 1.0)])
def test_the_scorer_learns_from_either_loss_alone(tmp_path, monkeypatch, itm, lm):
    """Its fusion, among all images, without the heads, which would find nearly all by themselves."""
    from retrieval.training.inference import fusion_of, regions_of
    from retrieval.training.learning.scorer_stage import ScorerStage
    from retrieval.training.learning.train import train

    dev = made_up(40, seed=1)
    dev = replace(dev, numbers=np.full_like(dev.numbers, -1))  # its words need not be in any vocabulary

    def share_right(stage, scorer):
        regions = regions_of(stage._model.inputs, scorer, dev)
        found = fusion_of(scorer, dev, np.arange(len(dev.texts))[:, None], np.arange(40), regions)
        return {"fusion": float((found.argmax(axis=1) == dev.image_of_text).mean())}

    monkeypatch.setattr(ScorerStage, "judge", share_right)
    _, history = train(made_up(200), dev, classes(), tmp_path, settings(epochs=25, patience=99, itm=itm, lm=lm))
    assert set(history[-1].losses) == {"itm" if itm else "lm"}
    assert best(history, "scorer").quality > (0.3 if itm else 0.08)  # chance is 0.025


def test_pairs_at_once_are_read_as_each_by_itself(monkeypatch):
    import torch

    from retrieval.training import inference as applying
    from retrieval.training.model.model import ModelSettings, Scorer

    monkeypatch.setattr(applying, "PAIRS_AT_ONCE", 7)
    data, rng = made_up(20), np.random.default_rng(0)
    data = replace(data, starts=np.cumsum([0, *np.tile([2, 4, 5, 1], 10)]))
    torch.manual_seed(0)
    scorer = Scorer(data.vocabulary, ModelSettings()).eval()
    regions = torch.nn.functional.normalize(torch.randn(20, 49, 256), dim=-1)
    texts, images = rng.integers(40, size=(6, 5)), rng.integers(20, size=5)
    found = applying.fusion_of(scorer, data, texts, images, regions)
    for row, column in np.ndindex(6, 5):
        words = torch.from_numpy(data.words[slice(*data.starts[texts[row, column] :][:2])].astype(np.float32))
        with torch.inference_mode():
            alone = scorer.reader(words, regions[images[column]][None])[0]
        assert found[row, column] == pytest.approx(float(alone), abs=1e-4)


def test_matching_sets_in_when_the_scorer_has_read_for_a_while(tmp_path):
    from retrieval.training.learning.train import train

    chosen = settings(epochs=4, match_from=0.5)
    _, history = train(made_up(80), made_up(20, seed=1), classes(), tmp_path, chosen)
    losses = [set(each.losses) for each in history if each.stage == "scorer"]
    assert losses == [{"lm"}, {"lm"}, {"lm", "itm"}, {"lm", "itm"}]


def test_hard_negatives_are_those_that_the_heads_confuse(tmp_path, monkeypatch):
    from retrieval.training.learning import scorer_stage
    from retrieval.training.learning.train import train

    met = []
    grouped = scorer_stage.grouped_order
    monkeypatch.setattr(scorer_stage, "grouped_order", lambda *given: met.append(given[:2]) or grouped(*given))
    train(made_up(80), made_up(20, seed=1), classes(), tmp_path / "hard", settings(epochs=1, group=5))
    assert met and all(neighbours.shape == (80, 30) and group == 5 for neighbours, group in met)
    met.clear()
    train(made_up(80), made_up(20, seed=1), classes(), tmp_path / "any", settings(epochs=1, hard=False))
    assert not met


def test_captions_that_share_no_word_cannot_be_learnt_from(tmp_path):
    from retrieval.training.learning.train import train

    data = made_up(80)
    data = replace(data, numbers=np.full_like(data.numbers, -1))
    with pytest.raises(CrosslookError, match="give more captions"):
        train(data, made_up(20, seed=1), classes(), tmp_path, settings(epochs=1))


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    from retrieval.training.learning.train import train

    def run(name, seed):
        heads, _ = train(made_up(80), made_up(20, seed=1), classes(), tmp_path / name, settings(epochs=2, seed=seed))
        return weights(heads)

    runs = [run("first", 0), run("again", 0), run("other", 1)]
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not np.array_equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize("moment", [("heads", 1), ("heads", 2), ("scorer", 1)])
def test_a_run_stopped_after_an_epoch_ends_in_the_same_weights(tmp_path, moment):
    from retrieval.training.learning.train import train

    data, dev, chosen = made_up(80), made_up(20, seed=1), settings(epochs=3)
    whole, history = train(data, dev, classes(), tmp_path / "whole", chosen)

    class Killed(Exception):
        pass

    def kill(epoch):
        if (epoch.stage, epoch.number) == moment:
            raise Killed

    with pytest.raises(Killed):
        train(data, dev, classes(), tmp_path / "part", chosen, Watcher(epoch=kill))
    observed, steps = [], []
    watcher = Watcher(epoch=observed.append, step=steps.append)
    resumed, resumed_history = train(data, dev, classes(), tmp_path / "part", chosen, watcher)
    assert resumed_history == history and len(observed) == 6 - 3 * (moment[0] == "scorer") - moment[1] - 1
    assert [step.what for step in steps if step.done == step.total] == [
        f"{epoch.stage}, epoch {epoch.number + 1} of 3" for epoch in observed
    ]
    assert all(step.losses for step in steps)
    assert all(np.array_equal(weights(whole)[name], value) for name, value in weights(resumed).items())


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


@pytest.mark.parametrize(("epochs", "patience"), [(1, 8), (2, 8), (9, 2)])
def test_matching_is_never_left_out(tmp_path, epochs, patience):
    """Neither by few epochs, nor by what reads so badly that it would be stopped before."""
    from retrieval.training.learning.train import train

    chosen = settings(epochs=epochs, patience=patience, match_from=0.7)
    chosen = replace(chosen, scorer=replace(chosen.scorer, learning_rate=0.0))
    _, history = train(made_up(80), made_up(20, seed=1), classes(), tmp_path, chosen)
    assert "itm" in history[-1].losses


def test_it_stops_when_dev_gets_no_better(tmp_path):
    from retrieval.training.learning.train import train

    rng = np.random.default_rng(0)
    noise = made_up(20, seed=1)
    noise.texts[:] = rng.normal(size=noise.texts.shape)
    noise.texts[:] /= np.linalg.norm(noise.texts.astype(np.float32), axis=1, keepdims=True)
    chosen = settings(epochs=50, patience=2)
    chosen = replace(chosen, heads=replace(chosen.heads, learning_rate=0.0), lm=0.0, itm=0.0)
    _, history = train(made_up(80), noise, classes(), tmp_path, chosen)
    assert [each.stage for each in history].count("heads") == 3


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
    from retrieval.training.data.towers import LiteTowers
    from retrieval.training.data.views import view

    photo = decode((sample_set.images_dir / "coffee.png").read_bytes())
    towers = LiteTowers(lite)
    seen = [view(photo, number, towers, np.random.default_rng([7, number])) for number in range(4)]
    np.testing.assert_array_equal(seen[0], lite.prepare(photo))
    np.testing.assert_array_equal(seen[1], seen[0][:, ::-1])
    assert not np.array_equal(seen[2], seen[3])
    np.testing.assert_array_equal(seen[2], view(photo, 2, towers, np.random.default_rng([7, 2])))


def test_features_are_computed_once_and_are_those_of_the_towers(sample_set, tmp_path):
    from retrieval.images import decode
    from retrieval.training.data.features import cached_features
    from retrieval.training.data.towers import LiteTowers

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
    from retrieval.training.data.features import cached_features
    from retrieval.training.data.towers import LiteTowers

    towers = LiteEncoder(device="cpu")
    whole = np.array(cached_features([sample_set], LiteTowers(towers), tmp_path, 1).cells)
    (folder,) = (path.parent for path in tmp_path.rglob("cells.npy"))
    (folder / "complete").unlink()
    (folder / "cells.npy").write_bytes(b"half")
    np.testing.assert_array_equal(cached_features([sample_set], LiteTowers(towers), tmp_path, 1).cells, whole)


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


def one_epoch(**changes):
    from retrieval.training.learning.settings import TrainSettings

    usual = TrainSettings()
    return replace(
        usual, heads=replace(usual.heads, epochs=1), scorer=replace(usual.scorer, epochs=1, batch=12), **changes
    )


def train_once(sample_set, out, cache, **changes):
    from retrieval.training.run import train_model

    encoder = LiteEncoder(device="cpu")
    return train_model([sample_set], encoder, out, one_epoch(**changes), views=1, cache=cache)


def test_a_trained_directory_is_a_model_that_runs_as_torch_says(sample_set, tmp_path):
    import torch

    from retrieval.encoders import load_encoder
    from retrieval.fusion import own_scorer
    from retrieval.images import decode
    from retrieval.training.export import Explainer, read_model
    from retrieval.training.model.cells import Cells
    from retrieval.training.model.integer_reader import IntegerReader

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
        regions = model.scorer.regions.stored(model.scorer.regions(*inputs))
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
            expected_fusion = IntegerReader(model.scorer)(*tensors)
            fusion, lost = Explainer(model.scorer)(tensors[0], tensors[1][3])
        fusions = scorer.fusion(text, together.tokens)
        np.testing.assert_allclose(fusions, expected_fusion, atol=1e-2)  # a last bit may round to the other side
        for index, alone in enumerate(together.tokens):
            np.testing.assert_allclose(scorer.fusion(text, alone[None]), fusions[index], atol=1e-3)
        evidence = scorer.evidence(text, together.tokens[3])
        assert evidence.fusion == pytest.approx(float(fusion), abs=1e-3)
        np.testing.assert_allclose(evidence.lost, lost, atol=1e-3)


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
        settings = one_epoch(seed=seed)
        encoder, cache = LiteEncoder(device="cpu"), tmp_path / "cache"
        run.train_model(
            [sample_set],
            encoder,
            tmp_path / "out",
            settings,
            views=1,
            cache=cache,
            watcher=Watcher(epoch=observed.append),
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
    assert (tmp_path / "out" / "log.jsonl").read_text().count("\n") == 2, "an epoch of each stage"
    assert not (tmp_path / "out" / "run").exists()


def test_a_scorer_for_another_encoder_runs_as_torch_says(sample_set, tiny_clip, tmp_path):
    import torch

    from retrieval.encoders import load_encoder
    from retrieval.encoders.openclip import load_openclip
    from retrieval.fusion import own_scorer
    from retrieval.images import decode
    from retrieval.training.export import read_model
    from retrieval.training.model.integer_reader import IntegerReader
    from retrieval.training.run import train_model

    clip, out = load_openclip(str(tiny_clip), "cpu"), tmp_path / "scorer"
    train_model([sample_set], clip, out, one_epoch(), views=3, cache=tmp_path / "cache")
    encoder, (model, embedder) = load_encoder(str(out), "cpu"), read_model(out)
    assert embedder is None and not model.heads.image
    paths = [sample_set.images_dir / image.image for image in sample_set.images]
    prepared = [encoder.prepare(decode(path.read_bytes(), encoder.image_size)) for path in paths]
    own = load_encoder(str(tiny_clip), "cpu")
    found, plain = encoder.encode_images(prepared), own.encode_images(prepared)
    np.testing.assert_array_equal(found.embeddings, plain.embeddings)
    with torch.no_grad():
        cells, whole = torch.from_numpy(plain.tokens.astype(np.float32)), torch.from_numpy(plain.embeddings)
        regions = model.scorer.regions.stored(model.scorer.regions(*model.inputs(cells, whole)))
    assert found.tokens.dtype == np.int8 and found.tokens.shape == (len(paths), 16, 256)
    assert np.abs(found.tokens.astype(int) - regions.numpy()).max() <= 2
    text = encoder.encode_texts(["a cup of coffee"])
    np.testing.assert_array_equal(text.embeddings, own.encode_texts(["a cup of coffee"]).embeddings)
    with torch.no_grad():
        expected = IntegerReader(model.scorer)(torch.from_numpy(text.tokens[0]), torch.from_numpy(found.tokens))
    np.testing.assert_allclose(own_scorer(encoder).fusion(text, found.tokens), expected, atol=1e-2)
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
    from retrieval.training.run import train_model

    train_once(sample_set, tmp_path / "out", tmp_path / "cache")
    clip = load_openclip(str(tiny_clip), "cpu")
    train_model([sample_set], clip, tmp_path / "out", one_epoch(), views=1, cache=tmp_path / "cache")
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
    from retrieval.training.inference import embed
    from retrieval.training.learning.train import train
    from retrieval.training.model.heads import HeadSettings
    from retrieval.training.model.model import ModelSettings
    from retrieval.training.model.regions import RegionSettings

    data, dev = made_up(200), made_up(40, seed=1)
    data, dev = dev_with_whole(data), dev_with_whole(dev)
    shape = ModelSettings(HeadSettings(members=0), RegionSettings(whole=384, dim=32))
    model, history = train(data, dev, np.zeros((0, 384), np.float32), tmp_path, settings(itc=0.0, model=shape))
    np.testing.assert_array_equal(embed(model.inputs, model.heads, dev)[0][0], dev.whole[0].astype(np.float32))
    assert {each.stage for each in history} == {"scorer"} and set(history[0].losses) == {"itm", "lm"}
    assert history[-1].quality > 0.9
    assert history[-1].losses["lm"] < history[0].losses["lm"]


def test_words_are_numbered_that_enough_captions_have():
    from retrieval.training.data.features import FEWEST_TEXTS, number_words

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
    options = [
        "--images",
        photos,
        "--epochs",
        1,
        "--scorer-epochs",
        1,
        "--views",
        1,
        "--cache",
        tmp_path / "cache",
        "--out",
        out,
    ]
    if made_of == "open_clip":
        options += ["--model", request.getfixturevalue("tiny_clip")]
    mine = [tmp_path / name for name in ("model", "cache")]
    run = run_commands([["train", sample_set.source, *options]], tmp_path / "guarded", mine)
    assert run.is_clean, run
    assert (
        ("heads, epoch 1: itc" in run.output) == (made_of == "lite")
        and "scorer, epoch 1: lm" in run.output
        and f"--model {out}" in run.output
    )
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
