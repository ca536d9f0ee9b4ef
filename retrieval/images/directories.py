"""The TIFF directories of a RAW file: only the tags that name its parts. (Pillow's reader loads all values of all
tags.)"""

from __future__ import annotations

from collections.abc import Iterator

MAX_DIRECTORIES = 64
MAX_TAGS, MAX_VALUES, MAX_TEXT = 1000, 64, 64
_TEXT, _SIZES = 2, {1: 1, 3: 2, 4: 4, 13: 4}  # bytes of the types of integers
_SUB_DIRECTORIES, _EXIF = 330, 0x8769
_ORDERS = {b"II": "little", b"MM": "big"}

Directory = dict[int, tuple[int, ...] | bytes]


def directories(content: bytes) -> Iterator[Directory]:
    """The directories in the order of the file, as integers and texts by tag. Damaged directories, and values out of
    bounds, are left out."""
    order = _ORDERS.get(content[:2])
    if order is None:
        return
    waiting, seen = [_number(content[4:8], order)], set[int]()
    while waiting and len(seen) < MAX_DIRECTORIES:
        offset = waiting.pop(0)
        if offset in seen or not 8 <= offset <= len(content) - 6:
            continue
        seen.add(offset)
        directory, following = _read(content, offset, order)
        yield directory
        waiting += [*numbers(directory, _SUB_DIRECTORIES), *numbers(directory, _EXIF), following]


def numbers(directory: Directory, tag: int) -> tuple[int, ...]:
    """All integers of a tag, at most `MAX_VALUES`; none if it holds text, or is absent."""
    values = directory.get(tag, ())
    return () if isinstance(values, bytes) else values


def number(directory: Directory, tag: int) -> int | None:
    return next(iter(numbers(directory, tag)), None)


def text(directory: Directory, tag: int) -> str:
    value = directory.get(tag, b"")
    return value.decode("latin-1") if isinstance(value, bytes) else ""


def _read(content: bytes, offset: int, order: str) -> tuple[Directory, int]:
    """A directory, and the offset of the next one."""
    directory: Directory = {}
    tags = _number(content[offset : offset + 2], order)
    first = offset + 2
    for start in range(first, first + 12 * min(tags, MAX_TAGS), 12):
        tag, kind = (_number(content[low : low + 2], order) for low in (start, start + 2))
        count = _number(content[start + 4 : start + 8], order)
        size = _SIZES.get(kind, 1)
        if kind != _TEXT and kind not in _SIZES:
            continue
        begin = start + 8 if size * count <= 4 else _number(content[start + 8 : start + 12], order)
        if kind == _TEXT:
            directory[tag] = content[begin : begin + min(count, MAX_TEXT)]
        else:
            values = content[begin : begin + size * min(count, MAX_VALUES)]
            directory[tag] = tuple(
                _number(values[low : low + size], order) for low in range(0, len(values) - size + 1, size)
            )
    end = first + 12 * tags
    return directory, _number(content[end : end + 4], order)


def _number(content: bytes, order: str) -> int:
    return int.from_bytes(content, "little" if order == "little" else "big")
