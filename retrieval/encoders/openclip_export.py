"""Makes the export of an open_clip model for ONNX Runtime, and keeps it in the cache."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from indexes.files import sync_folder
from retrieval.encoders.openclip import OpenClipEncoder
from retrieval.encoders.openclip_check import check
from retrieval.encoders.openclip_graphs import write_graphs
from retrieval.encoders.openclip_onnx import CONFIG, FILES, ExportedEncoder, export_folder, find_export, seal
from retrieval.encoders.openclip_quantization import quantize
from retrieval.encoders.refusal import is_passing, is_refused, permanent_error, refuse


def exported(encoder: OpenClipEncoder) -> ExportedEncoder | None:
    """A model on ONNX Runtime, None if it has to stay on torch. Both outcomes are remembered, unless the reason may
    be gone next time: a cache that cannot be written, a full disk, too little memory, a missing package. If several
    processes ask for the same model, one exports it and the others wait."""
    folder = export_folder(encoder.name)
    try:
        with _locked(folder):
            return find_export(encoder.name) or _export_into(folder, encoder)
    except Exception as error:
        if is_passing(error):
            return None
        raise


def _export_into(folder: Path, encoder: OpenClipEncoder) -> ExportedEncoder | None:
    if is_refused(folder):
        return None
    shutil.rmtree(folder, ignore_errors=True)  # a damaged export
    with _draft_of(folder) as draft:
        error = permanent_error(lambda: _write_checked(encoder, draft))
        if error is not None:
            shutil.rmtree(draft)
            draft.mkdir()
            refuse(draft, error)
        _publish(draft, folder)
    return find_export(encoder.name)


def _write_checked(encoder: OpenClipEncoder, folder: Path) -> None:
    """Raises `NotExportable` if torch gives something else, and anything that the exporter raises."""
    write_graphs(encoder, folder)
    check(encoder, ExportedEncoder(encoder.name, folder))
    quantize(encoder, folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= {"files": {name: seal(folder / name) for name in FILES}}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The only process that writes this export. Drafts that a killed process left are removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        for draft in folder.parent.glob(f"{folder.name}.*/"):
            shutil.rmtree(draft, ignore_errors=True)
        yield


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, removed at the end unless it was renamed."""
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, folder: Path) -> None:
    """Renames the draft once all of its content is on disk."""
    for path in draft.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(draft)
    os.replace(draft, folder)
    sync_folder(folder.parent)
