"""How small pictures are decoded, and which are too large."""

from __future__ import annotations

import re

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval.images import MAX_PIXELS, TooManyPixels, decode
from tests.retrieval.images.files import (
    VARIANTS,
    animated_webp,
    bmp,
    exif,
    files,
    gif,
    jpeg_claiming,
    png,
    save,
    tiff,
    tiff_with,
)
from tests.retrieval.images.pictures import (
    GREY,
    OTHER,
    picture,
)

pytestmark = pytest.mark.usefixtures("either_decoder")

SIZES = [(1600, 1200, 100), (1600, 1200, 150), (1600, 1200, 300), (1600, 1200, 301), (801, 1203, 50), (813, 641, 20)]


@pytest.mark.parametrize(("width", "height", "min_side"), SIZES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_is_decoded_as_small_as_keeps_twice_at_least(width, height, min_side, orientation):
    content = save(picture(width, height), "JPEG", exif=exif(orientation))
    smaller = max(scale for scale in (1, 2, 4, 8) if min(width, height) >= 2 * min_side * scale)
    shape = (-(-height // smaller), -(-width // smaller))
    pixels = decode(content, min_side).pixels
    assert pixels.shape[:2] == (shape if orientation == 1 else shape[::-1])
    assert min(pixels.shape[:2]) >= 2 * min_side


@pytest.mark.parametrize(("width", "height", "min_side"), SIZES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_width_and_height_are_upright_and_full_however_small_it_is_decoded(width, height, min_side, orientation):
    photo = decode(save(picture(width, height), "JPEG", exif=exif(orientation)), min_side)
    assert (photo.width, photo.height) == ((width, height) if orientation == 1 else (height, width))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": exif(6)}], ids=["baseline", "progressive", "6"]
)
@pytest.mark.parametrize("min_side", [50, 100, 200])
def test_jpeg_decoded_smaller_is_close_to_the_full_picture_resized(min_side, options):
    content = save(picture(1600, 1200), "JPEG", **options)
    small, full = decode(content, min_side).pixels, decode(content).pixels
    assert small.shape < full.shape
    resized = np.asarray(Image.fromarray(full).resize(small.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - resized).max() <= 4


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_modes_is_decoded_smaller_too(mode):
    image = Image.fromarray(picture(1600, 1200)).convert(mode)
    assert decode(save(image, "JPEG"), 100).pixels.shape == (300, 400, 3)


def test_a_picture_smaller_than_asked_for_is_decoded_in_full():
    assert decode(save(picture(), "JPEG"), 500).pixels.shape == (32, 48, 3)


def test_mpo_is_decoded_smaller_too():
    content = save(picture(1600, 1200), "MPO", save_all=True, append_images=[Image.fromarray(OTHER)])
    assert decode(content, 100).pixels.shape == (300, 400, 3)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_decoded_in_full(format):
    assert decode(save(picture(400, 300), format), 20).pixels.shape == (300, 400, 3)


def test_the_thumbnail_in_heic_is_not_taken_for_the_picture():
    content = save(picture(400, 300), "HEIF", thumbnails=[100])
    assert len(pillow_heif.open_heif(content).info["thumbnails"]) == 1
    assert decode(content, 20).pixels.shape == (300, 400, 3)


def test_as_many_pixels_as_the_limit_are_decoded():
    assert decode(save(picture(), "PNG"), max_pixels=48 * 32).width == 48


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_pixel_above_the_limit_is_too_many(variant):
    with pytest.raises(TooManyPixels) as raised:
        decode(files()[variant], max_pixels=48 * 32 - 1)
    assert raised.value.pixels == 48 * 32


def limit_named(message):
    match = re.fullmatch(r"has .* raise it with --max-pixels (\d+)", message)
    assert match is not None
    return int(match[1]) * 10**6


@settings(max_examples=50)
@given(st.integers(1, 10**11), st.integers(1, 10**9))
def test_the_limit_that_the_message_names_is_high_enough(pixels, limit):
    message = str(TooManyPixels(pixels, limit))
    assert len(message.splitlines()) == 1
    assert limit_named(message) >= pixels


@settings(max_examples=50)
@given(st.integers(1, 10**11), st.floats(1, 4))
def test_the_limit_that_the_message_names_is_high_enough_for_formats_that_take_more_memory(pixels, weight):
    message = str(TooManyPixels(pixels, 1, weight))
    assert limit_named(message) >= pixels * weight


def test_the_message_names_megapixels_limit_and_flag():
    assert str(TooManyPixels(100_400_000, MAX_PIXELS)) == (
        "has 101 megapixels to decode, more than the limit of 100: raise it with --max-pixels 101"
    )


BOMBS = {
    "png": lambda: png(picture(), size=(30000, 30000)),
    "png interlaced": lambda: png(picture(), size=(30000, 30000), interlaced=True),
    "gif": lambda: gif((30000, 30000), (30000, 30000)),
    "gif frame": lambda: gif((1, 1), (30000, 30000)),
    "bmp": lambda: bmp(30000, 30000),
    "tiff": lambda: tiff_with(tiff(GREY), ImageWidth=30000, ImageLength=30000),
    "webp": lambda: animated_webp(30000, 30000),
    "jpeg": lambda: jpeg_claiming(30000, 30000),
    "jpeg progressive": lambda: jpeg_claiming(30000, 30000, progressive=True),
}


@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_a_tiny_file_that_claims_to_be_huge_is_refused_before_memory_is_taken(bomb, monkeypatch):
    content = BOMBS[bomb]()

    def take(*arguments):
        raise AssertionError("memory was taken")

    for name in ("new", "fill"):
        monkeypatch.setattr(f"PIL.Image.core.{name}", take)
    with pytest.raises(TooManyPixels) as raised:
        decode(content)
    assert len(content) < 5000 and raised.value.pixels >= 900_000_000


def test_a_large_jpeg_is_judged_by_what_is_decoded():
    content = save(picture(1600, 1200), "JPEG")
    assert decode(content, 100, max_pixels=400 * 300).width == 1600
    with pytest.raises(TooManyPixels) as raised:
        decode(content, 100, max_pixels=400 * 300 - 1)
    assert raised.value.pixels == 400 * 300


def test_a_progressive_jpeg_is_judged_in_full_because_it_is_held_in_full():
    with pytest.raises(TooManyPixels) as raised:
        decode(save(picture(1600, 1200), "JPEG", progressive=True), 100, max_pixels=400 * 300)
    assert raised.value.pixels == 1600 * 1200
