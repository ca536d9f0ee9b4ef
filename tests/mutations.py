"""Damages files as failing drives, cut downloads and faulty programs do. Seeded, so that a failure can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping


def mutations(files: Mapping[str, bytes], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` damaged variants, of the files in turn. The name says what was done; equal names have equal content."""
    names = sorted(files)
    for index in range(count):
        name = names[index % len(names)]
        rng = random.Random(f"{seed} {index}")
        kind = rng.choice(sorted(_KINDS))
        yield f"{index:05d} {name} {kind} (seed {seed})", _KINDS[kind](bytearray(files[name]), rng)


def _flip(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 12)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _flip_head(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(min(len(content), 300))] = rng.randrange(256)
    return bytes(content)


def _flip_tail(content: bytearray, rng: random.Random) -> bytes:
    """Damages the tail, where TIFF files may have their directories."""
    for _ in range(rng.randint(1, 4)):
        content[-rng.randint(1, min(len(content), 300))] = rng.randrange(256)
    return bytes(content)


def _cut(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content[: rng.randrange(len(content))])


def _insert(content: bytearray, rng: random.Random) -> bytes:
    offset = rng.randrange(len(content))
    return bytes(content[:offset] + rng.randbytes(rng.choice((1, 2, 7, 512))) + content[offset:])


def _drop(content: bytearray, rng: random.Random) -> bytes:
    offset = rng.randrange(len(content))
    return bytes(content[:offset] + content[offset + rng.choice((1, 2, 7, 512)) :])


def _blank(content: bytearray, rng: random.Random) -> bytes:
    """A sector that reads as zeros, or as ones."""
    offset = rng.randrange(len(content))
    size = min(512, len(content) - offset)
    content[offset : offset + size] = rng.choice((b"\0", b"\xff")) * size
    return bytes(content)


def _swap(content: bytearray, rng: random.Random) -> bytes:
    first, second = sorted(rng.randrange(len(content)) for _ in range(2))
    return bytes(content[:first] + content[second:] + content[first:second])


def _number(content: bytearray, rng: random.Random) -> bytes:
    """A length or an offset far out of bounds."""
    offset = rng.randrange(max(1, len(content) - 4))
    content[offset : offset + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"))
    return bytes(content)


_KINDS = {
    "flip": _flip,
    "flip head": _flip_head,
    "flip tail": _flip_tail,
    "cut": _cut,
    "insert": _insert,
    "drop": _drop,
    "blank": _blank,
    "swap": _swap,
    "number": _number,
}
