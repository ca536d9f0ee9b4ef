"""`search index FOLDER...`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Device, Index, collection_path, name_or_path, typed_path
from cli.process.interruption import stopping_after_commit
from cli.show.output import note, write_line

MOST_MEGAPIXELS = 1e6

if TYPE_CHECKING:
    from retrieval.indexing.settings import Settings
    from retrieval.indexing.survey import Survey


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
    device: Device = "auto",
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out what this .gitignore pattern matches, now and in later runs; may be repeated.",
        ),
    ] = None,
    no_exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Take back an --exclude of an earlier run; may be repeated."),
    ] = None,
    include_all: Annotated[
        bool, typer.Option("--include-all", help="Look into thumbnails, trash and .nomedia folders as well.")
    ] = False,
    max_pixels: Annotated[float, typer.Option(metavar="MEGAPIXELS", help="Largest image to decode.")] = 100,
    retry_failed: Annotated[bool, typer.Option(help="Read files again that failed before.")] = False,
    repair: Annotated[
        bool,
        typer.Option(help="Check all files of the collection, rebuild what is lost, embed damage again."),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Also remove images whose folders are empty or not mounted (they are kept otherwise).",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Print what would be done, and do nothing.")] = False,
) -> None:
    """Add the images in these folders to a collection, or bring it up to date.

    Unchanged files are not read again. Images that are gone from the folders leave the results. Interrupt at any time:
    what was committed is searchable, and the next run goes on from there."""
    from retrieval.indexing.settings import Settings
    from retrieval.indexing.survey import survey_folders
    from retrieval.progress import Observer

    if not 0 < max_pixels <= MOST_MEGAPIXELS:
        raise typer.BadParameter(f"{max_pixels} is not a number of megapixels", param_hint="--max-pixels")
    path = collection_path(index)
    settings = Settings(
        exclude=tuple(exclude or ()),
        no_exclude=tuple(no_exclude or ()),
        include_all=include_all,
        max_pixels=int(max_pixels * 1e6),
        retry_failed=retry_failed,
        repair=repair,
        forget=forget,
    )
    if dry_run:
        _print_survey(survey_folders(folders, path, settings, Observer(failure=_note_failure, note=note)))
        return
    _run(folders, path, model, device, settings)


def _run(folders: list[Path], path: Path, model: str | None, device: str, settings: Settings) -> None:
    from cli.show.indexing_text import run_summary
    from cli.show.progress import progress_display
    from retrieval.encoders import DEFAULT_MODEL, load_encoder
    from retrieval.indexing.messages import passed_over_line
    from retrieval.indexing.pipeline import index_folders
    from retrieval.maintenance import model_of, wants_optimizing
    from retrieval.progress import Observer

    encoder = load_encoder(model or model_of(path) or DEFAULT_MODEL, device, note)
    with stopping_after_commit() as stop, progress_display() as display:
        progress = index_folders(
            folders, path, encoder, settings, Observer(display.progress, display.failure, note, stop.is_set)
        )
    note(run_summary(progress))
    if progress.passed_over:
        note(passed_over_line(progress.passed_over))
    if progress.interrupted:
        note("interrupted: what is done is committed and searchable; run again to go on")
        raise KeyboardInterrupt
    if wants_optimizing(path):
        note("`search optimize` will make searching so many images faster")


def _print_survey(survey: Survey) -> None:
    from cli.show.indexing_text import plan_lines, plan_summary
    from retrieval.indexing.messages import passed_over_line

    for line in plan_lines(survey.plan):
        write_line(line)
    if survey.passed_over_now:
        note(passed_over_line(survey.passed_over_now))
    note(f"{plan_summary(survey.plan)}; nothing was done")


def _note_failure(path: bytes, reason: str) -> None:
    note(f"skipped {os.fsdecode(path)}: {reason}")
