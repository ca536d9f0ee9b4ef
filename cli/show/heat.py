"""Draws the heat of each word over a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from retrieval.explain import Explanation

PANEL = 240  # pixels, the longer side of a panel's picture
TITLE, GAP, ACROSS = 28, 8, 4
COLOURS = np.array([[13, 8, 135], [156, 23, 158], [237, 121, 83], [240, 249, 33]], np.float64)  # cold to hot


def draw(explanation: Explanation) -> Image:
    """The picture, and beside it a copy for each word with the heat of that word. All copies share one colour scale, on
    which yellow is the hottest."""
    from PIL import Image, ImageDraw, ImageFont

    photo = Image.fromarray(explanation.photo.pixels)
    scale = PANEL / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    small = photo.resize(size, Image.Resampling.BICUBIC)
    hottest = max(float(explanation.heat.max()), 1e-12)
    panels = [(f"match {100 * explanation.match:.0f}%", small)]
    panels += [
        (word, overlay(small, heat / hottest)) for word, heat in zip(explanation.words, explanation.heat, strict=True)
    ]
    rows = -(-len(panels) // ACROSS)
    across = min(ACROSS, len(panels))
    wide, high = max(size[0], 100) + GAP, size[1] + TITLE + GAP
    sheet = Image.new("RGB", (across * wide + GAP, rows * high + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for number, (title, picture) in enumerate(panels):
        left, top = GAP + number % across * wide, GAP + number // across * high
        while font.getlength(title) > wide - GAP:
            title = title.rstrip("…")[:-1] + "…"
        pen.text((left, top + 2), title, fill="black", font=font)
        sheet.paste(picture, (left, top + TITLE))
    return sheet


def overlay(picture: Image, heat: NDArray[np.floating]) -> Image:
    """A picture under a map of heat, [rows, columns] from 0 to 1, resized smoothly to it. Without heat it is grey."""
    from PIL import Image

    grid = Image.fromarray(np.asarray(heat, np.float32))
    smooth = np.asarray(grid.resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float64)
    places = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(smooth, places, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    share = 0.75 * np.sqrt(smooth)[..., None]
    return Image.fromarray(((1 - share) * grey + share * colour).round().astype(np.uint8))
