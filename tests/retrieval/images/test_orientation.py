"""Pictures are decoded upright."""

from __future__ import annotations

import io
from datetime import datetime

import numpy as np
import pytest
from PIL import Image, ImageOps

from retrieval.images import decode
from tests.retrieval.images.files import (
    ORIENTED,
    assert_shows,
    exif,
    png,
    png_chunk,
    renamed,
    save,
)
from tests.retrieval.images.pictures import (
    OTHER,
    STORED,
    picture,
)

pytestmark = pytest.mark.usefixtures("either_decoder")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", sorted(ORIENTED))
def test_orientation_is_applied_once(format, orientation):
    stored = STORED[orientation](picture())
    assert_shows(save(stored, format, exif=exif(orientation), **ORIENTED[format]), picture(), 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", sorted(ORIENTED))
def test_orientation_is_applied_as_by_exif_transpose(format, orientation):
    content = save(picture(), format, exif=exif(orientation), **ORIENTED[format])
    with Image.open(io.BytesIO(content)) as image:
        assert_shows(content, np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_a_rotation_in_both_container_and_exif_is_applied_once(format, orientation):
    stored = STORED[orientation](picture())
    content = save(stored, format, exif=exif(orientation, other=orientation), **ORIENTED[format])
    assert (b"irot" in content or b"imir" in content) == (orientation > 1)
    assert_shows(renamed(content), picture(), 4)


def turned_by_exif_alone(format, orientation, values):
    content = renamed(save(values, format, exif=exif(other=orientation), **ORIENTED[format]))
    assert b"irot" not in content and b"imir" not in content
    return content


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_avif_is_turned_by_its_container_not_by_exif(orientation):
    assert_shows(turned_by_exif_alone("AVIF", orientation, picture()), picture(), 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_by_its_exif_where_its_container_does_not(orientation):
    stored = STORED[orientation](picture())
    assert_shows(turned_by_exif_alone("HEIF", orientation, stored), picture(), 4)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_heic_is_not_turned_by_an_orientation_that_does_not_exist(orientation):
    assert_shows(turned_by_exif_alone("HEIF", orientation, picture()), picture(), 4)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
@pytest.mark.parametrize("pages", [1, 2])
def test_tiff_is_turned_once_whatever_its_compression_and_pages(compression, pages):
    options = {"save_all": True, "append_images": [Image.fromarray(OTHER)] * (pages - 1)}
    content = save(STORED[6](picture()), "TIFF", exif=exif(6), compression=compression, **options)
    assert_shows(content, picture(), 14)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_in_xmp_counts_where_exif_has_none(format):
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    stored = STORED[6](picture())
    if format == "PNG":
        text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        assert_shows(png(stored, late=text), picture())
    else:
        options = {"tiffinfo": {700: xmp}} if format == "TIFF" else {"xmp": xmp}
        assert_shows(save(stored, format, **ORIENTED[format], **options), picture(), 4)


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("xmp", [b'tiff:Orientation="6"', b"<tiff:Orientation>6 </tiff:Orientation>"])
def test_heic_and_avif_are_not_turned_by_xmp(format, xmp):
    content = save(picture(), format, xmp=b" " * len(xmp), **ORIENTED[format])
    assert_shows(content.replace(b" " * len(xmp), xmp), picture(), 4)


def test_png_exif_after_the_pixels_is_heeded():
    late = png_chunk(b"eXIf", exif(6, "2021:02:03 04:05:06")[6:])
    content = png(STORED[6](picture()), late=late)
    assert_shows(content, picture())
    assert decode(content).taken_at == datetime(2021, 2, 3, 4, 5, 6)


def test_the_first_picture_of_mpo_is_turned():
    content = save(STORED[6](picture()), "MPO", save_all=True, append_images=[Image.fromarray(OTHER)], exif=exif(6))
    assert_shows(content, picture(), 12)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("format", sorted(set(ORIENTED) - {"HEIF", "AVIF"}))
def test_an_orientation_that_does_not_exist_is_passed_over(format, orientation):
    assert_shows(save(picture(), format, exif=exif(orientation), **ORIENTED[format]), picture(), 4)
