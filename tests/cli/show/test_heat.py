"""How an explanation is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cli.show.heat import draw, overlay
from retrieval.encoders import load_encoder
from retrieval.explain import explain
from retrieval.fusion import load_scorer
from retrieval.samples import gather_samples


def test_heat_is_drawn_where_it_is() -> None:
    grey = Image.new("RGB", (70, 140), (128, 128, 128))
    heat = np.zeros((7, 7), np.float32)
    heat[1, 5] = 1
    drawn = np.asarray(overlay(grey, heat)).astype(int)
    colourful = drawn.max(-1) - drawn.min(-1)
    row, column = np.unravel_index(colourful.argmax(), colourful.shape)
    assert 20 <= row < 40 and 50 <= column < 60
    assert colourful[100:].max() == 0


def test_the_sheet_has_a_panel_for_the_picture_and_each_word(tmp_path: Path) -> None:
    coffee = next(path for path in gather_samples(tmp_path) if path.stem == "coffee")
    encoder = load_encoder("lite", "cpu")
    sheet = draw(explain(encoder, load_scorer(encoder), "a cup of coffee on a table", coffee))
    assert sheet.size[0] > 4 * 240 and sheet.size[1] > 2 * 160
