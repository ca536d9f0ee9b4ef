"""The segments of a JPEG picture before its first scan."""

from __future__ import annotations

import re
from collections.abc import Iterator

from retrieval.images.photo import UnreadableImage
from retrieval.images.reader import Clock

ORDINARY_SEGMENTS = 1000
ORDINARY_FILLING = 4096
START, SCAN, END = b"\xff\xd8\xff", 0xDA, 0xD9
_UP_TO_MARKER = re.compile(rb"[^\xff]*\xff+")
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_VIEWABLE_FRAMES = {0xC0, 0xC1, 0xC2}
_BASELINE_FRAMES = {0xC0, 0xC1}
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD, SCAN}
_PROFILE = (0xE2, b"ICC_PROFILE")
_METADATA = ((0xE0, b"JFIF"), (0xE1, b"Exif"), (0xE1, b"http://ns.adobe.com/xap"), (0xEE, b"Adobe"), _PROFILE)
_LONGEST_NAME = 40
_MAX_PROFILE_SEGMENTS = 255


def segments(content: bytes, start: int = 0) -> Iterator[tuple[int, int, int]]:
    """(marker, begin and end of the body) of the segments up to the first scan. start: offset of the picture."""
    offset = start + 2
    while (gap := _UP_TO_MARKER.match(content, offset)) and gap.end() < len(content):
        marker, begin = content[gap.end()], gap.end() + 1
        if marker <= 1 or 0xD0 <= marker <= 0xD8:
            offset = begin
            continue
        length = int.from_bytes(content[begin : begin + 2])
        if marker == END or length < 2:
            return
        yield marker, begin + 2, begin + length
        if marker == SCAN:
            return
        offset = begin + length


def viewable_size(content: bytes, start: int) -> tuple[int, int] | None:
    """(width, height) of the picture at offset `start`; None unless it is one of 8 bits that viewers show."""
    if not content.startswith(START, start):
        return None
    for count, (marker, begin, _) in enumerate(segments(content, start)):
        if marker in _FRAMES:
            bits, height, width, layers = (
                content[begin],
                int.from_bytes(content[begin + 1 : begin + 3]),
                int.from_bytes(content[begin + 3 : begin + 5]),
                content[begin + 5 : begin + 6],
            )
            viewable = marker in _VIEWABLE_FRAMES and bits == 8 and layers in (b"\1", b"\3")
            return (width, height) if viewable and width and height else None
        if marker == SCAN or count > ORDINARY_SEGMENTS:
            return None
    return None


def is_baseline(content: bytes) -> bool:
    """Whether a picture is of three colours of 8 bits, Huffman-coded from top to bottom in one scan. Its decoding takes
    a time that its pixels and bytes bound."""
    is_framed = False
    for marker, begin, _ in segments(content):
        if marker in _FRAMES:
            is_framed = marker in _BASELINE_FRAMES and (content[begin : begin + 1], content[begin + 5 : begin + 6]) == (
                b"\x08",
                b"\3",
            )
        elif marker == SCAN:
            return is_framed and content[begin : begin + 1] == b"\3"
    return False


def without_filling(content: bytes, clock: Clock) -> bytes:
    """The same picture without bytes that keep Pillow's parser busy: long filling between the segments before the first
    scan, or thousands of segments. An ordinary file is returned as it is. Raises `TooSlow`, and `UnreadableImage` for
    thousands of tables."""
    needed = [content[:2]]
    left = {kind: _MAX_PROFILE_SEGMENTS if kind == _PROFILE else 1 for kind in _METADATA}
    offset, filling, count = 2, 0, 0
    for marker, begin, end in segments(content):
        if not count % 1024:
            clock.check()
        count += 1
        filling += begin - 4 - offset
        offset = end
        if marker not in _FRAMES and marker not in _TABLES:
            kind = _kind(marker, content[begin : begin + _LONGEST_NAME])
            if kind is None or not left[kind]:
                continue
            left[kind] -= 1
        needed += (bytes((0xFF, marker)), content[begin - 2 : end])
        if len(needed) > 4 * ORDINARY_SEGMENTS:
            raise UnreadableImage("is damaged: has thousands of tables before the picture")
    if count <= ORDINARY_SEGMENTS and filling <= ORDINARY_FILLING:
        return content
    return b"".join((*needed, content[offset:]))


def _kind(marker: int, name: bytes) -> tuple[int, bytes] | None:
    return next((kind for kind in _METADATA if kind[0] == marker and name.startswith(kind[1])), None)
