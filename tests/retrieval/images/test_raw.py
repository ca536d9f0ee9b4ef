"""A RAW file shows the camera's preview, upright."""

from __future__ import annotations

import io
import struct
from datetime import datetime

import numpy as np
import pytest
import tifffile

from retrieval.images import INCOMPLETE, RAW_ENDINGS, decode, raw
from tests.retrieval.images.files import assert_shows, assert_unreadable, exif, save
from tests.retrieval.images.pictures import GREY, OTHER, STORED, picture

pytestmark = pytest.mark.usefixtures("either_decoder")

SENSOR = (np.random.default_rng(0).integers(0, 4096, (64, 96))).astype(np.uint16)
CFA, LINEAR, YCBCR = 32803, 34892, 6
WHEN = datetime(2021, 2, 3, 4, 5, 6)


def jpeg(values=None, **options):
    return save(picture() if values is None else values, "JPEG", quality=95, **options)


def pages_as_jpeg(content, *pages):
    """Turns pages of bytes into JPEG pages, which the writer cannot write. pages: (index, photometric kind)."""
    buffer = io.BytesIO(content)
    with tifffile.TiffFile(buffer) as opened:
        directories = opened.pages.first.pages
        assert directories is not None
        for index, photometric in pages:
            page = directories[index]
            assert isinstance(page, tifffile.TiffPage)
            tags = page.tags
            tags["Compression"].overwrite(7)
            tags["PhotometricInterpretation"].overwrite(photometric)
    return buffer.getvalue()


def as_row(content):
    return np.frombuffer(content, np.uint8)[None]


def camera_file(preview, orientation=1, order="<", dng=False, date=None, head=None, photometric=CFA):
    """A RAW file as Nikon, Sony and Adobe write it: first a small picture, then the preview and the sensor's values in
    separate directories. head: the first four bytes, where they are not those of TIFF."""
    buffer = io.BytesIO()
    tags = [(274, "H", 1, orientation, True)]
    if dng:
        tags.append((50706, "B", 4, (1, 4, 0, 0), True))
    if date:
        tags.append((306, "s", 20, date, True))
    with tifffile.TiffWriter(buffer, byteorder=order) as writer:
        writer.write(OTHER[::4, ::4], photometric="rgb", subfiletype=1, subifds=2, metadata=None, extratags=tags)
        writer.write(as_row(preview), subfiletype=1, metadata=None)
        values = np.repeat(SENSOR[..., None], 3, axis=2) if photometric == LINEAR else SENSOR
        writer.write(values, photometric=photometric, subfiletype=0, metadata=None)
    content = pages_as_jpeg(buffer.getvalue(), (0, YCBCR))
    return content if head is None else head + content[4:]


def canon(preview, orientation=6):
    """A CR3 file: boxes, one of which holds a TIFF directory."""
    tags = exif(orientation, changed="2021:02:03 04:05:06")[6:]
    boxes = struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom"
    boxes += struct.pack(">I", 8 + 8 + len(tags)) + b"moov" + struct.pack(">I", 8 + len(tags)) + b"CMT1" + tags
    boxes += struct.pack(">I", 24 + len(preview)) + b"uuid" + bytes(16) + preview
    return boxes + struct.pack(">I", 8 + SENSOR.nbytes) + b"mdat" + SENSOR.tobytes()


def fuji(preview):
    head = b"FUJIFILMCCD-RAW 0201FF383501X-T3".ljust(84, b"\0")
    return head + struct.pack(">II", 160, len(preview)) + bytes(160 - 92) + preview + SENSOR.tobytes()


FILES = {
    "little endian": lambda preview: camera_file(preview),
    "big endian": lambda preview: camera_file(preview, order=">"),
    "DNG": lambda preview: camera_file(preview, dng=True),
    "linear DNG": lambda preview: camera_file(preview, dng=True, photometric=LINEAR),
    "Olympus": lambda preview: camera_file(preview, head=b"IIRO"),
    "Panasonic": lambda preview: camera_file(preview, head=b"IIU\0"),
    "Canon CR3": lambda preview: canon(preview, 1),
    "Fuji": fuji,
    "Minolta": lambda preview: b"\0MRM" + bytes(60) + preview + SENSOR.tobytes(),
    "Sigma": lambda preview: b"FOVb" + bytes(60) + preview + SENSOR.tobytes(),
    "Canon CRW": lambda preview: b"II\x1a\0\0\0HEAPCCDR" + bytes(60) + preview + SENSOR.tobytes(),
}


@pytest.mark.parametrize("maker", sorted(FILES))
def test_the_preview_of_a_raw_file_is_shown(maker):
    assert_shows(FILES[maker](jpeg()), picture(), 12)


