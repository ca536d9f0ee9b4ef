"""Training towers as on a GPU, against training them step by step in float32."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.captions import CaptionSet, read_captions
from retrieval.progress import Epoch, Observer
from tests.retrieval.training.accelerated import IN_FLOAT32, accelerate

pytestmark = pytest.mark.torch
COUNT = 40


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise of many sizes, of which one picture is damaged."""
    folder, lines = tmp_path_factory.mktemp("pictures"), []
    for index in range(COUNT):
        pixels = np.random.default_rng(index).integers(0, 256, (60 + 3 * index, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
        split = "dev" if index < 6 else "train"
        lines.append({"image": f"{index}.jpg", "captions": [f"picture {index}", f"noise {index % 4}"], "split": split})
    (folder / "20.jpg").write_bytes(b"no picture")
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(folder / "captions.jsonl", images_dir=folder)


def unfrozen(pictures: CaptionSet, clip: Path, out: Path, cache: Path, observer: Observer | None = None) -> list[Epoch]:
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.training.finetune import unfreeze
    from retrieval.training.learning.schedule import Schedule
    from retrieval.training.learning.settings import TrainSettings

    schedule = Schedule(epochs=3, batch=12, captions=1, learning_rate=1e-3, average=0.5, patience=9)
    chosen = TrainSettings(towers=schedule)
    encoder = load_openclip(str(clip), "cpu")
    return unfreeze([pictures], encoder, out, chosen, cache=cache, observer=observer or Observer())


def weights(out):
    return (out / "open_clip_model.safetensors").read_bytes()


def counted(monkeypatch):
    """A list of the numbers of pictures decoded."""
    from retrieval.training.data.photos import photo_of

    names = []

    def counting(captions, image, side):
        names.append(image.image)
        return photo_of(captions, image, side)

    monkeypatch.setattr("retrieval.training.data.photo_batches.photo_of", counting)
    return names


def test_photos_in_advance_and_kept_ones_change_not_a_bit(pictures, tiny_clip, tmp_path, monkeypatch):
    notes: list[str] = []
    decoded = counted(monkeypatch)
    history = unfrozen(pictures, tiny_clip, tmp_path / "plain", tmp_path / "cache", Observer(note=notes.append))
    assert len([name for name in decoded if name == "30.jpg"]) > 1 and not (tmp_path / "cache").exists()
    decoded.clear()
    accelerate(monkeypatch, **IN_FLOAT32)
    again: list[str] = []
    assert history == unfrozen(pictures, tiny_clip, tmp_path / "ahead", tmp_path / "cache", Observer(note=again.append))
    assert weights(tmp_path / "ahead") == weights(tmp_path / "plain")
    assert [line for line in again if "20.jpg" in line] == [line for line in notes if "20.jpg" in line] != []
    if hasattr(os, "pread"):
        training = [name for name in decoded if name != "20.jpg" and int(name.split(".")[0]) >= 6]
        assert len(training) == len(set(training)), "only the first epoch decodes"
    assert list((tmp_path / "cache").iterdir()) == []


def test_in_16_bits_towers_learn_and_go_on_where_they_were(pictures, tiny_clip, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def kill(epoch):
        if epoch.number == 1:
            raise Killed

    plain = unfrozen(pictures, tiny_clip, tmp_path / "plain", tmp_path / "cache")
    with monkeypatch.context() as patched:
        accelerate(patched)
        history = unfrozen(pictures, tiny_clip, tmp_path / "half", tmp_path / "cache")
        for name in ("part", "to the processor"):
            with pytest.raises(Killed):
                unfrozen(pictures, tiny_clip, tmp_path / name, tmp_path / "cache", Observer(epoch=kill))
        assert unfrozen(pictures, tiny_clip, tmp_path / "part", tmp_path / "cache") == history
    assert weights(tmp_path / "part") == weights(tmp_path / "half") != weights(tmp_path / "plain")
    continued = unfrozen(pictures, tiny_clip, tmp_path / "to the processor", tmp_path / "cache")
    for one, other in zip(plain, continued, strict=True):
        assert other.losses["itc"] == pytest.approx(one.losses["itc"], rel=0.05)
    assert continued[:2] == history[:2] and continued[2].losses != history[2].losses


def test_activations_computed_twice_give_the_same_weights(pictures, tiny_clip, tmp_path, monkeypatch):
    import torch

    from retrieval.training.learning.towers_stage import TowersStage

    history = unfrozen(pictures, tiny_clip, tmp_path / "plain", tmp_path / "cache")
    real, calls = TowersStage.losses, []

    def losses(stage, batch):
        calls.append(stage)
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(stage, batch)

    monkeypatch.setattr(TowersStage, "losses", losses)
    again = unfrozen(pictures, tiny_clip, tmp_path / "sparing", tmp_path / "cache")
    assert calls[0].module.visual.transformer.grad_checkpointing and not calls[0].spare_memory()
    for one, other in zip(history, again, strict=True):
        assert other.losses["itc"] == pytest.approx(one.losses["itc"], rel=1e-4)


def test_memory_that_is_short_for_loading_is_spared_by_computing(pictures, tiny_clip, tmp_path, monkeypatch):
    import torch

    from retrieval.training.learning.towers_stage import TowersStage

    accelerate(monkeypatch, **IN_FLOAT32)
    history = unfrozen(pictures, tiny_clip, tmp_path / "plain", tmp_path / "cache")
    real, stages = TowersStage.load, []

    def load(stage, drawn):
        stages.append(stage)
        if len(stages) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(stage, drawn)

    monkeypatch.setattr(TowersStage, "load", load)
    again = unfrozen(pictures, tiny_clip, tmp_path / "sparing", tmp_path / "cache")
    assert stages[0].module.visual.transformer.grad_checkpointing
    for one, other in zip(history, again, strict=True):
        assert other.losses["itc"] == pytest.approx(one.losses["itc"], rel=1e-4)


def test_views_of_large_photos_are_made_before_they_are_sent(tiny_clip, sample_set, monkeypatch):
    import torch

    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.training import accelerator
    from retrieval.training.data import photo_batches
    from retrieval.training.data.decoded import DecodedPhotos

    encoder, numbers = load_openclip(str(tiny_clip), "cpu"), range(6)
    images = [(sample_set, image) for image in sample_set.images[:6]]

    def loaded():
        batch = photo_batches.PhotoLoader(encoder, images, DecodedPhotos(None)).load(numbers, np.arange(6))
        assert batch.pixels is not None
        return batch.pixels

    by_pillow = loaded()
    accelerate(monkeypatch)
    sent, real = [], accelerator.staging

    def staging(size):
        sent.append(size)
        return real(size)

    monkeypatch.setattr(accelerator, "staging", staging)
    torch.testing.assert_close(loaded(), by_pillow, atol=0.1, rtol=0)
    monkeypatch.setattr(photo_batches, "LARGEST", 0)
    assert torch.equal(loaded(), by_pillow)
    squares = 6 * encoder.image_size**2 * 3
    assert sent[0] > squares and sent[1] == squares


def test_what_the_device_normalises_is_what_the_model_prepares(tiny_clip, sample_set):
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.images import decode
    from retrieval.training.data.decoded import DecodedPhotos
    from retrieval.training.data.photo_batches import PhotoLoader
    from retrieval.training.data.towers import OpenClipTransform
    from retrieval.training.data.views import RANDOM, view

    encoder = load_openclip(str(tiny_clip), "cpu")
    images = [(sample_set, image) for image in sample_set.images[:5]]
    batch = PhotoLoader(encoder, images, DecodedPhotos(None)).load(range(5), np.arange(5))
    assert batch.pixels is not None and batch.rows == list(range(5))
    for number, (captions, image) in enumerate(images):
        assert captions.images_dir is not None
        photo = decode((captions.images_dir / image.image).read_bytes(), encoder.image_size)
        expected = view(photo, RANDOM, OpenClipTransform(encoder), np.random.default_rng(number))
        np.testing.assert_array_equal(batch.pixels[number].numpy(), expected)
