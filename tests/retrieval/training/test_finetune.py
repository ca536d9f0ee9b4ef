"""Training the towers of an open_clip model, on drawn pictures whose colours are their captions."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from indexes.errors import CrosslookError
from retrieval.captions import read_captions
from retrieval.progress import Observer

pytestmark = pytest.mark.torch
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for index in range(40):
        name = list(COLOURS)[index % 4]
        shade = np.array(COLOURS[name]) + np.random.default_rng(index).integers(-15, 16, 3)
        Image.new("RGB", (48, 40), tuple(int(value) for value in shade.clip(0, 255))).save(folder / f"{index}.png")
        split = "dev" if index < 4 else "train"
        lines.append({"image": f"{index}.png", "captions": [f"{name} paint", f"something {name}"], "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(folder / "captions.jsonl", images_dir=folder)


def settings(**changes):
    from retrieval.training.learning.schedule import Schedule
    from retrieval.training.learning.settings import TrainSettings

    defaults = {"epochs": 6, "batch": 12, "captions": 1, "learning_rate": 2e-3, "average": 0.5, "patience": 9}
    return TrainSettings(towers=Schedule(**(defaults | changes)))


def loaded(clip):
    from retrieval.encoders.openclip_loading import load_openclip

    return load_openclip(str(clip), "cpu")


def unfrozen(pictures, clip, out, chosen, **options):
    from retrieval.training.finetune import unfreeze

    return unfreeze([pictures], loaded(clip), out, chosen, **options)


def test_towers_learn_and_are_a_model_of_open_clip(pictures, tiny_clip, tmp_path):
    from retrieval.encoders import load_encoder
    from retrieval.images import decode

    history = unfrozen(pictures, tiny_clip, tmp_path / "out", settings())
    best = max(history, key=lambda epoch: epoch.quality)
    assert history[-1].losses["itc"] < history[0].losses["itc"] and best.dev["text -> image"] >= 0.75
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "log.jsonl",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    encoder, before = load_encoder(str(tmp_path / "out"), "cpu"), load_encoder(str(tiny_clip), "cpu")
    assert encoder.fingerprint != before.fingerprint
    dev = [image for image in pictures.images if image.split == "dev"]
    prepared = [encoder.prepare(decode((pictures.images_dir / image.image).read_bytes())) for image in dev]
    texts = encoder.encode_texts([image.captions[0] for image in dev]).embeddings
    right = (texts @ encoder.encode_images(prepared).embeddings.T).argmax(1) == np.arange(4)
    assert right.mean() >= 0.75  # a random model: 0.25


def test_a_run_that_was_killed_ends_in_the_same_weights(pictures, tiny_clip, tmp_path):
    class Killed(Exception):
        pass

    def kill(epoch):
        if epoch.number == 0:
            raise Killed

    unfrozen(pictures, tiny_clip, tmp_path / "uninterrupted", settings(epochs=2))
    with pytest.raises(Killed):
        unfrozen(pictures, tiny_clip, tmp_path / "part", settings(epochs=2), observer=Observer(epoch=kill))
    unfrozen(pictures, tiny_clip, tmp_path / "part", settings(epochs=2))
    for name in ("open_clip_model.safetensors", "log.jsonl"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()


def test_a_kill_before_the_run_is_cleared_away_is_made_good(pictures, tiny_clip, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def kill(path):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(shutil, "rmtree", kill)
        unfrozen(pictures, tiny_clip, tmp_path / "out", settings(epochs=1))
    unfrozen(pictures, tiny_clip, tmp_path / "out", settings(epochs=1))
    assert not (tmp_path / "out" / "run").exists()
    assert (tmp_path / "out" / "open_clip_model.safetensors").stat().st_mode & 0o077 == 0o044


def test_a_tokenizer_of_the_hub_goes_with_the_weights(pictures, tiny_clip, tmp_path, monkeypatch):
    """open_clip looks for it in the directory."""
    from open_clip.tokenizer import SimpleTokenizer

    from retrieval.training import finetune

    class OfHub(SimpleTokenizer):
        class tokenizer:
            @staticmethod
            def save_pretrained(folder):
                (folder / "tokenizer.json").write_text("{}")

    monkeypatch.setattr(finetune, "HFTokenizer", OfHub)
    encoder = loaded(tiny_clip)
    encoder.tokenizer = OfHub(context_length=16)
    finetune.unfreeze([pictures], encoder, tmp_path / "out", settings(epochs=1))
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_a_model_is_not_overwritten(pictures, tiny_clip):
    with pytest.raises(CrosslookError, match="would be lost"):
        unfrozen(pictures, tiny_clip, tiny_clip, settings())


def test_where_no_image_can_be_read_one_is_named(pictures, tiny_clip, tmp_path):
    images = tuple(replace(image, image="gone.png") if image.split != "dev" else image for image in pictures.images)
    notes: list[str] = []
    with pytest.raises(CrosslookError, match="0 images to train on"):
        unfrozen(
            replace(pictures, images=images),
            tiny_clip,
            tmp_path / "out",
            settings(),
            observer=Observer(note=notes.append),
        )
    assert notes == ["left out: 36 x image is missing: gone.png, gone.png, gone.png, gone.png, gone.png, ..."]


def noting(notes: list[str]) -> Observer:
    return Observer(note=notes.append)


@pytest.fixture
def harmed(pictures, tmp_path):
    """A copy of the pictures, of which some cannot be read, one of them of dev."""
    folder = shutil.copytree(pictures.images_dir, tmp_path / "harmed")
    (folder / "3.png").write_bytes(b"no picture")
    (folder / "7.png").write_bytes(b"")
    (folder / "9.png").unlink()
    return replace(pictures, images_dir=folder)


def test_images_that_cannot_be_read_are_left_out_and_named_once(harmed, tiny_clip, tmp_path):
    notes: list[str] = []
    history = unfrozen(
        harmed, tiny_clip, tmp_path / "out", settings(epochs=3, batch=36), observer=Observer(note=notes.append)
    )
    assert len(history) == 3 and all(np.isfinite(epoch.losses["itc"]) for epoch in history)
    lines = sorted(line for line in notes if line.startswith("left out"))
    assert len(lines) == 3 and lines[1] == "left out: 1 x image is missing: 9.png"
    assert lines[0].endswith("empty: 7.png") and lines[2].endswith("damaged: 3.png")


def test_where_none_of_dev_can_be_read_one_is_named(pictures, tiny_clip, tmp_path):
    folder = shutil.copytree(pictures.images_dir, tmp_path / "harmed")
    for index in range(4):
        (folder / f"{index}.png").write_bytes(b"no picture")
    with pytest.raises(CrosslookError, match="none of the 4 images to choose by can be read"):
        unfrozen(replace(pictures, images_dir=folder), tiny_clip, tmp_path / "out", settings(epochs=1))


@pytest.mark.parametrize(
    "change", ["another folder", "an edited picture", "a picture less", "replaced with its time", "to dev"]
)
def test_a_run_does_not_go_on_with_other_pictures(pictures, tiny_clip, tmp_path, change):
    class Killed(Exception):
        pass

    def kill(epoch):
        raise Killed

    copied = replace(pictures, images_dir=shutil.copytree(pictures.images_dir, tmp_path / "copied"))
    with pytest.raises(Killed):
        unfrozen(copied, tiny_clip, tmp_path / "out", settings(epochs=2), observer=Observer(epoch=kill))
    if change == "another folder":
        copied = pictures
    elif change == "an edited picture":
        os.utime(copied.images_dir / "20.png", ns=(1, 1))
    elif change == "replaced with its time":
        path = copied.images_dir / "20.png"
        status, content = path.stat(), path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "to dev":
        images = tuple(replace(image, split="dev") if image.image == "4.png" else image for image in copied.images)
        copied = replace(copied, images=images)
    else:
        (copied.images_dir / "20.png").unlink()
    with pytest.raises(CrosslookError, match="other settings or data"):
        unfrozen(copied, tiny_clip, tmp_path / "out", settings(epochs=2))


def test_a_run_goes_on_if_a_picture_could_not_be_read_for_a_while(pictures, tiny_clip, tmp_path, monkeypatch):
    from retrieval.captions import content_digest

    class Killed(Exception):
        pass

    def kill(epoch):
        raise Killed

    name = "retrieval.training.data.contents.content_digest"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(name, lambda *image: "" if image[1].image == "20.png" else content_digest(*image))
        unfrozen(pictures, tiny_clip, tmp_path / "out", settings(epochs=2), observer=Observer(epoch=kill))
    assert len(unfrozen(pictures, tiny_clip, tmp_path / "out", settings(epochs=2))) == 2
