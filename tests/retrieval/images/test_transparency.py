"""On which background transparent pictures are put."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from retrieval.images import decode
from tests.retrieval.images.files import (
    ORIENTED,
    assert_shows,
    png,
    save,
)
from tests.retrieval.images.pictures import (
    ALPHA,
    BILEVEL,
    GREY,
    INDICES,
    PALETTE,
    as_rgb,
    in_palette,
    on_white,
    picture,
    with_alpha,
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"samples": with_alpha(picture())}, on_white(picture(), ALPHA)),
        ({"samples": with_alpha(GREY)}, on_white(as_rgb(GREY), ALPHA)),
        ({"samples": with_alpha(picture()).astype(np.uint16) * 257, "depth": 16}, on_white(picture(), ALPHA)),
        ({"samples": with_alpha(GREY).astype(np.uint16) * 257, "depth": 16}, on_white(as_rgb(GREY), ALPHA)),
        (
            {"samples": INDICES[..., None], "palette": PALETTE, "transparency": bytes(range(96))},
            on_white(PALETTE[INDICES], INDICES),
        ),
        (
            {"samples": INDICES[..., None], "palette": PALETTE, "transparency": b"\xff\xff\0"},
            on_white(PALETTE[INDICES], np.where(INDICES == 2, 0, 255)),
        ),
        ({"samples": INDICES[..., None], "transparency": b"\0\7"}, as_rgb(np.where(INDICES == 7, 255, INDICES))),
        (
            {"samples": INDICES[..., None].astype(np.uint16) * 257, "depth": 16, "transparency": b"\7\7"},
            as_rgb(np.where(INDICES == 7, 255, INDICES)),
        ),
        (
            {"samples": BILEVEL[..., None], "depth": 1, "transparency": b"\0\1"},
            as_rgb(BILEVEL * 255),
        ),
        (
            {"samples": PALETTE[INDICES], "transparency": struct.pack(">3H", *PALETTE[50])},
            on_white(PALETTE[INDICES], np.where(INDICES == 50, 0, 255)),
        ),
    ],
    ids=["rgba", "la", "rgba 16", "la 16", "palette", "palette entry", "grey", "grey 16", "1 bit", "rgb"],
)
def test_transparency_in_png_is_composited_on_white(content, expected):
    assert_shows(png(**content), expected, 1)


@pytest.mark.parametrize("format", ["WEBP", "TIFF", "AVIF", "HEIF"])
def test_alpha_is_composited_on_white(format):
    options = ORIENTED[format] | ({"exact": True} if format == "WEBP" else {})
    assert_shows(save(with_alpha(picture()), format, **options), on_white(picture(), ALPHA), 4)


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_alpha_of_grey_and_palette_tiff_is_composited_on_white(mode):
    image = Image.fromarray(with_alpha(GREY), "LA") if mode == "LA" else in_palette().convert("PA")
    expected = as_rgb(GREY) if mode == "LA" else PALETTE[INDICES]
    image.putalpha(Image.fromarray(ALPHA))
    assert_shows(save(image, "TIFF"), on_white(expected, ALPHA), 1)


def test_transparent_entry_of_gif_is_composited_on_white():
    expected = on_white(PALETTE[INDICES], np.where(INDICES == 40, 0, 255))
    assert_shows(save(in_palette(), "GIF", transparency=40), expected)


# -------------------------------------------------------------------------------------- pictures that would vanish on
# white

DISC = np.hypot(*np.ogrid[-15.5:16, -23.5:24]) < 12
OPAQUE_DISC = np.where(DISC, 255, 0).astype(np.uint8)


def drawing(colour, alpha=OPAQUE_DISC):
    return np.dstack([np.full((32, 48, 3), colour, np.uint8), alpha])


@pytest.mark.parametrize("colour", [(255, 255, 255), (240, 240, 240), (255, 250, 205), (224, 255, 255)], ids=str)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_a_drawing_that_would_vanish_on_white_is_put_on_black(format, colour):
    content = save(drawing(colour), format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    assert_shows(content, np.where(DISC[..., None], colour, 0).astype(np.uint8))


@pytest.mark.parametrize("colour", [(0, 0, 0), (90, 90, 90), (255, 200, 0), (200, 30, 30), (180, 220, 255)], ids=str)
def test_a_drawing_that_shows_on_white_is_put_on_white(colour):
    assert_shows(save(drawing(colour)), np.where(DISC[..., None], colour, 255).astype(np.uint8))


def test_white_in_a_drawing_of_other_colours_leaves_it_on_white():
    values = drawing((200, 30, 30))
    values[10:20, 10:30, :3] = 255
    assert decode(save(values)).pixels[0, 0].tolist() == [255, 255, 255]


def test_a_white_picture_that_is_opaque_stays_as_it_is():
    assert_shows(save(drawing((255, 255, 255), np.full((32, 48), 255, np.uint8))), np.full((32, 48, 3), 255, np.uint8))


def test_white_in_a_palette_with_a_transparent_entry_is_put_on_black():
    image = Image.frombytes("P", (48, 32), DISC.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, 255, 255, 255])
    for format in ("PNG", "GIF"):
        assert_shows(save(image, format, transparency=0), as_rgb(DISC * 255))


def test_white_grey_with_alpha_is_put_on_black():
    assert_shows(png(np.dstack([np.full((32, 48), 255, np.uint8), OPAQUE_DISC])), as_rgb(DISC * 255))


def test_white_on_transparent_in_16_bit_grey_is_put_on_black():
    values = np.where(DISC, 65535, 7).astype(np.uint16)
    assert_shows(png(values[..., None], 16, transparency=b"\0\7"), as_rgb(DISC * 255))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_transparency_that_would_hide_all_of_the_picture_is_passed_over(format):
    assert_shows(save(with_alpha(picture(), np.zeros((32, 48), np.uint8)), format), picture())
