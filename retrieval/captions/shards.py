"""webdataset shards: uncompressed tars in which an image and its .txt or .json share their name.

Nothing is extracted: a tar is listed once, and the bytes of an image are read from their offset."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from retrieval.captions.caption_set import NO_CAPTIONS, NOT_A_FILE, UNLISTED_IMAGE, Member, Skipped
from retrieval.captions.entries import Caption, Entry
from retrieval.captions.errors import CannotRead, cannot_read, error_in, quoted
from retrieval.captions.folders import LONGEST_SIDECAR, sidecar_captions
from retrieval.captions.json_values import caption_in, captions_in, object_of, parse_json
from retrieval.captions.paths import image_key
from retrieval.captions.text import decode_text
from retrieval.images import ENDINGS

FORMAT = "webdataset shards"


def is_tar(head: bytes) -> bool:
    """Whether a file that starts with these 512 bytes is a tar: the header's checksum holds."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def shard_entries(shards: list[Path], members: dict[str, Member], prefixed: bool) -> Iterator[Entry | Skipped]:
    """The entries of the shards. members: filled with the position of every image. prefixed: images are named
    `shard.tar/member`, since names are unique only inside one shard."""
    for shard in shards:
        prefix = f"{shard.name}/" if prefixed else ""
        for group in _groups(shard, prefix).values():
            if isinstance(group, Skipped):
                yield group
                continue
            images = [name for name in group if _ending(name) in ENDINGS]
            if not images:
                yield from (Skipped(f"{prefix}{name}", UNLISTED_IMAGE) for name in group)
                continue
            if len(images) > 1:
                both = " and ".join(quoted(name) for name in images[:2])
                raise error_in(shard, f"{both} share their captions: rename one of them, or remove it")
            image = images[0]
            image_key(shard, image, f"member {quoted(image)}", "the tar")
            try:
                captions = _captions(shard, group)
            except CannotRead as error:
                yield Skipped(f"{prefix}{image}", f"captions: {error.reason}")
                continue
            if captions is None:
                yield Skipped(f"{prefix}{image}", NO_CAPTIONS)
                continue
            members[f"{prefix}{image}"] = group[image]
            yield Entry(f"member {quoted(prefix + image)}", f"{prefix}{image}", captions)


def _groups(shard: Path, prefix: str) -> dict[str, dict[str, Member] | Skipped]:
    """Stem -> the members with that stem that are images or captions. A member that is neither a file nor a folder has
    its name with a slash as the key, and is skipped."""
    groups: dict[str, dict[str, Member] | Skipped] = {}
    for entry in _listing(shard):
        stem, ending = os.path.splitext(entry.name)
        if entry.isdir() or ending.lower() not in ENDINGS | {".txt", ".json"} or _is_hidden(entry.name):
            continue
        if not entry.isreg() or entry.issparse():
            groups[f"{entry.name}/"] = Skipped(f"{prefix}{entry.name}", NOT_A_FILE)
            continue
        group = groups.setdefault(stem, {})
        assert isinstance(group, dict)
        if entry.name in group:
            raise error_in(shard, f"holds {quoted(entry.name)} twice: remove one of the two, or rename it")
        group[entry.name] = Member(shard, entry.offset_data, entry.size)
    return groups


def _listing(shard: Path) -> list[tarfile.TarInfo]:
    """All members. Raises `CrosslookError` if the tar is damaged, which `tarfile` takes for its end."""
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            listing = tar.getmembers()
            end = tar.offset
        with shard.open("rb") as file:
            file.seek(end)
            damaged = any(file.read(tarfile.BLOCKSIZE))
    except OSError as error:
        raise error_in(shard, f"cannot be read ({error.strerror}): make it readable") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise error_in(shard, f"is a damaged tar ({error}): download or write it again") from error
    if damaged or any(not 0 <= entry.offset_data <= entry.offset_data + entry.size <= size for entry in listing):
        raise error_in(shard, f"is a damaged tar (after {len(listing)} members): download or write it again")
    return listing


def _captions(shard: Path, group: dict[str, Member]) -> tuple[Caption, ...] | None:
    """The captions of the .txt or, without one, of the .json; None if there is neither."""
    for name, member in group.items():
        if _ending(name) == ".txt":
            return sidecar_captions(shard, read_member(member, LONGEST_SIDECAR + 1), f"member {quoted(name)}")
    for name, member in group.items():
        if _ending(name) == ".json":
            return _json_captions(shard, member, f"member {quoted(name)}")
    return None


def _json_captions(shard: Path, member: Member, where: str) -> tuple[Caption, ...]:
    if member.size > LONGEST_SIDECAR:
        raise error_in(shard, "is larger than 1 MiB, too large for the captions of one image: write it again", where)
    text = decode_text(shard, read_member(member), where)
    record = object_of(parse_json(shard, text, where=where), shard, where)
    if "captions" not in record:
        return (caption_in(record, "caption", shard, where),)
    return captions_in(record, "captions", shard, where)


def read_member(member: Member, at_most: int | None = None) -> bytes:
    """The content of a member. Safe to call from several threads. at_most: only so many bytes. Raises `CannotRead`."""
    size = member.size if at_most is None else min(member.size, at_most)
    try:
        with member.shard.open("rb") as file:
            file.seek(member.offset)
            content = file.read(size)
    except (OSError, MemoryError) as error:
        raise cannot_read(member.shard, error, "make it readable") from error
    if len(content) < size:
        raise CannotRead(member.shard, "has become shorter since it was listed", "start again")
    return content


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")
