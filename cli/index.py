"""`search index FOLDER...`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.interruption import stopping_after_commit
from cli.options import Index, collection_path, name_or_path, typed_path
from cli.output import note, printable, write_line

if TYPE_CHECKING:
    from retrieval.indexing.plan import Plan
    from retrieval.indexing.survey import Settings
    from retrieval.progress import Progress


def index(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", parser=typed_path, help="Folders of images.")],
    index: Index = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            parser=name_or_path,
            help="lite, NAME:PRETRAINED of open_clip, or a model directory [default: the collection's, lite].",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Skip files and folders of this name or relative path; may be repeated."),
    ] = None,
    max_pixels: Annotated[float, typer.Option(metavar="MEGAPIXELS", help="Largest image to decode.")] = 100,
    retry_failed: Annotated[bool, typer.Option(help="Read files again that failed before.")] = False,
    repair: Annotated[bool, typer.Option(help="Drop damaged segments, and embed their images again.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print what would be done, and do nothing.")] = False,
) -> None:
    """Add the images in these folders to a collection, or bring it up to date.

    Unchanged files are not read again. What has gone from the folders leaves the results. Interrupt at any time: what
    was committed is searchable, and the next run goes on from there."""
    from retrieval.indexing.survey import Settings, plan_folders

    if not math.isfinite(max_pixels) or max_pixels <= 0:
        raise typer.BadParameter(f"{max_pixels} is not a number of megapixels", param_hint="--max-pixels")
    path = collection_path(index)
    settings = Settings(tuple(exclude or ()), int(max_pixels * 1e6), retry_failed, repair)
    if dry_run:
        _print_plan(plan_folders(folders, path, settings))
        return
    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"{device} is not auto, cpu or cuda", param_hint="--device")
    _run(folders, path, model, device, settings)


def _run(folders: list[Path], path: Path, model: str | None, device: str, settings: Settings) -> None:
    from cli.progress import progress_display
    from retrieval.encoders import DEFAULT_MODEL, load_encoder
    from retrieval.indexing.pipeline import index_folders
    from retrieval.maintenance import model_of, wants_optimizing
    from retrieval.progress import Observer

    encoder = load_encoder(model or model_of(path) or DEFAULT_MODEL, device, note)
    with stopping_after_commit() as stop, progress_display() as display:
        progress = index_folders(
            folders, path, encoder, settings, Observer(display.progress, display.failure, note, stop.is_set)
        )
    note(_summary(progress))
    if progress.interrupted:
        note("interrupted: what is done is committed and searchable; run again to go on")
        raise KeyboardInterrupt
    if wants_optimizing(path):
        note("`search optimize` will make searching so many images faster")


def _summary(progress: Progress) -> str:
    counts = {
        "new": progress.new,
        "changed": progress.changed,
        "moved": progress.moved,
        "removed": progress.removed,
        "unchanged": progress.unchanged,
        "failed": progress.failed + progress.still_failing,
    }
    if progress.dropped:
        counts = {"dropped as damaged": progress.dropped} | counts
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing to do"
    rate = f" ({progress.encoded / progress.seconds:.0f} images/s)" if progress.encoded and progress.seconds else ""
    return f"{said} in {progress.seconds:.1f} s{rate}"


def _print_plan(plan: Plan) -> None:
    for encoding in plan.add:
        write_line(f"add\t{_name(encoding.file.path)}")
    for encoding in plan.reencode:
        write_line(f"change\t{_name(encoding.file.path)}")
    for rename in plan.rename:
        write_line(f"move\t{_name(rename.old)}\t{_name(rename.file.path)}")
    for gone in plan.remove:
        write_line(f"remove\t{_name(gone.path)}")
    note(
        f"{len(plan.add):,} to add, {len(plan.reencode):,} to encode again, {len(plan.rename):,} to move, "
        f"{len(plan.remove):,} to remove, {plan.unchanged:,} unchanged, {plan.still_failing:,} known to fail; "
        "nothing was done"
    )


def _name(path: bytes) -> str:
    return printable(os.fsdecode(path))
