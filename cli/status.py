"""`search status`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.being_indexed import told_if_being_indexed
from cli.options import Index, Json, collection_path
from cli.show.output import note, plural, printable, size, write_line

if TYPE_CHECKING:
    from retrieval.maintenance import Status


def status(
    index: Index = None,
    as_json: Json = False,
    failures: Annotated[bool, typer.Option("--failures", help="List the files that could not be read.")] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="List the images of which a part is missing.")
    ] = False,
) -> None:
    """Say what a collection holds."""
    from retrieval import maintenance

    path = collection_path(index)
    if failures or incomplete:
        with told_if_being_indexed(path):
            reasons = maintenance.failures(path) if failures else []
            notes = maintenance.incomplete_images(path) if incomplete else []
        for key, pairs in (("error", reasons), ("note", notes)):
            for name, text in pairs:
                write_line(json.dumps({"path": name, key: text}) if as_json else f"{printable(name)}\t{text}")
        return
    with told_if_being_indexed(path):
        found = maintenance.status(path)
    if as_json:
        write_line(json.dumps(_record(found)))
    else:
        _print(found)


def _record(found: Status) -> dict[str, object]:
    return {
        "path": str(found.path),
        "model": found.model,
        "fingerprint": found.fingerprint,
        "images": found.images,
        "failures": found.failures,
        "folders": list(found.folders),
        "segments": found.segments,
        "tombstones": found.tombstones,
        "removed": found.removed,
        "set_aside": found.set_aside,
        "incomplete": found.incomplete,
        "excludes": list(found.excludes),
        "passed_over": dict(found.passed_over),
        "bytes": found.bytes,
        "committed": found.committed.isoformat(timespec="seconds"),
        "ann": None if found.ann is None else asdict(found.ann) | {"fault": found.ann_fault},
        "scorer": found.model if found.reranks else None,
    }


def _search(found: Status) -> str:
    from retrieval.indexing.ann_upkeep import describe

    if found.ann is None:
        return "exact"
    if found.ann_fault is not None:
        return f"exact, since {found.ann_fault}"
    return describe(found.ann)


def _print(found: Status) -> None:
    from indexes.recovery import SET_ASIDE
    from retrieval.indexing.messages import passed_over_line

    per_image = f", {size(found.bytes / found.images)} an image" if found.images else ""
    lines = {
        "collection": printable(str(found.path)),
        "model": f"{found.model} ({found.fingerprint})",
        "scorer": "the model's own" if found.reranks else "none: ranked by similarity",
        "images": f"{found.images:,}",
        "failures": f"{found.failures:,}" + (" (`search status --failures` lists them)" if found.failures else ""),
        "incomplete": f"{found.incomplete:,} (`search status --incomplete`)" if found.incomplete else "",
        "folders": ", ".join(printable(folder) for folder in found.folders) or "none",
        "excludes": " ".join(printable(pattern) for pattern in found.excludes),
        "passed over": passed_over_line(found.passed_over).removeprefix("passed over: "),
        "segments": f"{plural(found.segments, 'segment')}, {plural(found.tombstones, 'tombstone')}",
        "removed": f"{found.removed:,}, which `search optimize` drops for good" if found.removed else "",
        "search": _search(found),
        "on disk": size(found.bytes) + per_image,
        "set aside": f"{size(found.set_aside)} of damaged files, in {SET_ASIDE}/" if found.set_aside else "",
        "committed": f"{found.committed:%Y-%m-%d %H:%M:%S}",
    }
    for name, value in lines.items():
        if value:
            write_line(f"{name:<11} {value}")
    if found.fault is not None:
        note(f"{found.fault}: the newest manifest that is whole counts; the next `search index` mends it")
