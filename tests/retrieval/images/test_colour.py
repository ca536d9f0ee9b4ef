"""Colours are converted to sRGB, whichever profile the file has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from retrieval.images import decode
from tests.retrieval.images import profiles
from tests.retrieval.images.files import ORIENTED, assert_shows, cmyk, png, save, tiff
from tests.retrieval.images.pictures import (
    ALPHA,
    GREY,
    INDICES,
    PALETTE,
    as_rgb,
    in_palette,
    on_white,
    picture,
    with_alpha,
)

pytestmark = pytest.mark.usefixtures("either_decoder")

SPACES = {"Display P3": profiles.DISPLAY_P3, "Adobe RGB": profiles.ADOBE_RGB}
# Lossy formats are off by a few levels, and more where a colour is at the edge of sRGB.
TOLERANCES = {"JPEG": 14, "AVIF": 22, "HEIF": 14}
LOSSLESS = ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"]


def expected(space, rgb=None):
    return profiles.to_srgb(picture() if rgb is None else rgb, SPACES[space])


@pytest.mark.parametrize("space", sorted(SPACES))
@pytest.mark.parametrize("format", [*LOSSLESS, "JPEG"])
def test_colours_are_converted_to_srgb_by_the_profile(format, space):
    content = save(picture(), format, icc_profile=profiles.rgb_profile(SPACES[space]), **ORIENTED[format])
    assert np.abs(expected(space) - picture()).max() > 30  # so that an ignored profile is noticed
    assert_shows(content, expected(space), TOLERANCES.get(format, 1))


@pytest.mark.parametrize("space", sorted(SPACES))
def test_colours_of_a_palette_are_converted(space):
    content = save(in_palette(), "PNG", icc_profile=profiles.rgb_profile(SPACES[space]))
    assert_shows(content, expected(space, PALETTE[INDICES]), 2)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_colours_under_transparency_are_converted_and_alpha_is_kept(format):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    content = save(with_alpha(picture()), format, icc_profile=profiles.rgb_profile(profiles.DISPLAY_P3), **options)
    assert_shows(content, on_white(expected("Display P3"), ALPHA), 3)


def test_a_jpeg_decoded_smaller_is_converted_too():
    content = save(picture(1600, 1200), "JPEG", icc_profile=profiles.rgb_profile(profiles.ADOBE_RGB))
    plain = decode(save(picture(1600, 1200), "JPEG"), 100).pixels
    assert np.abs(decode(content, 100).pixels - profiles.to_srgb(plain, profiles.ADOBE_RGB)).max() <= 3


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_greys_are_converted_by_their_profile(gamma):
    linear = (GREY / 255.0) ** gamma
    shown = np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))
    for content in (
        save(GREY, "PNG", icc_profile=profiles.grey_profile(gamma)),
        save(np.uint16(GREY) * 257, "TIFF", icc_profile=profiles.grey_profile(gamma)),
        save(with_alpha(GREY, np.full((32, 48), 255, np.uint8)), "PNG", icc_profile=profiles.grey_profile(gamma)),
    ):
        assert_shows(content, as_rgb(shown), 10)  # at the darkest, where the curve is steep


# Inks that no press has, so that they show only if the profile is used: cyan prints red; magenta and yellow, nothing.
PRESS = profiles.cmyk_profile(
    lambda cyan, magenta, yellow, black: (
        (100 - 40 * cyan) * (1 - black),
        50 * cyan * (1 - black),
        30 * cyan * (1 - black),
    )
)
PRINTED = {0: (230, 103, 95), 1: (255, 255, 255), 2: (255, 255, 255), 3: (0, 0, 0)}


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
@pytest.mark.parametrize("ink", sorted(PRINTED))
def test_inks_are_converted_by_their_profile(format, ink):
    inks = np.zeros((32, 48, 4), np.uint8)
    inks[..., ink] = 255
    content = save(Image.fromarray(inks, "CMYK"), format, icc_profile=PRESS)
    assert_shows(content, np.full((32, 48, 3), PRINTED[ink], np.uint8), 8)


DAMAGED_PROFILES = {
    "of another colour space": profiles.grey_profile(1.0),
    "of inks": PRESS,
    "no profile": b"something else" * 20,
    "cut off": profiles.rgb_profile(profiles.DISPLAY_P3)[:200],
    "empty": b"",
    "wrong offsets": profiles.rgb_profile(profiles.DISPLAY_P3).replace(b"rXYZ", b"rXYZ\xff\xff\xff\xff", 1),
    "of sRGB by its name": profiles.rgb_profile(profiles.SRGB, 2.4, "sRGB IEC61966-2.1"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGED_PROFILES))
@pytest.mark.parametrize("format", LOSSLESS)
def test_a_profile_that_does_not_fit_is_passed_over(format, damage):
    content = save(picture(), format, icc_profile=DAMAGED_PROFILES[damage], **ORIENTED[format])
    assert_shows(content, picture(), 4)


def test_lab_is_shown_as_what_it_is():
    lab = ImageCms.profileToProfile(
        Image.fromarray(picture()), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    shown = np.asarray(lab.convert("RGB"))
    assert_shows(save(lab, "TIFF"), shown, 2)
    assert np.abs(shown.astype(int) - picture()).mean() < 4


RARE_TIFF: dict[str, tuple[Any, dict[str, Any]]] = {
    "planar": (np.moveaxis(picture(), 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    "planar zlib": (
        np.moveaxis(picture(), 2, 0),
        {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"},
    ),
    "planar 16 zlib": (
        np.moveaxis(picture().astype(np.uint16) * 257, 2, 0),
        {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"},
    ),
    "16 zlib predicted": (np.uint16(picture()) * 257, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
    "inks": (np.asarray(cmyk(picture(), 0)), {"photometric": "separated"}),
    "inks of 16 bits": (np.uint16(np.asarray(cmyk(picture(), 0))) * 257, {"photometric": "separated"}),
    "tiles": (picture(), {"photometric": "rgb", "tile": (16, 16)}),
    "tiles zlib": (picture(), {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}),
    "big": (picture(), {"photometric": "rgb", "bigtiff": True}),
    "an unspecified channel": (
        with_alpha(picture(), np.zeros((32, 48), np.uint8)),
        {"photometric": "rgb", "extrasamples": ["unspecified"]},
    ),
    "luma and chroma": (
        np.asarray(Image.fromarray(picture()).convert("YCbCr")),
        {"photometric": "ycbcr", "subsampling": (1, 1)},
    ),
}


@pytest.mark.parametrize("kind", sorted(RARE_TIFF))
@pytest.mark.parametrize("order", ["<", ">"])
def test_rare_kinds_of_tiff_show_the_picture(kind, order):
    if (kind, order) == ("big", ">"):
        pytest.skip("is refused: not known to the decoder")
    samples, options = RARE_TIFF[kind]
    assert_shows(tiff(samples, order, **options), picture(), 4)


def test_a_png_of_many_bits_with_a_profile_is_converted():
    content = png(np.uint16(picture()) * 257, 16)
    with_profile = save(picture(), "PNG", icc_profile=profiles.rgb_profile(profiles.DISPLAY_P3))
    start = with_profile.index(b"iCCP") - 4
    chunk = with_profile[start : start + 12 + int.from_bytes(with_profile[start : start + 4])]
    assert_shows(content[:33] + chunk + content[33:], expected("Display P3"), 2)
