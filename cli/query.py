"""`search "a dog on a beach"`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Candidates, Index, Json, Rerank
from cli.output import note, percent, plural, printable, wants_colour, worth, write_line
from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from retrieval.engine import Engine, Hit, Results

NOTHING_FOUND = 1
DOUBTFUL = 0.01  # a best match below it is worth a warning: the model card shows what comes above and below


def query(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY", help="What to look for, in plain words.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Answer one query a line of a file, or of stdin, as JSON.")
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", help="How many results.")] = 10,
    index: Index = None,
    model: Annotated[
        str | None,
        typer.Option(help="Insist on this model; the collection's own is used anyway."),
    ] = None,
    within: Annotated[
        Path | None,
        typer.Option("--in", metavar="FOLDER", help="Only images in this folder."),
    ] = None,
    candidates: Candidates = 100,
    rerank: Rerank = True,
    scorer: Annotated[
        str | None,
        typer.Option(help="blip:NAME_OR_FOLDER looks at the image files again: a second each on a CPU; needs torch."),
    ] = None,
    min_match: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out results that match with a lower probability, 0 to 1.")
    ] = 0.0,
    as_json: Json = False,
    paths: Annotated[bool, typer.Option("--paths", help="Paths only, one a line.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Paths only, each ended by a NUL byte.")] = False,
) -> None:
    """Find the images that match a text, best first.

    On a terminal a table; on a pipe rank, score and path, tab-separated, with control characters in names escaped."""
    from retrieval.engine import Engine

    if bool(words) == (batch is not None):
        raise typer.BadParameter("give a query, or --batch FILE, one of the two", param_hint="QUERY")
    if scorer is not None and not rerank:
        raise typer.BadParameter("--no-rerank leaves nothing to score", param_hint="--scorer")
    engine = Engine.open(index, model=model, scorer=scorer, rerank=rerank, candidates=candidates)
    if min_match and not (engine.scorer and engine.scorer.calibrated):
        raise CrosslookError("--min-match needs a calibrated scorer, which re-ranks")
    if batch is not None:
        from cli.batch import answer_batch

        answer_batch(engine, batch, top, within, min_match)
        _tell_ann_fault(engine)
        return
    results = engine.search(" ".join(words or ()), top, below=within, min_match=min_match)
    _tell_ann_fault(engine)
    if results.truncated:
        note(f"the query is longer than {engine.encoder.max_words} word pieces: the rest was ignored")
    if results.unreadable:
        note(f"left out: {plural(results.unreadable, 'candidate')} whose files cannot be read any more")
    if results.best_match is not None and results.best_match < max(DOUBTFUL, min_match):
        note(f"nothing matches well: the best match is {percent(results.best_match)}")
    if not results:
        if results.best_match is None and not results.unreadable:
            note(f"nothing below {within} is in the collection" if within else "the collection is empty")
        raise typer.Exit(NOTHING_FOUND)
    if null or paths:
        for hit in results:
            write_line(hit.path, "\0" if null else "\n")
    elif as_json:
        for hit in results:
            write_line(json_line(hit_record(hit)))
    elif sys.stdout.isatty():
        _print_table(results, engine, rerank)
    else:
        for hit in results:
            write_line(f"{hit.rank}\t{hit.score:.4f}\t{printable(hit.path)}")


def _tell_ann_fault(engine: Engine) -> None:
    if engine.collection.ann_fault is not None:
        note(f"slower than it need be, since all images are compared: {engine.collection.ann_fault}")


def hit_record(hit: Hit) -> dict[str, object]:
    """A hit as JSON has it."""
    return {
        "rank": hit.rank,
        "path": hit.path,
        "score": round(hit.score, 6),
        "similarity": round(hit.similarity, 6),
        "match": None if hit.match is None else round(hit.match, 6),
        "width": hit.width,
        "height": hit.height,
    }


def json_line(record: dict[str, object]) -> str:
    """One line of JSON, readable where it can be."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a name that is not Unicode: its bytes as lone surrogates, as Python writes them
        text = json.dumps(record)
    return text


def _print_table(results: Results, engine: Engine, rerank: bool) -> None:
    bold, dim, plain = ("\033[1m", "\033[2m", "\033[0m") if wants_colour(sys.stdout) else ("", "", "")
    for hit in results:
        folder, slash, name = printable(hit.path).rpartition("/")
        good, size = worth(hit.score, hit.match), f"{hit.width}x{hit.height}"
        write_line(f"{hit.rank:>4}  {good:>6}  {size:>11}  {dim}{folder}{slash}{plain}{bold}{name}{plain}")
    milliseconds = sum(results.milliseconds.values())
    lacking = f": {engine.encoder.name} has no scorer" if rerank else ""
    how = "re-ranked" if engine.scorer else f"by similarity{lacking}"
    note(f"{len(results)} of {plural(len(engine.collection), 'image')} in {milliseconds:.0f} ms, {how}")
