"""JPEG pictures that simplejpeg decodes are those that Pillow decodes, and so are the failures."""

from __future__ import annotations

import io
import time
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from simplejpeg import encode_jpeg

from retrieval.images import TooSlow, UnreadableImage, decode, turbo
from retrieval.images.jpeg import is_baseline
from retrieval.images.turbo import ordinary_pixels
from tests.mutations import mutations
from tests.retrieval.images.files import VARIANTS, cmyk, exif, files, run_python, save, ycck
from tests.retrieval.images.pictures import picture
from tests.retrieval.images.profiles import ADOBE_RGB, rgb_profile

SIZES = [(64, 48), (33, 47), (131, 97), (640, 480), (35, 900), (8, 8), (7, 300)]
SUBSAMPLINGS = [0, 1, 2]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "best": {"quality": 100},
    "poor": {"quality": 5},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "many restarts": {"restart_marker_blocks": 3},
    "turned": {"exif": exif(6, "2021:02:03 04:05:06", "2022:03:04 05:06:07")},
    "mirrored": {"exif": exif(5)},
    "damaged exif": {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"},
    "profile": {"icc_profile": rgb_profile(ADOBE_RGB)},
    "comment": {"comment": b"a dog"},
    "dots": {"dpi": (300, 300)},
}


def noisy(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(-40, 40, (height, width, 3))
    return (picture(width, height) + noise).clip(0, 255).astype(np.uint8)


@cache
def pictures() -> dict[str, bytes]:
    """Colours of every kind, and what is no picture of three colours."""
    pixels = noisy(131, 97)
    plain = save(pixels, "JPEG")
    start = plain.index(b"\xff\xdb")
    return {
        **{f"{name} {kind}": made_up(kind, **options) for kind in SUBSAMPLINGS for name, options in OPTIONS.items()},
        **{f"{width}x{height}": save(noisy(width, height), "JPEG") for width, height in SIZES},
        "4:1:1": encode_jpeg(pixels, colorsubsampling="411"),
        "4:4:0": encode_jpeg(pixels, colorsubsampling="440"),
        "red, green, blue": made_up(0, keep_rgb=True),
        "grey": save(pixels[..., 0], "JPEG"),
        "cmyk": save(cmyk(pixels, 0), "JPEG"),
        "ycck": ycck(pixels),
        "no JFIF": plain[:2] + plain[start:],
        "Adobe, no transform": with_adobe(plain, 0),
        "Adobe, transform": with_adobe(plain, 1),
        "arithmetic coding": plain.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "extended": plain.replace(b"\xff\xc0", b"\xff\xc1", 1),
        "lossless": plain.replace(b"\xff\xc0", b"\xff\xc3", 1),
        "12 bits": plain.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1),
        "no height": plain.replace(b"\xff\xc0\0\x11\x08\0\x61", b"\xff\xc0\0\x11\x08\0\0", 1),
        "two frames": plain[:2] + frame(plain) + plain[2:],
        "no tables": plain[:2] + frame(plain) + plain[plain.index(b"\xff\xda") :],
        "one colour in the first scan": plain.replace(b"\xff\xda\0\x0c\3", b"\xff\xda\0\x0c\1", 1),
        "a scan again": plain[:-2] + plain[plain.index(b"\xff\xda") :],
        "bytes after the end": plain + bytes(1000),
        "another picture after the end": plain + save(255 - pixels, "JPEG"),
        "no end": plain[:-2],
        "no last bytes": plain[:-40],
        "half": plain[: len(plain) // 2],
        "a head alone": plain[: plain.index(b"\xff\xda") + 14],
        "filling": plain[:20] + b"\xff" * 10_000 + plain[20:],
        "zeros between segments": plain[:start] + bytes(50) + plain[start:],
        "zeros before the end": plain[:-2] + bytes(50) + plain[-2:],
        "thousands of segments": plain[:20] + b"\xff\xfe\0\2" * 3000 + plain[20:],
    }  # fmt: skip


def made_up(sampling, **options):
    return save(noisy(131, 97), "JPEG", subsampling=sampling, **options)


def frame(content):
    begin = content.index(b"\xff\xc0")
    return content[begin : begin + 2 + int.from_bytes(content[begin + 2 : begin + 4])]


def with_adobe(content, transform):
    segment = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    return content[:2] + segment + content[content.index(b"\xff\xdb") :]


def outcome(content, min_side):
    """All that `decode` tells."""
    try:
        photo = decode(content, min_side)
    except UnreadableImage as error:
        return type(error), str(error)
    return photo.pixels.shape, photo.pixels.tobytes(), photo.width, photo.height, photo.taken_at, photo.note


@pytest.fixture
def assert_same(monkeypatch):
    """Asserts that a file gives the same both ways, at full size and smaller."""
    real = turbo.decoder

    def check(name, content):
        for min_side in (0, 8, 40):
            outcomes = []
            for decoder in (real, lambda: None):
                monkeypatch.setattr(turbo, "decoder", decoder)
                outcomes.append(outcome(content, min_side))
            assert outcomes[0] == outcomes[1], (name, min_side)

    return check


@pytest.fixture
def taken(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of all pictures that simplejpeg decoded."""
    shapes: list[tuple[int, ...]] = []
    real = turbo.decoder()

    def decode_jpeg(*arguments, **options):
        pixels = real(*arguments, **options)
        shapes.append(pixels.shape)
        return pixels

    monkeypatch.setattr(turbo, "decoder", lambda: decode_jpeg)
    return shapes


def test_every_picture_is_the_same_both_ways(assert_same):
    for name, content in pictures().items():
        assert_same(name, content)


@pytest.mark.parametrize("seed", range(4))
def test_every_damaged_picture_is_the_same_both_ways(assert_same, seed):
    for name, content in mutations(pictures(), 250, seed):
        assert_same(name, content)


def test_other_formats_are_the_same_both_ways(assert_same):
    for name in VARIANTS:
        assert_same(name, files()[name])


@pytest.mark.parametrize("name", ["plain 2", "turned 2", "profile 0", "restarts 1", "no JFIF", "bytes after the end"])
def test_ordinary_pictures_are_decoded_by_simplejpeg(taken, name):
    decode(pictures()[name])
    assert taken == [(97, 131, 3)]


def test_a_picture_is_decoded_at_the_scale_that_is_asked_for(taken):
    content = save(noisy(640, 480), "JPEG")
    assert [decode(content, side).pixels.shape for side in (0, 200, 100, 50, 20)] == taken
    assert taken == [(480, 640, 3), (480, 640, 3), (240, 320, 3), (120, 160, 3), (60, 80, 3)]


@pytest.mark.parametrize("name", ["progressive 2", "grey", "cmyk", "a scan again", "no end", "half", "8x8"])
def test_others_are_left_to_pillow(taken, name):
    decode(pictures()[name])
    assert not taken


def test_a_large_picture_is_left_to_pillow_which_takes_less_memory(taken):
    decode(save(np.zeros((2000, 2001, 3), np.uint8), "JPEG"))
    assert not taken


@pytest.mark.parametrize("name", ["one colour in the first scan", "lossless", "arithmetic coding", "12 bits"])
def test_what_is_no_baseline_picture_is_recognised(name):
    assert is_baseline(pictures()["plain 2"]) and not is_baseline(pictures()[name])


def test_the_end_of_a_file_in_any_place_makes_no_baseline_picture_of_it():
    content = pictures()["plain 2"]
    assert not any(is_baseline(content[:end]) for end in range(content.index(b"\xff\xda") + 5))


def test_a_picture_that_takes_too_long_is_given_up(monkeypatch):
    def decode_slowly(content, *arguments, **options):
        end = time.thread_time() + 0.06
        while time.thread_time() < end:
            pass
        return np.zeros((97, 131, 3), np.uint8)

    monkeypatch.setattr(turbo, "decoder", lambda: decode_slowly)
    with pytest.raises(TooSlow):
        decode(pictures()["plain 2"], max_seconds=0.05)


def test_a_lack_of_memory_passes_through(monkeypatch):
    def decode_jpeg(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(turbo, "decoder", lambda: decode_jpeg)
    with pytest.raises(MemoryError):
        decode(pictures()["plain 2"])


def test_pillow_with_another_jpeg_library_decodes_alone(monkeypatch):
    monkeypatch.setattr("PIL.features.check_feature", lambda name: False)
    assert turbo.decoder.__wrapped__() is None


def test_a_picture_of_another_format_is_not_looked_at():
    with Image.open(io.BytesIO(save(noisy(64, 64), "PNG"))) as image:
        assert isinstance(image, ImageFile.ImageFile) and ordinary_pixels(image) is None


BROKEN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from retrieval.images import decode
print(*decode(Path(sys.argv[2]).read_bytes()).pixels.shape)
"""


def test_a_broken_simplejpeg_costs_no_picture(tmp_path):
    (tmp_path / "simplejpeg").mkdir()
    (tmp_path / "simplejpeg" / "__init__.py").write_text("raise ValueError('numpy.dtype size changed')")
    (tmp_path / "picture.jpg").write_bytes(save(noisy(131, 97), "JPEG"))
    assert run_python(BROKEN, str(tmp_path), str(tmp_path / "picture.jpg")) == ["97", "131", "3"]
