"""Which picture of a file with several pictures is shown."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from retrieval.images import decode, frames
from tests.retrieval.images.files import (
    ORIENTED,
    assert_shows,
    save,
)
from tests.retrieval.images.pictures import (
    INDICES,
    OTHER,
    PALETTE,
    in_palette,
    picture,
    with_alpha,
)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "AVIF", "PNG", "MPO", "HEIF"])
def test_of_several_frames_the_first_is_shown(format):
    options = ORIENTED.get("JPEG" if format == "MPO" else format, {})
    first, second = (in_palette(), in_palette().rotate(180)) if format == "GIF" else (picture(), OTHER)
    content = save(first, format, save_all=True, append_images=[Image.fromarray(np.asarray(second))], **options)
    assert_shows(content, PALETTE[INDICES] if format == "GIF" else picture(), 4)


def test_of_several_images_in_heic_the_primary_is_shown():
    content = save(OTHER, "HEIF", save_all=True, append_images=[Image.fromarray(picture())], primary_index=1)
    assert_shows(content, picture(), 12)


# ------------------------------------------------------------------------------------ a first frame that shows nothing

ANIMATED: dict[str, dict[str, Any]] = {
    "GIF": {},
    "PNG": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def animation(format, values, **options):
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in values]
    if format == "GIF":
        images = [image.quantize(64) for image in images]
    return save(images[0], format, save_all=True, append_images=images[1:], **ANIMATED[format], **options)


def plain(value):
    return np.full((32, 48, 3), value, np.uint8)


@pytest.mark.parametrize("format", sorted(ANIMATED))
@pytest.mark.parametrize("before", [[0], [255], [0, 3, 9], [(200, 30, 30), 128]], ids=str)
def test_frames_of_one_colour_before_the_first_picture_are_passed_over(format, before):
    content = animation(format, [*map(plain, before), picture(), OTHER])
    assert_shows(content, picture(), 48 if format == "GIF" else 4)


@pytest.mark.parametrize("format", sorted(ANIMATED))
def test_an_animation_of_plain_frames_shows_its_first(format):
    assert_shows(animation(format, [plain(40), plain(50), plain(60)]), plain(40), 4)


def test_frames_that_are_nearly_of_one_colour_are_passed_over():
    noisy = plain(20) + np.random.default_rng(0).integers(0, 9, (32, 48, 3)).astype(np.uint8)
    assert_shows(animation("WEBP", [noisy, picture()]), picture())


def test_a_transparent_first_frame_is_passed_over():
    empty = np.zeros((32, 48, 4), np.uint8)
    assert_shows(animation("PNG", [empty, with_alpha(picture(), np.full((32, 48), 255, np.uint8))]), picture())


def test_of_frames_only_so_many_are_looked_at(monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAMES", 4)
    before = [plain(value) for value in (0, 1, 2, 3)]
    assert_shows(animation("PNG", [*before[:3], picture()]), picture())
    assert_shows(animation("PNG", [*before, picture()]), plain(0))


def test_of_large_frames_only_the_first_is_looked_at(monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAME_PIXELS", 48 * 32 - 1)
    assert_shows(animation("PNG", [plain(0), picture()]), plain(0))


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("format", ["GIF", "PNG"])
def test_damage_after_a_plain_first_frame_leaves_a_frame(format, share):
    content = animation(format, [plain(40), *[OTHER] * 3])
    assert decode(content[: int(len(content) * share)]).pixels.shape == (32, 48, 3)


def pages(*samples):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for page, kind in samples:
            writer.write(page, photometric="rgb", subfiletype=kind, metadata=None)
    return buffer.getvalue()


def test_a_blank_first_page_is_passed_over():
    assert_shows(pages((plain(255), 0), (picture(), 0)), picture())


def test_a_thumbnail_before_the_page_is_passed_over():
    photo = decode(pages((OTHER[::4, ::4], 1), (picture(), 0)))
    assert (photo.width, photo.height) == (48, 32)
    assert np.array_equal(photo.pixels, picture())


def test_a_file_of_thumbnails_shows_the_first():
    assert_shows(pages((picture(), 1), (OTHER, 1)), picture())
