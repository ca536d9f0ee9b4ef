"""`search demo`: index the sample photos of some packages, ask a few questions, show the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import typed_path
from cli.show.output import note, plural, printable, worth, write_line

QUERIES = (
    "a cat",
    "a cup of coffee",
    "a rocket taking off",
    "an astronaut in a space suit",
    "a temple",
    "a close-up of a flower",
    "a motorcycle",
    "coins",
    "a starry night sky",
)


def demo(
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", parser=typed_path, help="Folder for the photos, their collection and the page."),
    ] = Path("crosslook-demo"),
    top: Annotated[int, typer.Option("--top", "-k", help="How many results for each query.")] = 3,
) -> None:
    """Index sample photos, answer a few queries, and write them to a page."""
    from cli.show.page import write_results_page
    from retrieval.encoders import load_encoder
    from retrieval.engine import Engine
    from retrieval.indexing.pipeline import index_folders
    from retrieval.samples import gather_samples

    photos = gather_samples(out / "photos")
    note(f"{plural(len(photos), 'sample photo')} in {out / 'photos'}")
    index_folders([out / "photos"], out / "collection", load_encoder())
    engine = Engine.open(out / "collection")
    answers = [(query, engine.search(query, top)) for query in QUERIES]
    page = out / "index.html"
    write_results_page(page, answers)
    for query, results in answers:
        write_line(query)
        for hit in results:
            write_line(f"  {hit.rank}  {worth(hit.score, hit.match):>5}  {printable(Path(hit.path).name)}")
    note(f"the same with pictures: {page}")
