"""The preview: the JPEG picture that a camera puts into its RAW file beside the sensor's values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from retrieval.images import directories as tiff
from retrieval.images import exif, jpeg
from retrieval.images.reader import Clock

ENOUGH_PIXELS = 1_000_000  # if all previews that the directories name are smaller, the whole file is searched
_COMPRESSION, _PHOTOMETRIC, _DNG_VERSION = 259, 262, 50706
_STRIPS, _TILES, _PREVIEW = 273, 324, 513
_SENSOR_PHOTOMETRICS = {32803, 34892}
_SENSOR_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}  # Sony, Nikon, Samsung, Kodak, Pentax
_VIEWABLE_PHOTOMETRICS = {2, 6}
_FUJI, _FUJI_PREVIEW = b"FUJIFILMCCD-RAW", 84
_CANON_HEAD = 65_536


@dataclass(frozen=True)
class Preview:
    """content: a JPEG file, possibly with other bytes after its end. orientation, taken_at: of the RAW file, for a JPEG
    file that has none."""

    content: bytes
    orientation: int
    taken_at: datetime | None


@dataclass
class _Parts:
    """The content of the directories of a RAW file. is_viewable: its first directory is a picture, as in a TIFF file.
    previews: offsets of possible JPEG pictures. others: offsets of parts that are not for viewers, such as the sensor's
    values, which may be JPEG too."""

    is_raw: bool = False
    is_viewable: bool = False
    orientation: int = exif.UPRIGHT
    taken_at: datetime | None = None
    previews: set[int] = field(default_factory=set)
    others: set[int] = field(default_factory=set)


def is_raw_tiff(content: bytes) -> bool:
    """Whether a TIFF file holds a sensor's values. A file whose first directory is a picture and that holds no JPEG
    does not."""
    parts = _parts(content)
    return parts.is_raw and not (parts.is_viewable and _largest(content, parts) is None)


def preview(content: bytes, clock: Clock) -> Preview | None:
    """The largest JPEG picture of a RAW file, or None. Raises `TooSlow`."""
    parts = _parts(_as_tiff(content))
    if content.startswith(_FUJI):
        parts.previews.add(int.from_bytes(content[_FUJI_PREVIEW : _FUJI_PREVIEW + 4]))
    best = _largest(content, parts)
    if best is None or best[0] < ENOUGH_PIXELS:
        parts.previews.update(_search(content, clock))
        best = _largest(content, parts)
    if best is None:
        return None
    return Preview(content[best[1] :], parts.orientation, parts.taken_at)


def _largest(content: bytes, parts: _Parts) -> tuple[int, int] | None:
    """(pixels, offset) of the largest JPEG that viewers show; of several, the first."""
    sizes = {offset: jpeg.viewable_size(content, offset) for offset in sorted(parts.previews - parts.others)}
    pixels = [(size[0] * size[1], offset) for offset, size in sizes.items() if size]
    return max(pixels, key=lambda item: item[0], default=None)


def _search(content: bytes, clock: Clock) -> Iterator[int]:
    """The offsets at which JPEG pictures begin, anywhere in the file."""
    offset = content.find(jpeg.START)
    while offset >= 0:
        clock.check()
        if jpeg.viewable_size(content, offset):
            yield offset
        offset = content.find(jpeg.START, offset + 1)


def _as_tiff(content: bytes) -> bytes:
    """The part of a RAW file that is structured as TIFF: all of it, or a box in Canon's CR3. Empty if there is none."""
    if content[4:12] == b"ftypcrx ":
        offset = content.find(b"CMT1", 0, _CANON_HEAD) + 4
        return content[offset : offset + _CANON_HEAD] if offset >= 4 else b""
    return content


def _parts(content: bytes) -> _Parts:
    parts = _Parts(is_raw=content[8:10] == b"CR")
    for index, directory in enumerate(tiff.directories(content)):
        photometric = tiff.number(directory, _PHOTOMETRIC)
        is_sensor = photometric in _SENSOR_PHOTOMETRICS or tiff.number(directory, _COMPRESSION) in _SENSOR_COMPRESSIONS
        parts.is_raw |= is_sensor or _DNG_VERSION in directory
        if index == 0:
            parts.is_viewable = photometric in _VIEWABLE_PHOTOMETRICS and not is_sensor
            parts.orientation = exif.sane_orientation(tiff.number(directory, exif.ORIENTATION))
            parts.taken_at = exif.sane_date(tiff.text(directory, exif.CHANGED))
        parts.taken_at = exif.sane_date(tiff.text(directory, exif.TAKEN)) or parts.taken_at
        strips = {*tiff.numbers(directory, _STRIPS), *tiff.numbers(directory, _TILES)}
        (parts.others if is_sensor or len(strips) > 1 else parts.previews).update(strips)
        parts.previews.update(tiff.numbers(directory, _PREVIEW))
    return parts
