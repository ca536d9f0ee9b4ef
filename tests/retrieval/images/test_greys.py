"""Grey values of many bits become 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.images import decode
from tests.retrieval.images.files import (
    assert_shows,
    png,
    tiff,
    tiff_with,
)
from tests.retrieval.images.pictures import (
    GREY,
    as_rgb,
    picture,
)


def test_sixteen_bit_greys_are_scaled_not_clipped():
    values = np.arange(65536, dtype=np.uint16).reshape(1024, 64)
    assert_shows(png(values[..., None], 16), as_rgb(np.rint(values / 257)))


def test_floats_from_0_to_1_keep_their_brightness():
    values = np.float32(GREY) / 255 * 0.25 + 0.5
    assert_shows(tiff(values), as_rgb(np.rint(values * 255)), 1)


@pytest.mark.parametrize("values", [GREY * np.float32(1e4) - 7, GREY * np.float32(1e36) - np.float32(1e38)])
def test_floats_of_another_range_are_stretched(values):
    assert_shows(tiff(values), as_rgb(GREY), 1)


def test_32_bit_integers_are_stretched_even_when_they_differ_little():
    assert_shows(tiff(np.int32(GREY) + 2**30), as_rgb(GREY))


def test_32_bit_integers_of_8_bit_values_are_not_black():
    assert_shows(tiff(np.int32(GREY)), as_rgb(GREY))


@pytest.mark.filterwarnings("error")
def test_not_a_number_is_black_and_infinities_are_extremes():
    values = GREY.astype(np.float32) * 2
    values[:3, 0] = np.nan, np.inf, -np.inf
    values[3, 0] = np.uint32(0x7FA00000).view(np.float32)  # a signalling NaN
    expected = GREY.copy()
    expected[:4, 0] = 0, 255, 0, 0
    assert_shows(tiff(values), as_rgb(expected))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, 1, -5, 70000, 3e38, 1e-45, np.nan, np.inf, -np.inf])
def test_constant_floats_become_one_grey(value):
    assert np.ptp(decode(tiff(np.full((8, 8), value, np.float32))).pixels) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, -5, 2**31 - 1, -(2**31)])
def test_constant_integers_become_one_grey(value):
    assert np.ptp(decode(tiff(np.full((8, 8), value, np.int32))).pixels) == 0


@pytest.mark.filterwarnings("error")
@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32), min_size=4, max_size=4))
def test_floats_of_any_value_neither_fail_nor_warn(values):
    assert decode(tiff(np.array(values, np.float32).reshape(2, 2))).pixels.shape == (2, 2, 3)


# ------------------------------------------------------------------------------- fewer bits than the file has room for


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "TIFF zlib"])
def test_greys_of_fewer_bits_in_16_keep_their_brightness(format, bits):
    values = np.rint(GREY / 255.0 * (2**bits - 1)).astype(np.uint16)
    if format == "PNG":
        content = png(values[..., None], 16)
    else:
        content = tiff(values, compression="zlib" if "zlib" in format else None)
    assert_shows(content, as_rgb(GREY))


def test_greys_packed_into_12_bits_keep_their_brightness():
    values = (GREY.astype(np.uint16) * 8)[..., None]  # the upper half of the range is empty, and stays so
    planes = (values >> np.arange(12)[::-1]) & 1
    packed = np.packbits(planes.reshape(32, -1).astype(bool), axis=1)
    content = tiff_with(tiff(packed), ImageWidth=48, BitsPerSample=12)
    assert_shows(content, as_rgb(np.rint(GREY * (8 * 255 / 4095))))


def test_the_largest_value_that_a_tiff_names_is_white():
    values = np.uint16(GREY) * 10
    content = tiff(values, extratags=[(281, "H", 1, 3000, True)])
    assert_shows(content, as_rgb(np.rint(GREY * (10 * 255 / 3000))), 1)


def test_a_largest_value_that_is_not_true_is_passed_over():
    assert_shows(tiff(np.uint16(GREY) * 257, extratags=[(281, "H", 1, 255, True)]), as_rgb(GREY))


@pytest.mark.parametrize("bits", [12, 14])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_fewer_bits_in_16_are_not_nearly_black(bits, alpha):
    values = picture().astype(np.uint16) << (bits - 8)
    if alpha:
        values = np.dstack([values, np.full((32, 48), 65535, np.uint16)])
    assert_shows(png(values, 16), picture(), 2 ** (16 - bits))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("samples", "photometric"),
    [
        (65535 - np.uint16(GREY) * 257, "miniswhite"),
        (255 - GREY, "miniswhite"),
        (np.uint32(GREY) << 24, "minisblack"),
        ((GREY.astype(int) - 128).astype(np.int8), "minisblack"),
        (1 - np.float32(GREY) / 255, "miniswhite"),
    ],
    ids=["white is zero, 16 bits", "white is zero", "unsigned 32 bits", "signed 8 bits", "white is zero, float"],
)
def test_greys_of_rarer_kinds_are_not_negative(samples, photometric, compression):
    assert_shows(tiff(samples, "<", photometric, compression=compression), as_rgb(GREY), 1)
