"""`search status`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.being_indexed import reported_if_being_indexed
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
    """Print what a collection holds."""
    from retrieval import maintenance

    path = collection_path(index)
    if failures or incomplete:
        with reported_if_being_indexed(path):
            reasons = maintenance.failures(path) if failures else []
            notes = maintenance.incomplete_images(path) if incomplete else []
        for key, pairs in (("error", reasons), ("note", notes)):
            for name, text in pairs:
                write_line(json.dumps({"path": name, key: text}) if as_json else f"{printable(name)}\t{text}")
        return
    with reported_if_being_indexed(path):
        state = maintenance.status(path)
    if as_json:
        write_line(json.dumps(_record(state)))
    else:
        _print(state)


def _record(state: Status) -> dict[str, object]:
    from indexes.manifest_file import keyed

    return {
        "path": str(state.path),
        "model": state.model,
        "fingerprint": state.fingerprint,
        "images": state.images,
        "failures": state.failures,
        "folders": list(state.folders),
        "segments": state.segments,
        "tombstones": state.dead,
        "removed": state.removed,
        "set_aside": state.set_aside,
        "incomplete": state.incomplete,
        "excludes": list(state.excludes),
        "passed_over": dict(state.passed_over),
        "bytes": state.bytes,
        "committed": state.committed.isoformat(timespec="seconds"),
        "ann": None if state.ann is None else keyed(state.ann) | {"fault": state.ann_fault},
        "scorer": state.model if state.reranks else None,
    }


def _print(state: Status) -> None:
    from indexes.recovery import SET_ASIDE
    from retrieval.indexing.ann_upkeep import search_line
    from retrieval.indexing.messages import passed_over_line

    per_image = f", {size(state.bytes / state.images)} an image" if state.images else ""
    lines = {
        "collection": printable(str(state.path)),
        "model": f"{state.model} ({state.fingerprint})",
        "scorer": "the model's own" if state.reranks else "none: ranked by similarity",
        "images": f"{state.images:,}",
        "failures": f"{state.failures:,}" + (" (`search status --failures` lists them)" if state.failures else ""),
        "incomplete": f"{state.incomplete:,} (`search status --incomplete`)" if state.incomplete else "",
        "folders": ", ".join(printable(folder) for folder in state.folders) or "none",
        "excludes": " ".join(printable(pattern) for pattern in state.excludes),
        "passed over": passed_over_line(state.passed_over).removeprefix("passed over: "),
        "segments": f"{plural(state.segments, 'segment')}, {plural(state.dead, 'dead entry', 'dead entries')}",
        "removed": f"{state.removed:,}, which `search optimize` drops for good" if state.removed else "",
        "search": search_line(state.ann, state.ann_fault),
        "on disk": size(state.bytes) + per_image,
        "set aside": f"{size(state.set_aside)} of damaged files, in {SET_ASIDE}/" if state.set_aside else "",
        "committed": f"{state.committed:%Y-%m-%d %H:%M:%S}",
    }
    for name, value in lines.items():
        if value:
            write_line(f"{name:<11} {value}")
    if state.fault is not None:
        note(f"{state.fault}: the newest undamaged manifest counts; the next `search index` mends it")
