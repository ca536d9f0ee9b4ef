"""Kinds of files that Pillow decodes wrongly are corrected, or refused with a reason."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.retrieval.images.files import assert_shows, assert_unreadable, tiff, tiff_with
from tests.retrieval.images.pictures import ALPHA, GREY, as_rgb, picture


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_separate_16_bit_colours_without_compression_is_refused(order):
    samples = np.moveaxis(picture().astype(np.uint16) * 257, 2, 0)
    assert "separate colours of 16 bits" in assert_unreadable(tiff(samples, order, "rgb", planarconfig="separate"))


def test_a_tiff_of_subsampled_colours_without_compression_is_refused():
    samples = np.zeros((32, 48, 3), np.uint8)
    content = tiff_with(tiff(samples, "<", "ycbcr", subsampling=(2, 2)), StripByteCounts=48 * 32 * 3 // 2)
    assert "subsampled" in assert_unreadable(content)


@pytest.mark.parametrize(
    "samples",
    [
        np.float32(picture()) / 255,
        np.uint32(picture()),
        np.float16(GREY),
        np.float64(GREY),
        np.int64(GREY),
        np.complex64(GREY),
        np.dstack([picture(), picture()[..., :2]]),
    ],
    ids=["float colours", "32-bit colours", "half", "double", "long", "complex", "five channels"],
)
def test_a_tiff_that_the_decoder_does_not_know_is_refused(samples):
    photometric = "rgb" if samples.shape[-1] == 3 else "minisblack"
    options = {"planarconfig": "contig"} if samples.shape[-1] == 5 else {}
    assert "is a TIFF file" in assert_unreadable(tiff(samples, "<", photometric, **options))


# ------------------------------------------------------------------------------------------------------------- PSD

INDEXED, RGB, CMYK, GREYSCALE = 2, 3, 4, 1


def psd(samples, mode, resources=b"", depth=8, packed=False):
    """A PSD file with nothing but the merged picture of its layers. samples: [channels, h, w]."""
    channels, height, width = samples.shape
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, channels, height, width, depth, mode)
    if packed:
        lines = [bytes((width - 1,)) + row.tobytes() for row in samples.reshape(-1, width)]
        body = struct.pack(">H", 1) + b"".join(struct.pack(">H", len(line)) for line in lines) + b"".join(lines)
    else:
        body = b"\0\0" + samples.tobytes()
    return head + bytes(4) + struct.pack(">I", len(resources)) + resources + bytes(4) + body


PLANES = np.ascontiguousarray(np.moveaxis(picture(), 2, 0))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("samples", "mode", "shown"),
    [
        (PLANES, RGB, picture()),
        (GREY[None], GREYSCALE, as_rgb(GREY)),
        (np.concatenate([PLANES, np.full((1, 32, 48), 255, np.uint8)]), CMYK, picture()),  # inks are stored inverted
        (np.concatenate([PLANES, ALPHA[None]]), RGB, picture()),  # a mask that some selection left
        (np.concatenate([PLANES, PLANES]), RGB, picture()),
        (np.stack([GREY, ALPHA]), GREYSCALE, as_rgb(GREY)),
        (np.concatenate([PLANES, np.full((1, 32, 48), 255, np.uint8), ALPHA[None]]), CMYK, picture()),
    ],
    ids=["colours", "grey", "inks", "a mask", "masks", "grey and mask", "inks and mask"],
)
def test_psd_shows_the_picture_of_its_layers_together(samples, mode, shown, packed):
    assert_shows(psd(samples, mode, packed=packed), shown, 1)


def version_info(has_picture):
    body = struct.pack(">IB", 1, has_picture) + bytes(12)
    return b"8BIM" + struct.pack(">H2xI", 1057, len(body)) + body + bytes(len(body) % 2)


def test_a_psd_without_a_picture_of_its_layers_together_is_refused():
    assert_shows(psd(PLANES, RGB, version_info(True)), picture())
    assert "maximum compatibility" in assert_unreadable(psd(np.full_like(PLANES, 255), RGB, version_info(False)))


@pytest.mark.parametrize(("mode", "depth"), [(RGB, 16), (RGB, 32), (7, 16), (99, 8)])
def test_a_psd_of_many_bits_is_refused(mode, depth):
    samples = np.repeat(PLANES, depth // 8, axis=2)[..., : 48 * depth // 8]
    assert "is a PSD file" in assert_unreadable(psd(samples, mode, depth=depth))
