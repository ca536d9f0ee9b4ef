"""`search train CAPTIONS... --images DIR --out DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import note
from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from retrieval.training.loop import Epoch


def train(
    captions: Annotated[list[Path], typer.Argument(metavar="CAPTIONS...", help="Captioned images, as for evaluate.")],
    images: Annotated[
        list[Path] | None, typer.Option(help="The images' folder, once for each CAPTIONS, in their order.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The model directory to write.")] = ...,  # type: ignore[assignment]
    epochs: Annotated[int, typer.Option(help="At most so many passes over the images.")] = 24,
    views: Annotated[int, typer.Option(help="How many views of each image: as it is, mirrored, random crops.")] = 3,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder for the towers' outputs [default: your cache].")] = None,
) -> None:
    """Train the heads of `lite` on captioned images, and write a model directory for --model.

    Images of the split dev (or val) choose the best epoch; where there are none, every tenth image does. Images of the
    split test are not touched. Interrupt or kill it, and the same command goes on."""
    try:
        from retrieval.training.run import train_heads
    except ImportError as error:
        raise CrosslookError("training needs torch: pip install 'crosslook[build]'") from error
    from retrieval.captions import read_captions

    if images is not None and len(images) != len(captions):
        raise typer.BadParameter(f"{len(images)} folders for {len(captions)} captions", param_hint="--images")
    if epochs < 1 or views < 1:
        raise typer.BadParameter("1 or more", param_hint="--epochs, --views")
    folders: list[Path | None] = list(images) if images else [None] * len(captions)
    sets = [read_captions(path, images_dir=folder) for path, folder in zip(captions, folders, strict=True)]
    history = train_heads(sets, out, epochs=epochs, views=views, seed=seed, cache=cache, tell=note, observe=_tell)
    best = max(history, key=lambda epoch: epoch.quality)
    note(f"best: epoch {best.number + 1}; use it with --model {out}, measure it with `search evaluate --model {out}`")


def _tell(epoch: Epoch) -> None:
    note(
        f"epoch {epoch.number + 1}: loss {epoch.loss:.3f}, dev R@1 text -> image {100 * epoch.text_to_image:.1f}, "
        f"image -> text {100 * epoch.image_to_text:.1f}"
    )
