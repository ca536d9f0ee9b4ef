"""`search demo`: index the sample photos of some packages, ask a few questions, show the answers."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Annotated

import typer

from cli.options import typed_path
from cli.show.output import note, plural, printable, worth, write_line
from indexes.errors import CrosslookError

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
SAMPLES = {
    "skimage": [
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/chelsea.png",
        "data/clock_motion.png",
        "data/coffee.png",
        "data/coins.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/moon.png",
        "data/motorcycle_left.png",
        "data/page.png",
        "data/retina.jpg",
        "data/rocket.jpg",
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
}


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


def gather_samples(folder: Path) -> list[Path]:
    """Copy the sample photos of the installed packages into a folder. Raises `CrosslookError` where there are none."""
    found = []
    for package, names in SAMPLES.items():
        spec = importlib.util.find_spec(package)
        roots = [Path(root) for root in (spec.submodule_search_locations if spec else None) or ()]
        found += [root / name for root in roots for name in names if (root / name).is_file()]
    if not found:
        raise CrosslookError("no sample photos: pip install 'crosslook[demo]'")
    folder.mkdir(parents=True, exist_ok=True)
    copies = [folder / path.name for path in found]
    for source, copy in zip(found, copies, strict=True):
        shutil.copy2(source, copy)
    return copies
