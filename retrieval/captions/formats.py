"""Which format is a set of captioned images in? Its content decides, never the name of the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from indexes.errors import CrosslookError
from retrieval.captions import datasets, folders, jsonl, shards, tables
from retrieval.captions.caption_set import Member
from retrieval.captions.entries import Recognised
from retrieval.captions.errors import error_in
from retrieval.captions.json_values import parse_json
from retrieval.captions.text import decode_text, numbered_lines

FORMATS = (
    jsonl.FORMAT,
    datasets.KARPATHY,
    datasets.COCO,
    tables.CSV,
    tables.PIPES,
    tables.TOKENS,
    folders.FORMAT,
    shards.FORMAT,
)
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"PK\3\4": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def recognise(path: Path, images_dir: Path | None) -> Recognised:
    """The entries of the source, read in the format that its content shows. Raises `CrosslookError` for an unknown
    format."""
    if path.is_dir():
        return _recognise_folder(path, images_dir)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            if shards.is_tar(head):
                return _shards([path], images_dir, prefixed=False)
            content = head + file.read()
    except FileNotFoundError as error:
        raise error_in(path, "no such file: name the captions, a .tar or a folder") from error
    except OSError as error:
        raise error_in(path, f"cannot be read ({error.strerror}): make it readable") from error
    for magic, name in COMPRESSIONS.items():
        if head.startswith(magic):
            raise error_in(path, f"is compressed ({name}): decompress it first")
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _unknown_format(path)
    return _recognise_text(path, decode_text(path, content), images_dir or path.parent)


def _recognise_text(path: Path, text: str, images_dir: Path) -> Recognised:
    start = text.lstrip()
    if start.startswith("{"):
        document = _document(path, text)
        if document is None:
            return Recognised(jsonl.FORMAT, jsonl.jsonl_entries(path, text), True, images_dir)
        if "annotations" in document:
            return Recognised(datasets.COCO, datasets.coco_entries(path, document), True, images_dir)
        return Recognised(datasets.KARPATHY, datasets.karpathy_entries(path, document), True, images_dir)
    if not start:
        raise error_in(path, "is empty: download or write it again")
    number, header = next(numbered_lines(text))
    table = tables.recognise_table(path, header, number)
    if table == tables.CSV:
        return Recognised(table, tables.csv_entries(path, text), False, images_dir)
    if table == tables.PIPES:
        return Recognised(table, tables.pipe_entries(path, text), False, images_dir)
    if table == tables.TOKENS:
        return Recognised(table, tables.token_entries(path, text), False, images_dir)
    raise _unknown_format(path)


def _document(path: Path, text: str) -> dict[str, Any] | None:
    """The JSON document that lists images; None if the text holds one object per line."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, re.search(r"\S", text).start())  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        begins_document = re.match(r'\s*\{\s*("(images|annotations|dataset|info|licenses|type)"|\n|$)', text)
        return parse_json(path, text) if begins_document else None  # raises, and names the line
    has_more = bool(text[end:].strip())
    if "image" in value or "captions" in value or (has_more and "images" not in value):
        return None
    if has_more:
        value = parse_json(path, text)  # raises, and names the line where the second value begins
    if "images" not in value:
        raise _unknown_format(path)
    return dict(value)


def _recognise_folder(path: Path, images_dir: Path | None) -> Recognised:
    pairs, unlisted = folders.pair_sidecars(path, images_dir or path)
    try:
        tars = sorted(entry for entry in path.iterdir() if entry.suffix == ".tar" and not entry.name.startswith("."))
    except OSError as error:
        raise error_in(path, f"cannot be listed ({error.strerror}): make it readable") from error
    has_pairs = any(images and sidecar is not None for images, sidecar in pairs.values())
    if tars and has_pairs:
        raise error_in(path, "holds .tar shards and images with .txt captions: name a folder that holds one of the two")
    if tars:
        return _shards(tars, images_dir, prefixed=True)
    if has_pairs:
        return Recognised(folders.FORMAT, folders.folder_entries(path, pairs, unlisted), True, images_dir or path)
    reason = "holds no .tar shards and no images with .txt captions beside them: name the captions file itself"
    raise error_in(path, reason)


def _shards(tars: list[Path], images_dir: Path | None, prefixed: bool) -> Recognised:
    if images_dir is not None:
        raise error_in(tars[0], "holds its own images: leave out the folder of images")
    members: dict[str, Member] = {}
    return Recognised(shards.FORMAT, shards.shard_entries(tars, members, prefixed), True, None, members)


def _unknown_format(path: Path) -> CrosslookError:
    return error_in(path, f"unknown format: write it as one of {'; '.join(FORMATS)}")
