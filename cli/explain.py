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

PARTS = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the centre", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


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

    Heat is how much less the word would speak for a match if that part of the image could not be attended to."""
    from retrieval.encoders import DEFAULT_MODEL, load_encoder
    from retrieval.explain import explain as run
    from retrieval.fusion import load_scorer
    from retrieval.maintenance import model_of

    if out is not None and not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"{out.parent} is no folder", param_hint="--out")
    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise typer.BadParameter(f"{out}: name a .png or .jpg file", param_hint="--out")
    encoder = load_encoder(model or model_of(collection_path(index)) or DEFAULT_MODEL)
    explanation = run(encoder, load_scorer(encoder), text, image)
    if out is not None:
        from cli.show.heat import draw

        picture = draw(explanation)
        try:
            picture.save(out)
        except OSError as error:
            raise CrosslookError(f"cannot write {out}: {error.strerror or error}") from error
        note(f"drawn in {out}")
    if as_json:
        heat = {"words": explanation.words, "heat": explanation.heat.round(6).tolist()}
        write_line(json.dumps({"match": explanation.match, "similarity": explanation.similarity, **heat}))
    else:
        write_line(
            f"match {100 * explanation.match:.1f}%  similarity {explanation.similarity:.3f}  {printable(str(image))}"
        )
        total = max(float(explanation.heat.sum()), 1e-12)
        for word, heat in zip(explanation.words, explanation.heat, strict=True):
            write_line(f"  {printable(word):<16} {100 * heat.sum() / total:5.1f}%  {hottest_part(heat)}")


def hottest_part(heat: NDArray[np.float32]) -> str:
    """Where a map of heat, float32 [rows, columns], is hottest, in words."""
    if not heat.any():
        return "nowhere"
    hottest = divmod(int(heat.argmax()), heat.shape[1])
    row, column = (3 * (2 * index + 1) // (2 * size) for index, size in zip(hottest, heat.shape, strict=True))
    return f"most {PARTS[row][column]}"
