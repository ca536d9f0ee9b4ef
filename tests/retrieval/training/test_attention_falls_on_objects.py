"""Does the heat of a word fall on its object? On pictures of two objects, of which the captions do not say where."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from retrieval.captions import read_captions
from retrieval.encoders.lite import LiteEncoder

pytestmark = pytest.mark.torch

COLOURS = {"red": (210, 40, 40), "blue": (40, 60, 210), "green": (40, 160, 60), "yellow": (230, 210, 40)}
SHAPES = ("disc", "square")


def draw(rng):
    """A picture, its caption, and the side of each colour: 0 left, 1 right."""
    picture = Image.new("RGB", (224, 224), tuple(int(value) for value in rng.integers(120, 140, 3)))
    pen = ImageDraw.Draw(picture)
    colours, shapes = rng.permutation(list(COLOURS))[:2], rng.choice(SHAPES, 2)
    for side, (colour, shape) in enumerate(zip(colours, shapes, strict=True)):
        x, y, radius = 56 + 112 * side + rng.integers(-12, 13), rng.integers(60, 165), rng.integers(26, 40)
        box = [int(value) for value in (x - radius, y - radius, x + radius, y + radius)]
        (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill=COLOURS[colour])
    first = int(rng.integers(2))  # either may be named first, so that the order tells nothing
    caption = f"a {colours[first]} {shapes[first]} and a {colours[1 - first]} {shapes[1 - first]}"
    return picture, caption, {str(colour): side for side, colour in enumerate(colours)}


def captioned(folder, count, seed):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    drawn = [draw(rng) for _ in range(count)]
    lines = []
    for index, (picture, caption, _) in enumerate(drawn):
        picture.save(folder / f"{index:03d}.png")
        lines.append(json.dumps({"image": f"{index:03d}.png", "captions": [caption], "split": "train"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return read_captions(folder / "captions.jsonl"), drawn


def test_the_heat_of_a_colour_falls_on_its_object(tmp_path, record_property):
    import torch

    from retrieval.fusion import Evidence
    from retrieval.training.data.features import cached_features
    from retrieval.training.data.towers import LiteTowers
    from retrieval.training.export import Explainer
    from retrieval.training.inference import regions_of
    from retrieval.training.learning.schedule import Schedule
    from retrieval.training.learning.settings import TrainSettings
    from retrieval.training.learning.train import train
    from retrieval.training.model.heads import HeadSettings
    from retrieval.training.model.model import ModelSettings
    from retrieval.training.model.regions import RegionSettings

    encoder = LiteEncoder(device="cpu")
    train_set, _ = captioned(tmp_path / "seen", 200, seed=0)
    new, drawn = captioned(tmp_path / "new", 20, seed=1)
    features = cached_features([train_set], LiteTowers(encoder), tmp_path / "cache", 1)
    held_out = cached_features([new], LiteTowers(encoder), tmp_path / "cache", 1)
    settings = TrainSettings(
        itc=0.0,
        hard=False,  # many captions are the same
        scorer=Schedule(epochs=30, batch=24, captions=1, learning_rate=2e-3, patience=30),
        model=ModelSettings(HeadSettings(ensemble=1, hidden=8, region_dim=8, token_dim=8), RegionSettings(dim=64)),
    )
    model, _ = train(features, held_out, encoder.class_embeddings, tmp_path / "run", settings)
    stored = model.scorer.regions.stored(regions_of(model.inputs, model.scorer, held_out))
    explainer = Explainer(model.scorer)
    right: list[bool] = []
    for image, (_, caption, sides) in enumerate(drawn):
        text = encoder.text_tower.encode([caption])
        with torch.no_grad():
            fusion, lost = (output.numpy() for output in explainer(torch.from_numpy(text.tokens[0]), stored[image]))
        heat = Evidence(float(fusion), float(fusion), lost).heat
        for row, (start, end) in enumerate(encoder.text_tower.spans(caption)):
            if caption[start:end] in sides:
                grid = heat[row].reshape(7, 7)
                right.append((grid[:, :3].sum() > grid[:, 4:].sum()) == (sides[caption[start:end]] == 0))
    share = float(np.mean(right))
    record_property("share of heat on the right object", share)
    print(f"the heat of {len(right)} colour words is on the side of their object in {100 * share:.0f}%")
    assert len(right) == 40
    assert share >= 0.7  # by chance as many with a probability of 0.8%
