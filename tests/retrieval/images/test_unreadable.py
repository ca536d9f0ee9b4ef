"""Files that cannot be decoded, and the reasons given."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFile

from retrieval.images import UnreadableImage, decode, decoding, opening
from retrieval.images import exif as exif_module
from tests.retrieval.images.files import (
    VARIANTS,
    assert_shows,
    assert_unreadable,
    files,
    save,
)
from tests.retrieval.images.pictures import (
    picture,
)


def failing(error):
    def fail(*arguments, **options):
        raise error

    return fail


def test_an_empty_file_is_said_to_be_empty():
    assert assert_unreadable(b"") == "is empty"


@pytest.mark.parametrize(
    "content",
    [b"\0", b"\0" * 5000, b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"PK\3\4" + bytes(60)],
)
def test_what_is_no_image_is_unreadable(content):
    assert "is not an image in a known format" in assert_unreadable(content)


@pytest.mark.parametrize("format", ["PPM", "TGA", "PCX", "ICO", "EPS", "SGI", "DDS"])
def test_formats_that_only_pillow_knows_are_unreadable(format):
    assert "is not an image in a known format" in assert_unreadable(save(picture(), format))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_bytes_alone_are_unreadable(variant):
    for length in range(1, 40):
        assert_unreadable(files()[variant][:length])


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("one\ntwo  \x0b three\n"), "one two three"), (ValueError("\n"), "ValueError"), (OSError(), "OSError")],
)
def test_the_reason_is_one_line_whatever_the_decoder_says(error, reason, monkeypatch):
    monkeypatch.setattr(decoding, "to_srgb", failing(error))
    assert assert_unreadable(save(picture(), "PNG")) == f"is damaged: {reason}"


PASSING = [
    MemoryError(),
    ImportError("libwebp.so: cannot open shared object file: Too many open files"),
    *(OSError(number, "at this moment") for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)),
    *(OSError(number, "at this moment") for number in (errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
@pytest.mark.parametrize("function", ["opening.open_with", "opening.import_module", "decoding.to_srgb", "exif.tag"])
def test_what_passes_is_let_through_and_is_not_taken_for_a_fault_of_the_file(error, function, monkeypatch):
    module, name = function.split(".")
    content = save(picture(), "PNG")
    monkeypatch.setattr({"opening": opening, "decoding": decoding, "exif": exif_module}[module], name, failing(error))
    with pytest.raises(type(error)) as raised:
        decode(content)
    assert raised.value is error


@pytest.mark.parametrize("error", PASSING, ids=repr)
@pytest.mark.usefixtures("by_pillow")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_what_passes_while_pixels_are_loaded_is_let_through(error, format, monkeypatch):
    content = save(picture(), format)
    monkeypatch.setattr(ImageFile.ImageFile, "load", failing(error))
    with pytest.raises(type(error)):
        decode(content)


def test_memory_that_is_not_there_is_no_fault_of_the_file(monkeypatch):
    content = save(picture(), "PNG")
    monkeypatch.setattr("PIL.Image.core.new", failing(MemoryError()))
    with pytest.raises(MemoryError):
        decode(content)


def test_a_file_read_again_after_what_passed_is_decoded(monkeypatch):
    content = save(picture(), "WEBP", lossless=True)
    with monkeypatch.context() as patched:
        patched.setattr(opening, "import_module", failing(ImportError("Too many open files")))
        with pytest.raises(ImportError):
            decode(content)
    assert_shows(content, picture())


def test_an_interrupt_is_not_taken_for_damage(monkeypatch):
    monkeypatch.setattr(decoding, "to_srgb", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        decode(save(picture(), "PNG"))


@settings(max_examples=300, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    head=st.booleans(),
    share=st.one_of(st.just(1.0), st.floats(0, 1)),
    min_side=st.sampled_from([0, 4]),
)
def test_a_damaged_file_is_decoded_or_unreadable_and_nothing_else(variant, flips, head, share, min_side):
    content = bytearray(files()[variant])
    for share_of_head, value in flips:
        content[int(share_of_head * (min(len(content), 300) if head else len(content)))] = value
    try:
        photo = decode(bytes(content[: int(share * len(content))]), min_side, max_pixels=10**6)
    except UnreadableImage as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert photo.pixels.dtype == np.uint8 and photo.pixels.shape[2:] == (3,)
