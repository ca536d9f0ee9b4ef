"""All steps together: bring a collection up to date with some folders."""

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
from retrieval.indexing.copying import positions_by_content
from retrieval.indexing.files import File
from retrieval.indexing.in_flight import InFlight
from retrieval.indexing.listing import Listing
from retrieval.indexing.plan import Encoding, Plan
from retrieval.indexing.reading import ImageReader, reader_of_files
from retrieval.indexing.refusals import refuse_nothing
from retrieval.indexing.roots import find_roots, list_roots
from retrieval.indexing.run import Run
from retrieval.indexing.settings import DEFAULT_SETTINGS, Settings
from retrieval.indexing.survey import Survey, survey
from retrieval.location import resolved
from retrieval.progress import SILENT, Interrupted, Observer, Progress


def index_folders(
    folders: Sequence[str | Path],
    collection: Path,
    encoder: Encoder,
    settings: Settings = DEFAULT_SETTINGS,
    observer: Observer = SILENT,
) -> Progress:
    """Brings a collection up to date with some folders. Rows of other folders stay as they are. With `settings.repair`,
    all folders of the collection are looked at, since any may have lost images with a damaged segment.

    Raises `CrosslookError` when a folder does not exist, holds no image, or seems to be an unmounted drive; when the
    collection is bound to another model, in use by another writer, or damaged; and when the disk is full. Whatever
    happens, committed images stay searchable, and the next run goes on from there."""
    started = time.monotonic()
    binding = binding_of(encoder)
    try:
        listing = None
        if current_binding(collection) is None:  # so that no collection is made for nothing
            roots = find_roots(folders)
            listing = list_roots(roots, settings, observer)
            refuse_nothing(roots, listing)
            _find_device(encoder)
        else:
            _refuse_away(folders, collection, settings, observer)
        with CollectionWriter(collection, binding, settings.repair) as writer:
            for note in writer.notes:
                observer.note(note)
            roots = _roots_of_run(folders, writer.manifest.folders, settings)
            surveyed = survey(roots, writer.collection, settings, observer, _if_first(writer, listing))
            return _carry_out(surveyed, writer, encoder, settings, observer)
    except Interrupted:
        return Progress(interrupted=True, seconds=time.monotonic() - started)


def _if_first(writer: CollectionWriter, listing: Listing | None) -> Listing | None:
    """A listing that was made before the writer had its lock. None if another writer may have made a commit since,
    whose images would seem to be gone."""
    is_new = writer.manifest.generation == 0 and not writer.manifest.segments
    return listing if is_new else None


def _roots_of_run(folders: Sequence[str | Path], indexed: Sequence[str], settings: Settings) -> list[bytes]:
    roots = find_roots(folders, indexed)
    known = [os.fsencode(folder) for folder in indexed] if settings.repair else []
    return list(dict.fromkeys([*roots, *(folder for folder in known if os.path.isdir(folder))]))


def _refuse_away(folders: Sequence[str | Path], collection: Path, settings: Settings, observer: Observer) -> None:
    """Raises `CrosslookError` if the folders are away, before the collection is changed. A repair sets damaged
    segments aside and embeds their images again, so it looks for images as well."""
    try:
        commit = find_commit(collection)
        indexed = () if commit is None else commit.manifest.folders
        excludes = () if commit is None else commit.manifest.excludes
    except DamagedCollectionError:  # until the manifest is rebuilt, take the folders for indexed
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
    encodings = [*plan.reencode, *plan.add]
    positions = positions_by_content(snapshot, encodings)
    workers = _worker_count(len(encodings), encoder, threads, len(positions))
    with InFlight(writer.folder, threads, workers) as in_flight:
        read = ImageReader(encoder, settings.max_pixels, reader_of_files(settings.max_pixels), positions, in_flight)
        run = Run(writer, encoder, settings, observer, plan, read, threads, workers)
        run.report(
            removed=len(plan.remove), dropped=writer.dropped, kept=plan.kept, passed_over=surveyed.passed_over_now
        )
        run.rename([*plan.touch, *plan.rename])
        run.encode(encodings)
        if not run.progress.interrupted:
            writer.merge()
    return run.progress


def _find_device(encoder: Encoder) -> bool:
    """Raises `CrosslookError` for a device that there is not. An encoder may look for it only now."""
    return encoder.takes_pixels


def _worker_count(files: int, encoder: Encoder, cores: int, positions: int) -> int:
    """How many processes decode for an encoder. Those that resize by themselves get photos from threads."""
    if not files or not encoder.takes_pixels:  # without files, the encoder need not be loaded
        return 0
    from retrieval.indexing import workers  # not worth importing for other encoders

    return workers.worker_count(files, encoder.batch_size, cores, positions)


def index_images(
    images: Sequence[bytes],
    read: Callable[[bytes], bytes],
    collection: Path,
    encoder: Encoder,
    settings: Settings = DEFAULT_SETTINGS,
    observer: Observer = SILENT,
) -> Progress:
    """Adds images that lie in no folder, such as those that a captions file lists. images: their names, which become
    the paths of the rows. read: gives the content by the name.

    Raises what `index_folders` raises about collections, and what `read` raises."""
    plan = Plan(add=tuple(Encoding(File(name, 0, 0, 0)) for name in images))
    reader = ImageReader(encoder, settings.max_pixels, lambda file: (file, read(file.path)))
    _find_device(encoder)
    with CollectionWriter(collection, binding_of(encoder), settings.repair) as writer:
        run = Run(writer, encoder, settings, observer, plan, reader, usable_cores())
        run.encode(plan.add)
        return run.progress


def binding_of(encoder: Encoder) -> Binding:
    """The binding of a collection made with this encoder."""
    return Binding(encoder.name, encoder.fingerprint, encoder.dim, encoder.region_shape, encoder.region_dtype)
