"""`search train CAPTIONS... --images DIR --out DIR`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Device, name_or_path, typed_path
from indexes.errors import CrosslookError


def train(
    captions: Annotated[
        list[Path], typer.Argument(metavar="CAPTIONS...", parser=typed_path, help="Captioned images, as for evaluate.")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", parser=typed_path, help="The images' folder, once for each CAPTIONS, in their order."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", parser=typed_path, help="The model directory to write.")] = ...,  # type: ignore[assignment]
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            parser=name_or_path,
            help="`lite`, or an open_clip model: NAME:PRETRAINED or a directory.",
        ),
    ] = "lite",
    epochs: Annotated[
        int | None,
        typer.Option(help="At most so many passes over the images for the heads [default: 30], or the towers [3]."),
    ] = None,
    scorer_epochs: Annotated[int, typer.Option(help="The same for the scorer, which learns after them.")] = 16,
    views: Annotated[int, typer.Option(help="How many views of each image: as it is, mirrored, random crops.")] = 6,
    ensemble: Annotated[
        int, typer.Option("--members", help="Pairs of heads of lite, whose embeddings are combined.")
    ] = 2,
    itc: Annotated[float, typer.Option(help="Weight of the contrast of embeddings, where these learn.")] = 1.0,
    itm: Annotated[float, typer.Option(help="Weight of the scorer's listwise matching.")] = 1.0,
    lm: Annotated[float, typer.Option(help="Weight of the scorer's reading, word by word.")] = 1.0,
    group: Annotated[int, typer.Option(help="Images that the scorer learns to tell from one another at a time.")] = 4,
    unfreeze: Annotated[
        bool, typer.Option("--unfreeze", help="Train the towers of an open_clip model instead; for a GPU.")
    ] = False,
    hard: Annotated[
        bool, typer.Option(help="Whether the images of a group are such as the heads confuse, or any.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Device = "auto",
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=typed_path, help="Folder for the towers' outputs [default: your cache]."),
    ] = None,
) -> None:
    """Train the heads and the scorer of `lite`, a scorer for an open_clip model or, with --unfreeze, that model itself,
    on captioned images, and write a model directory for --model of the other commands.

    Images of the split dev (or val) choose the best epoch and fit the calibration; where there are none, every tenth
    image does. Images of the split test are not touched. Interrupt or kill it, and the same command goes on."""
    try:
        from retrieval.training.run import train_model
    except ImportError as error:
        raise CrosslookError("training needs torch: pip install 'crosslook[cpu,build]'") from error
    from cli.show.steps import step_display
    from cli.show.training_plots import training_plots
    from retrieval.captions import read_captions
    from retrieval.encoders import DEFAULT_MODEL, canonical_name
    from retrieval.encoders.devices import torch_device
    from retrieval.encoders.lite import LiteEncoder
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.training.learning.settings import TrainSettings
    from retrieval.training.model.heads import HeadSettings
    from retrieval.training.model.model import ModelSettings
    from retrieval.training.parallel import take_gpu

    if images is not None and len(images) != len(captions):
        raise typer.BadParameter(f"{len(images)} folders for {len(captions)} captions", param_hint="--images")
    trains_lite = model == DEFAULT_MODEL
    if min(1 if epochs is None else epochs, scorer_epochs, views, ensemble, group) < 1:
        raise typer.BadParameter("1 or more", param_hint="--epochs, --scorer-epochs, --views, --members, --group")
    device_type = torch_device(device).type
    _check_losses(itc, itm, lm, group, embeddings_learn=trains_lite or unfreeze)
    if device_type == "cuda":
        take_gpu()  # before a model is loaded there
    model = canonical_name(model)
    _check_model(model, trains_lite, unfreeze)
    encoder = LiteEncoder(device="cpu") if trains_lite else load_openclip(model, "cpu" if unfreeze else device_type)
    folders: list[Path | None] = list(images) if images else [None] * len(captions)
    sets = [read_captions(path, images_dir=folder) for path, folder in zip(captions, folders, strict=True)]
    defaults = TrainSettings()
    settings = replace(
        defaults,
        itc=itc,
        itm=itm,
        lm=lm,
        group=group,
        hard=hard,
        seed=seed,
        heads=replace(defaults.heads, epochs=defaults.heads.epochs if epochs is None else epochs),
        scorer=replace(defaults.scorer, epochs=scorer_epochs),
        towers=replace(defaults.towers, epochs=defaults.towers.epochs if epochs is None else epochs),
        model=ModelSettings(heads=HeadSettings(ensemble=ensemble)),
    )
    with step_display() as observer:
        if unfreeze:
            assert not isinstance(encoder, LiteEncoder)
            from retrieval.training.finetune import unfreeze as train_towers

            train_towers(sets, encoder, out, settings, cache=cache, device=device_type, observer=observer)
            return
        train_model(
            sets,
            encoder,
            out,
            settings,
            views=views,
            cache=cache,
            device=device_type,
            observer=observer,
            illustrate=training_plots,
        )


def _check_losses(itc: float, itm: float, lm: float, group: int, *, embeddings_learn: bool) -> None:
    """Raises `BadParameter` for weights of losses with which nothing could learn."""
    if (embeddings_learn and itc <= 0) or min(itc, itm, lm) < 0 or max(itm, lm) == 0:
        hint = "--itc must be above 0, --itm and --lm 0 or above, and not both 0"
        raise typer.BadParameter(hint, param_hint="the weights")
    if not lm and group == 1:
        raise typer.BadParameter("without --lm there must be 2 or more", param_hint="--group")


def _check_model(model: str, trains_lite: bool, unfreeze: bool) -> None:
    """Raises `BadParameter` for a model that cannot be trained, or whose towers cannot be."""
    from retrieval.encoders import is_openclip_name

    folder = Path(model)  # a folder is tried first: on Windows every absolute path has a colon
    is_openclip = (folder / "open_clip_config.json").is_file() if folder.is_dir() else is_openclip_name(model)
    if not trains_lite and not is_openclip:
        raise typer.BadParameter(
            f"{model}: name `lite`, or a model of open_clip, NAME:PRETRAINED or a directory", param_hint="--model"
        )
    if trains_lite and unfreeze:
        raise typer.BadParameter("the towers of lite cannot learn: --model NAME:PRETRAINED", param_hint="--unfreeze")
