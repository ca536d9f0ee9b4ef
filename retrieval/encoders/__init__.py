"""Dual encoders, by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from indexes.errors import CrosslookError
from retrieval.encoders.adapted import AdaptedEncoder
from retrieval.encoders.base import Encoder, ImageFeatures, TextFeatures
from retrieval.encoders.lite import HEADS, HEADS_OF_LITE, LiteEncoder
from retrieval.encoders.openclip_onnx import find_export

__all__ = [
    "DEFAULT_MODEL",
    "Encoder",
    "ImageFeatures",
    "TextFeatures",
    "canonical_name",
    "is_openclip_name",
    "load_encoder",
]

DEFAULT_MODEL = "lite"
UNTRAINED_MODEL = "lite-untrained"
GPUS = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
EMBEDDED = (DEFAULT_MODEL, UNTRAINED_MODEL)


def canonical_name(name: str) -> str:
    """The name under which a collection remembers a model: that of a directory is its absolute path, and weights that
    are a file are named by theirs (`ViT-B-32:weights.pt`)."""
    if not name or name in EMBEDDED:
        return name
    if (folder := _absolute(name)).is_dir():
        return str(folder)
    architecture, colon, weights = name.partition(":")
    if colon and weights and (file := _absolute(weights)).is_file():
        return f"{architecture}:{file}"
    return name


def _absolute(path: str) -> Path:
    """Without `~`, and without `..` where what follows it is the same place."""
    expanded = Path(os.path.expanduser(path)).absolute()
    plain = Path(os.path.normpath(expanded))
    if plain == expanded or not (plain.exists() and expanded.exists()):
        return expanded
    return plain if plain.samefile(expanded) else expanded


def load_encoder(
    name: str = DEFAULT_MODEL, device: str = "auto", note: Callable[[str], None] = lambda text: None
) -> Encoder:
    """`lite`, `lite-untrained` (its towers alone), `NAME:PRETRAINED` of open_clip, or a model directory:
    one of open_clip's, or what `search train` wrote. note: told what takes long.

    Raises `CrosslookError` where there is no such model, or it cannot be loaded here."""
    name = canonical_name(name)
    if name in EMBEDDED:
        return LiteEncoder(name, heads=HEADS if name == DEFAULT_MODEL else None, device=device)
    if name and (folder := Path(name)).is_dir():  # before anything else: on Windows every absolute path has a colon
        if (folder / "open_clip_config.json").is_file():
            return _of_openclip(name, device, note)
        if (folder / "config.json").is_file():
            return _trained(folder, device, note)
        raise CrosslookError(f"{name} is not a model directory: it holds neither config.json nor open_clip_config.json")
    if is_openclip_name(name):
        return _of_openclip(name, device, note)
    raise CrosslookError(
        f"no model named {name}: use {DEFAULT_MODEL}, an open_clip model as NAME:PRETRAINED (`search models` lists "
        "some), or a model directory"
    )


def is_openclip_name(name: str) -> bool:
    """Whether a name that is no directory's is `NAME:PRETRAINED` of open_clip."""
    return ":" in name and not Path(name).is_absolute()


def _of_openclip(name: str, device: str, note: Callable[[str], None]) -> Encoder:
    """On torch where there is, or may be, a GPU; else on ONNX Runtime, to which the model is exported when it is loaded
    for the first time."""
    on_cpu = device == "cpu" or (device == "auto" and not any(path.exists() for path in GPUS))
    if on_cpu and (found := find_export(name)) is not None:
        return found
    from retrieval.encoders.openclip import load_openclip

    encoder = load_openclip(name, device)
    if not on_cpu:
        return encoder
    from retrieval.encoders.openclip_export import exported

    note(f"preparing {name} for this processor, which is done once and takes a minute or two")
    return exported(encoder) or encoder


def _trained(folder: Path, device: str, note: Callable[[str], None]) -> Encoder:
    """What `search train` wrote."""
    damaged = CrosslookError(f"{folder}/config.json is damaged: train the model again")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["kind"] == HEADS_OF_LITE:
            return LiteEncoder(str(folder), heads=folder, device=device)
        made_of = str(config["encoder"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged from error
    if canonical_name(made_of) == str(folder):  # it would be looked for without an end
        raise damaged
    try:
        encoder = load_encoder(made_of, device, note)
    except CrosslookError as error:
        raise CrosslookError(f"{folder} is a scorer for {made_of}: {error}") from error
    try:
        return AdaptedEncoder(folder, config, encoder)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error
