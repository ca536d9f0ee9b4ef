"""Manifests as files: their JSON, its checksum, and what earlier formats wrote.

A file begins with its own checksum, of all bytes after it. Keys that a later version added are written back as they
were. Features that a version must know to read a collection rightly are `required`; unknown ones are refused by
name."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

from indexes.errors import CrosslookError, DamagedCollectionError
from indexes.files import replace_durably
from indexes.manifest import AnnEntry, Binding, Features, Manifest, PartEntry, SegmentEntry

FORMAT = 2
FEATURES: frozenset[str] = frozenset()  # that this version knows and a collection may require
MANIFEST_NAME = re.compile(r"manifest-\d{6,}\.json")
HEAD = re.compile(rb'\{"checksum": "crc32:([0-9a-f]{8})", ')

_Entry = TypeVar("_Entry", Binding, PartEntry, SegmentEntry, AnnEntry, Features)


def write_manifest_file(folder: Path, manifest: Manifest) -> None:
    """Write one manifest. It is complete on disk under its name when this returns."""
    replace_durably(folder / manifest.file_name, to_bytes(manifest))


def read_manifest(folder: Path, name: str) -> Manifest:
    """Read one manifest, of this format or an earlier one.

    Raises `DamagedCollectionError` when it is damaged, `CrosslookError` when it needs a later version or cannot be read
    now, `FileNotFoundError` when it is gone."""
    path = folder / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CrosslookError(f"cannot read {path}: {error.strerror}") from error
    return from_bytes(content, path)


def to_bytes(manifest: Manifest) -> bytes:
    """The content of a manifest's file."""
    content = {"format": FORMAT, **plain(manifest)}
    if not content["tombstones"]:
        del content["tombstones"]
    body = json.dumps(content).encode()[1:]
    return b'{"checksum": "crc32:%08x", ' % zlib.crc32(body) + body


def from_bytes(content: bytes, path: Path) -> Manifest:
    """The manifest in the bytes of a file. path: of the file, for errors. Raises as `read_manifest` does."""
    head = HEAD.match(content)
    if head is not None and int(head[1], 16) != zlib.crc32(content[head.end() :]):
        raise DamagedCollectionError(path, "its checksum is wrong")
    try:
        values: Any = json.loads(content)
        version = values.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedCollectionError(path, "it is not a manifest") from error
    if not isinstance(version, int) or (version != FORMAT and version not in MIGRATIONS):
        raise CrosslookError(
            f"{path} has format {version!r}, this version reads formats up to {FORMAT}: upgrade crosslook, or index "
            "into another collection (-i)"
        )
    if version == FORMAT and head is None:
        raise DamagedCollectionError(path, "it has no checksum")
    try:
        while version != FORMAT:
            values = MIGRATIONS[version](values)
            version += 1
        manifest = _parse(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedCollectionError(path, f"its fields are wrong ({error})") from error
    refuse_unknown(manifest.features.required, path)
    return manifest


def refuse_unknown(required: Iterable[str], path: Path) -> None:
    """Raises `CrosslookError` if a required feature is not known here. path: for the message."""
    unknown = sorted(set(required) - FEATURES)
    if unknown:
        raise CrosslookError(f"{path} needs {', '.join(unknown)}, which this version does not know: upgrade crosslook")


def entry_of(kind: type[_Entry], values: Mapping[str, Any]) -> _Entry:
    """An entry from its JSON; unknown keys become its `extra`. Raises `KeyError`, `TypeError`, `ValueError` or
    `AttributeError` if the values are no such entry."""
    values = dict(values)
    if kind is Binding:
        regions, dim = values["token_shape"]
        values["token_shape"] = (int(regions), int(dim))
    if kind is Features:
        values = {name: tuple(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
    if kind is SegmentEntry and "parts" in values:
        values["parts"] = {name: entry_of(PartEntry, part) for name, part in values["parts"].items()}
    return kind(**_known(kind, values))


def plain(value: Any) -> Any:
    """A dataclass as a dictionary by the keys on disk, with its unknown keys beside the known ones."""
    if hasattr(value, "__dataclass_fields__"):
        known = [field for field in fields(value) if field.name != "extra"]
        return {_key(field): plain(getattr(value, field.name)) for field in known} | dict(value.extra)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def keyed(entry: AnnEntry) -> dict[str, Any]:
    """The fields of an entry by their keys on disk, for people's scripts."""
    return {_key(field): getattr(entry, field.name) for field in fields(entry)}


def salvaged(content: bytes) -> dict[str, Any]:
    """What can still be read of a damaged manifest, by name: its binding, folders and excludes."""
    text = content.decode("utf-8", "replace")
    values: dict[str, Any] = {}
    for name in ("binding", "folders", "excludes"):
        key = f'"{name}": '
        start = text.find(key)
        try:
            value = json.JSONDecoder().raw_decode(text, start + len(key))[0] if start >= 0 else None
            if name == "binding" and isinstance(value, dict):
                values[name] = entry_of(Binding, value)
            elif isinstance(value, list):
                values[name] = tuple(map(str, value))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return values


def _from_1_to_2(values: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had no checksums, no features and no parts. It kept the ids of all dead entries in the manifest, as
    `tombstones`; they stay there until the next commit."""
    return {"features": {"required": [], "optional": []}, "tombstones": [], **values}


MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1_to_2}


def _parse(values: dict[str, Any]) -> Manifest:
    values.pop("checksum", None)
    values |= {
        "features": entry_of(Features, values["features"]),
        "binding": entry_of(Binding, values["binding"]),
        "segments": tuple(entry_of(SegmentEntry, entry) for entry in values["segments"]),
        "ann": None if values.get("ann") is None else entry_of(AnnEntry, values["ann"]),
        "tombstones": tuple(int(row) for row in values.get("tombstones", ())),
        "devices": _devices(values.get("devices")),
    }
    for name in ("folders", "excludes", "mounts"):
        values[name] = tuple(map(str, values.get(name, ())))
    return Manifest(**_known(Manifest, values))


def _devices(values: Any) -> dict[str, tuple[tuple[int, str], ...]]:
    """The history of drives by folder. Entries that make no sense are left out: they are no reason to refuse a
    collection."""
    devices: dict[str, tuple[tuple[int, str], ...]] = {}
    for folder, history in values.items() if isinstance(values, dict) else ():
        try:
            devices[folder] = tuple(sorted((int(first), str(label)) for first, label in history))
        except (TypeError, ValueError):
            continue
    return devices


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields by name, and all others as its `extra`. values: by the keys on disk."""
    names = {_key(field): field.name for field in fields(kind)}
    known = {names[key]: value for key, value in values.items() if key in names}
    return known | {"extra": {key: value for key, value in values.items() if key not in names}}


def _key(field: Field[Any]) -> str:
    return str(field.metadata.get("key", field.name))