@pytest.mark.parametrize("maker", sorted(FILES))
def test_a_raw_file_without_a_preview_is_named_as_such(maker):
    content = FILES[maker](jpeg()).replace(b"\xff\xd8\xff", b"\xff\xd9\xff")
    if maker in ("little endian", "big endian", "DNG", "linear DNG"):
        assert_shows(content, decode(save(OTHER[::4, ::4])).pixels)  # its thumbnail is a picture
    else:
        assert "RAW file without a preview" in assert_unreadable(content)


def test_a_raw_file_of_sensor_values_alone_is_named_as_such():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, SENSOR, photometric=CFA, metadata=None)
    assert "RAW file without a preview" in assert_unreadable(buffer.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_preview_is_turned_as_the_raw_file_says(order, orientation):
    assert_shows(camera_file(jpeg(STORED[orientation](picture())), orientation, order), picture(), 14)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_preview_of_cr3_is_turned_as_the_raw_file_says(orientation):
    content = canon(jpeg(STORED[orientation](picture())), orientation)
    assert_shows(content, picture(), 14)
    assert decode(content).taken_at == WHEN


@pytest.mark.parametrize(("inside", "outside"), [(6, 6), (6, 1), (1, 6)])
def test_the_preview_is_turned_once_and_its_own_exif_counts_first(inside, outside):
    preview = jpeg(STORED[inside](picture()), exif=exif(inside))
    assert_shows(camera_file(preview, outside), picture(), 14)


def test_the_preview_of_fuji_is_turned_by_its_own_exif():
    content = fuji(jpeg(STORED[8](picture()), exif=exif(8, "2021:02:03 04:05:06")))
    assert_shows(content, picture(), 14)
    assert decode(content).taken_at == WHEN


def test_taken_at_is_that_of_the_raw_file_where_the_preview_does_not_say():
    assert decode(camera_file(jpeg(), date="2021:02:03 04:05:06")).taken_at == WHEN


def test_the_largest_preview_is_shown():
    small, large = jpeg(OTHER[::2, ::2]), jpeg(picture(96, 64))
    for previews in (small + large, large + small, small + bytes(100) + large + small):
        assert decode(b"FOVb" + bytes(60) + previews).width == 96


def test_the_sensors_values_are_not_taken_for_a_preview_though_they_be_jpeg():
    """As in DNG files with lossy compression, whose strips are 8-bit JPEG pictures in the sensor's colours."""
    strip = jpeg(OTHER.repeat(8, 0).repeat(8, 1))
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        dng = [(50706, "B", 4, (1, 4, 0, 0), True)]
        writer.write(OTHER[::4, ::4], photometric="rgb", subfiletype=1, subifds=2, metadata=None, extratags=dng)
        writer.write(as_row(jpeg()), subfiletype=1, metadata=None)
        writer.write(np.repeat(as_row(strip), 2, axis=0), rowsperstrip=1, metadata=None)
    assert_shows(pages_as_jpeg(buffer.getvalue(), (0, YCBCR), (1, LINEAR)), picture(), 12)


def test_lossless_jpeg_of_the_sensor_is_not_taken_for_a_preview():
    lossless = bytearray(jpeg(picture(480, 320)))
    lossless[lossless.index(b"\xff\xc0") + 1] = 0xC3
    many_bits = bytearray(jpeg(picture(480, 320)))
    many_bits[many_bits.index(b"\xff\xc0") + 4] = 12
    assert_shows(b"FOVb" + bytes(lossless) + bytes(many_bits) + jpeg(), picture(), 12)


def test_a_preview_that_lacks_its_end_is_noted():
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    photo = decode(b"FOVb" + bytes(60) + jpeg(noise)[:-2000])
    assert photo.note == INCOMPLETE


def test_a_preview_is_decoded_smaller_and_judged_by_its_pixels():
    content = camera_file(jpeg(picture(1600, 1200)))
    assert decode(content, 100).pixels.shape == (300, 400, 3)
    assert "more than the limit" in assert_unreadable(content, max_pixels=1600 * 1200 - 1)


@pytest.mark.parametrize(
    "samples",
    [picture(), np.uint16(picture()) * 257, GREY],
    ids=["8 bits", "16 bits", "grey"],
)
def test_a_tiff_file_that_is_no_raw_file_is_shown_itself(samples):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric="minisblack" if samples.ndim == 2 else "rgb", metadata=None)
    assert not raw.is_raw_tiff(buffer.getvalue())


def test_directories_that_lead_in_a_circle_end():
    content = bytearray(camera_file(jpeg()))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as opened:
        page = opened.pages.first
        offset, count = page.offset, len(page.tags)
    content[offset + 2 + 12 * count :][:4] = struct.pack("<I", offset)
    content[offset + 2 + 12 * count : offset + 6 + 12 * count] = struct.pack("<I", offset)
    assert_shows(bytes(content), picture(), 12)


def test_the_endings_of_the_makers_are_read():
    common = ".3fr .arw .cr2 .cr3 .crw .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2"
    assert set(f"{common} .srf .srw .x3f .gpr".split()) <= RAW_ENDINGS
