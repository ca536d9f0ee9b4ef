"""Bring a collection up to date: survey, then carry the plan out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from indexes.commits import find_commit
from indexes.errors import DamagedCollectionError
from indexes.manifest import Binding
from indexes.recovery import current_binding
from indexes.writer import CollectionWriter
from retrieval.cores import usable_cores
from retrieval.encoders.base import Encoder
from retrieval.indexing.in_flight import InFlight
from retrieval.indexing.listing import File
from retrieval.indexing.plan import Encoding, Plan
from retrieval.indexing.reading import ImageReader, reader_of_files
from retrieval.indexing.roots import find_roots
from retrieval.indexing.run import Run, positions_by_content
from retrieval.indexing.survey import DEFAULTS, Settings, Survey, list_roots, refuse_nothing, survey
from retrieval.location import resolved
from retrieval.progress import SILENT, Interrupted, Observer, Progress


def index_folders(
    folders: Sequence[str | Path],
    collection: Path,
    encoder: Encoder,
    settings: Settings = DEFAULTS,
    observer: Observer = SILENT,
) -> Progress:
    """Bring a collection up to date with some folders; rows of other folders stay as they are. With `repair`, all
    folders of the collection are looked at, since each may have lost images with a damaged segment.

    Raises `CrosslookError` when a folder does not exist, holds no image, or seems to be an unmounted drive; when the
    collection is bound to another model, in use by another writer or damaged; when the disk is full. Whatever happens,
    what was committed stays searchable, and running again goes on from there."""
    started = time.monotonic()
    binding = binding_of(encoder)
    try:
        if current_binding(collection) is None:  # before a collection is made for nothing
            roots = find_roots(folders)
            refuse_nothing(roots, list_roots(roots, settings, observer))
        else:
            _refuse_away(folders, collection, settings, observer)
        with CollectionWriter(collection, binding, settings.repair) as writer:
            for note in writer.notes:
                observer.note(note)
            roots = _roots_of_run(folders, writer.manifest.folders, settings)
            # Listed under the lock: what another writer added meanwhile would seem to be gone.
            return _carry_out(survey(roots, writer.collection, settings, observer), writer, encoder, settings, observer)
    except Interrupted:
        return Progress(interrupted=True, seconds=time.monotonic() - started)


def _roots_of_run(folders: Sequence[str | Path], indexed: Sequence[str], settings: Settings) -> list[bytes]:
    roots = find_roots(folders, indexed)
    known = [os.fsencode(folder) for folder in indexed] if settings.repair else []
    return list(dict.fromkeys([*roots, *(folder for folder in known if os.path.isdir(folder))]))


def _refuse_away(folders: Sequence[str | Path], collection: Path, settings: Settings, observer: Observer) -> None:
    """Raises `CrosslookError` where the folders are away, before the collection is changed. A repair, which sets
    damaged segments aside, looks for images as well: it is to embed what was lost."""
    try:
        commit = find_commit(collection)
        indexed = () if commit is None else commit.manifest.folders
        excludes = () if commit is None else commit.manifest.excludes
    except DamagedCollectionError:  # whether a folder was indexed is known when the manifest is rebuilt
        indexed, excludes = tuple(os.fsdecode(resolved(folder)) for folder in folders), ()
    roots = _roots_of_run(folders, indexed, settings)
    if settings.repair and not settings.forget:
        refuse_nothing(roots, list_roots(roots, replace(settings, no_exclude=()), observer, excludes))


def _carry_out(
    surveyed: Survey, writer: CollectionWriter, encoder: Encoder, settings: Settings, observer: Observer
) -> Progress:
    plan, manifest = surveyed.plan, writer.manifest
    removed = [gone.id for gone in (*plan.remove, *plan.forget)]
    remembered = {name: getattr(surveyed, name) for name in ("folders", "excludes", "mounts", "devices", "passed_over")}
    if removed or any(value != getattr(manifest, name) for name, value in remembered.items()):
        writer.commit(removed=removed, **remembered)
    snapshot = writer.collection
    threads = usable_cores()
    with InFlight(writer.folder, threads) as in_flight:
        encodings = [*plan.reencode, *plan.add]
        positions = positions_by_content(snapshot, encodings)
        read = ImageReader(encoder, settings.max_pixels, reader_of_files(settings.max_pixels), positions, in_flight)
        run = Run(writer, encoder, settings, observer, plan, read, threads)
        run.report(
            removed=len(plan.remove), dropped=writer.dropped, kept=plan.kept, passed_over=surveyed.passed_over_now
        )
        run.rename([*plan.touch, *plan.rename])
        run.encode(encodings)
        if not run.progress.interrupted:
            writer.merge()
    return run.progress


def index_images(
    images: Sequence[bytes],
    read: Callable[[bytes], bytes],
    collection: Path,
    encoder: Encoder,
    settings: Settings = DEFAULTS,
    observer: Observer = SILENT,
) -> Progress:
    """Add images that are not those of a folder, such as the ones a captions file lists: `read` gives the bytes of each
    by its name, which becomes its path. Raises what `index_folders` raises of collections, and what `read` does."""
    plan = Plan(add=tuple(Encoding(File(name, 0, 0, 0)) for name in images))
    reader = ImageReader(encoder, settings.max_pixels, lambda file: (file, read(file.path)))
    with CollectionWriter(collection, binding_of(encoder), settings.repair) as writer:
        run = Run(writer, encoder, settings, observer, plan, reader, usable_cores())
        run.encode(plan.add)
        return run.progress


def binding_of(encoder: Encoder) -> Binding:
    """What a collection made with this encoder is bound to."""
    return Binding(encoder.name, encoder.fingerprint, encoder.dim, encoder.token_shape, encoder.token_dtype)
