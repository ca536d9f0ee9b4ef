"""The chunks of a PNG picture, and which of them matter for what it shows."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from retrieval.images.reader import Clock

ORDINARY_CHUNKS = 10_000
MAX_METADATA = 1_000_000
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IDAT", b"fdAT")
_SHOWN = (b"IHDR", b"PLTE", b"tRNS")
_XMP = b"XML:com.adobe.xmp\0\0\0"
_NAME = re.compile(rb"[A-Za-z]{4}")
_KNOWN_NAME = re.compile(rb"PLTE|tRNS|IDAT|fdAT|eXIf|iCCP|IEND")


def chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, begin and end of the body) of the chunks. After a chunk with an impossible length, goes on at the next
    known name. A last chunk that lacks its end counts up to the end of the file."""
    offset = len(SIGNATURE)
    while offset + 8 <= len(content):
        length, name = int.from_bytes(content[offset : offset + 4]), content[offset + 4 : offset + 8]
        begin = offset + 8
        end = begin + length
        is_sound = bool(_NAME.fullmatch(name)) and (end + 4 <= len(content) or name in _PIXELS)
        if not is_sound and name != b"IEND":
            following = _KNOWN_NAME.search(content, begin)
            if following is None:
                return
            offset = following.start() - 4
            continue
        yield name, begin, min(end, len(content))
        if name == b"IEND":
            return
        offset = end + 4


def is_ordinary(content: bytes, clock: Clock) -> bool:
    """Whether the picture has few enough chunks for Pillow to read them fast. Raises `TooSlow`."""
    others = 0
    for count, (name, begin, end) in enumerate(chunks(content)):
        if not count % 1024:
            clock.check()
        others += name not in _PIXELS or end - begin < 64
        if others > ORDINARY_CHUNKS:
            return False
    return True


def without_needless(content: bytes, clock: Clock) -> bytes:
    """The same picture with only the chunks that matter, and right checksums: no texts, no animation, and metadata only
    where it is small and sound. Raises `TooSlow`."""
    shown: list[bytes] = []
    pixels: list[bytes] = []
    metadata: dict[bytes, bytes] = {}
    for count, (name, begin, end) in enumerate(chunks(content)):
        if not count % 1024:
            clock.check()
        if name == b"IDAT":
            pixels.append(content[begin:end])
        elif name in _SHOWN:
            shown.append(_chunk(name, content[begin:end]))
        elif end - begin <= MAX_METADATA and name not in metadata:
            body = content[begin:end]
            if name == b"eXIf" or (name == b"iTXt" and body.startswith(_XMP)) or (name == b"iCCP" and _is_sound(body)):
                metadata[name] = body
    header, *others = shown or [b""]
    described = (_chunk(name, body) for name, body in metadata.items())
    return b"".join((SIGNATURE, header, *described, *others, _chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b"")))


def _is_sound(profile: bytes) -> bool:
    _, _, compressed = profile.partition(b"\0")
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(compressed[1:], MAX_METADATA)
    except zlib.error:
        return False
    return compressed[:1] == b"\0" and not inflating.unconsumed_tail


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
