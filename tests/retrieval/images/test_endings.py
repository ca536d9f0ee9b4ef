"""Which endings are read, and which are recognised as those of pictures that are not read."""

from __future__ import annotations

import importlib.util

import pytest
from PIL import Image

from retrieval.images import ENDINGS, RAW_ENDINGS, RECOGNISED, UnreadableImage, decode, formats
from tests.retrieval.images.files import (
    ORIENTED,
    VARIANTS,
    assert_shows,
    assert_unreadable,
    exif,
    files,
    run_python,
    save,
)
from tests.retrieval.images.pictures import GREY, OTHER, STORED, as_rgb, picture


def test_every_ending_is_one_word_in_lower_case_with_its_dot():
    for ending in ENDINGS | RECOGNISED:
        assert ending.startswith(".") and ending[1:].isalnum() and ending == ending.lower()


def test_no_ending_is_both_read_and_passed_over():
    assert not ENDINGS & RECOGNISED
    assert RAW_ENDINGS <= ENDINGS


def test_the_endings_that_pillow_knows_of_the_formats_read_are_read():
    Image.init()
    formats_read = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PSD", "AVIF", "HEIF", "JPEG2000"}
    known = {ending for ending, format in Image.registered_extensions().items() if format in formats_read}
    assert known - ENDINGS == set()


@pytest.mark.parametrize("ending", [".mpo", ".apng", ".pjpeg", ".pjp", ".jp2", ".j2k", ".psd", ".cr3", ".dng", ".hif"])
def test_endings_of_pictures_that_people_have_are_read(ending):
    assert ending in ENDINGS


@pytest.mark.parametrize("ending", [".svg", ".mov", ".mp4", ".exr", ".tga", ".psb", ".xcf", ".eps", ".avi"])
def test_endings_of_pictures_and_videos_that_are_not_read_are_recognised(ending):
    assert ending in RECOGNISED


@pytest.mark.parametrize("ending", [".txt", ".pdf", ".json", ".xmp", ".aae", ".zip", ".db", ".ini", ".mp3", ""])
def test_endings_of_what_is_no_picture_are_neither(ending):
    assert ending not in ENDINGS | RECOGNISED


def test_jpeg_xl_is_read_where_the_plug_in_is_there_and_recognised_where_not():
    program = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (sys.argv[1] == "yes" or None) if name == "pillow_jxl" else find(name)
from retrieval.images import ENDINGS, RECOGNISED
print(".jxl" in ENDINGS, ".jxl" in RECOGNISED, "pillow_jxl" in sys.modules)
"""
    assert run_python(program, "yes") == ["True", "False", "False"]
    assert run_python(program, "no") == ["False", "True", "False"]


# ------------------------------------------------------------------------------------------------ what the bytes tell


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_format_is_told_by_the_first_bytes(variant):
    names = {"mpo": "JPEG", "heic": "HEIF"}
    word = variant.split()[0]
    assert formats.formats(files()[variant]) == (names.get(word, word.upper()),)


@pytest.mark.parametrize("brand", [b"heix", b"hevc", b"heim", b"mif1"])
def test_heic_is_told_by_any_of_its_brands(brand):
    content = save(picture(), "HEIF")
    assert formats.formats(content[:8] + brand + content[12:]) == ("HEIF",)


def test_a_video_is_not_taken_for_a_picture():
    assert formats.formats(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100)) == ()


# --------------------------------------------------------------------------------------------------------- JPEG 2000

LOSSLESS = {"irreversible": False}


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}, {"tile_size": (16, 16)}], ids=str)
def test_jpeg_2000_shows_exactly_the_picture(options):
    assert_shows(save(picture(), "JPEG2000", **LOSSLESS, **options), picture())
    assert_shows(save(GREY, "JPEG2000", **LOSSLESS, **options), as_rgb(GREY))


def test_jpeg_2000_of_16_bits_shows_the_picture():
    image = Image.fromarray(GREY.astype("uint16") * 257)
    assert_shows(save(image, "JPEG2000", **LOSSLESS), as_rgb(GREY), 1)


@pytest.mark.parametrize("min_side", [20, 40, 75])
@pytest.mark.parametrize("levels", [1, 3, 6])
def test_jpeg_2000_is_decoded_as_small_as_its_levels_and_the_bound_allow(min_side, levels):
    content = save(picture(801, 603), "JPEG2000", num_resolutions=levels)
    photo = decode(content, min_side)
    smaller = 2 ** (levels - 1)
    while 603 // smaller < 2 * min_side:
        smaller //= 2
    assert photo.pixels.shape[:2] == (-(-603 // smaller), -(-801 // smaller))
    assert (photo.width, photo.height) == (801, 603)


# ----------------------------------------------------------------------------------------------------------- JPEG XL

needs_jxl = pytest.mark.skipif(importlib.util.find_spec("pillow_jxl") is None, reason="without the plug-in of JPEG XL")


def jxl(values, **options):
    importlib.import_module("pillow_jxl")
    return save(values, "JXL", **options)


def test_jpeg_xl_without_the_plug_in_names_it(monkeypatch):
    monkeypatch.setattr("retrieval.images.opening.find_spec", lambda name: None)
    assert "crosslook[jxl]" in assert_unreadable(b"\xff\x0a" + bytes(60))


@needs_jxl
def test_jpeg_xl_shows_the_picture():
    assert_shows(jxl(picture(), lossless=True), picture())
    assert_shows(jxl(picture(), quality=95), picture(), 16)


@needs_jxl
@pytest.mark.parametrize("size", [(48, 32), (256, 256), (8, 8), (1600, 1200), (1000, 3), (4096, 2304), (777, 999)])
def test_the_size_of_jpeg_xl_is_known_before_it_is_decoded(size):
    from retrieval.images.sizes import size_in_head

    claimed = size_in_head(jxl(picture(*size), lossless=True, effort=1), "JXL", 0)
    assert claimed is not None and (claimed.width, claimed.height) == size


@needs_jxl
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_jpeg_xl_made_of_a_jpeg_file_is_upright(orientation, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(save(STORED[orientation](picture()), "JPEG", exif=exif(orientation), **ORIENTED["JPEG"]))
    importlib.import_module("pillow_jxl")
    with Image.open(path) as image:
        assert_shows(save(image, "JXL", lossless_jpeg=True), picture(), 8)


@needs_jxl
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_jpeg_xl_that_lacks_its_end_is_unreadable(share):
    content = jxl(OTHER, lossless=True)
    with pytest.raises(UnreadableImage):
        decode(content[: int(len(content) * share)])
