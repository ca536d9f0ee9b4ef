"""`search explain "a dog on a beach" IMAGE --out heat.png`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Index, Json, Model, collection_path, typed_path
from cli.show.output import note, printable, write_line
from indexes.errors import CrosslookError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "middle", "right")


def explain(
    text: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for in the image.")],
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", parser=typed_path, help="An image file, in a collection or not.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=typed_path, help="Draw where each word looks into this PNG or JPEG file."),
    ] = None,
    index: Index = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Show where each word of a query looks in an image, by the scorer that ranks it.

    Heat is how much less the word would speak for a match if nothing could attend to that part of the image."""
    from retrieval.encoders import DEFAULT_MODEL, load_encoder
    from retrieval.explain import explain as run
    from retrieval.maintenance import model_of

    if out is not None and not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"{out.parent} is no folder", param_hint="--out")
    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise typer.BadParameter(f"{out}: name a .png or .jpg file", param_hint="--out")
    found = run(load_encoder(model or model_of(collection_path(index)) or DEFAULT_MODEL), text, image)
    if out is not None:
        from cli.show.heat import draw

        picture = draw(found)
        try:
            picture.save(out)
        except OSError as error:
            raise CrosslookError(f"cannot write {out}: {error.strerror or error}") from error
        note(f"drawn in {out}")
    if as_json:
        heat = {"words": found.words, "heat": found.heat.round(6).tolist()}
        write_line(json.dumps({"match": found.match, "similarity": found.similarity, **heat}))
    else:
        write_line(f"match {100 * found.match:.1f}%  similarity {found.similarity:.3f}  {printable(str(image))}")
        total = max(float(found.heat.sum()), 1e-12)
        for word, heat in zip(found.words, found.heat, strict=True):
            write_line(f"  {printable(word):<16} {100 * heat.sum() / total:5.1f}%  {_hottest(heat)}")


def _hottest(heat: NDArray[np.float32]) -> str:
    """In words where a map of heat [rows, columns] is hottest."""
    if not heat.any():
        return "nowhere"
    place = divmod(int(heat.argmax()), heat.shape[1])
    row, column = (3 * (2 * index + 1) // (2 * size) for index, size in zip(place, heat.shape, strict=True))
    return f"most at the {ROWS[row]} {COLUMNS[column]}"
