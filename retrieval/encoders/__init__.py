"""Dual encoders, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from indexes.errors import CrosslookError
from retrieval.encoders.adapted import AdaptedEncoder
from retrieval.encoders.base import Encoder, ImageFeatures, TextFeatures
from retrieval.encoders.exported import find_export
from retrieval.encoders.lite import HEADS, HEADS_OF_LITE, LiteEncoder

__all__ = ["DEFAULT_MODEL", "Encoder", "ImageFeatures", "TextFeatures", "canonical_name", "load_encoder"]

DEFAULT_MODEL = "lite"
UNTRAINED_MODEL = "lite-untrained"
GPUS = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
EMBEDDED = (DEFAULT_MODEL, UNTRAINED_MODEL)


def canonical_name(name: str) -> str:
    """The name under which a collection remembers a model: that of a directory is its absolute path."""
    return str(Path(name).absolute()) if name not in EMBEDDED and Path(name).is_dir() else name


def load_encoder(
    name: str = DEFAULT_MODEL, device: str = "auto", note: Callable[[str], None] = lambda text: None
) -> Encoder:
    """`lite`, `lite-untrained` (its towers alone), `NAME:PRETRAINED` of open_clip, or a model directory:
    one of open_clip's, or what `search train` wrote. note: told what takes long.

    Raises `CrosslookError` where there is no such model, or it cannot be loaded here."""
    name = canonical_name(name)
    if name in EMBEDDED:
        return LiteEncoder(name, heads=HEADS if name == DEFAULT_MODEL else None, device=device)
    if ":" in name or (Path(name) / "open_clip_config.json").is_file():
        return _of_openclip(name, device, note)
    if (Path(name) / "config.json").is_file():
        return _trained(Path(name), device, note)
    if Path(name).is_dir():
        raise CrosslookError(f"{name} is not a model directory: it holds neither config.json nor open_clip_config.json")
    raise CrosslookError(
        f"no model named {name}: use {DEFAULT_MODEL}, an open_clip model as NAME:PRETRAINED (`search models` lists "
        "some), or a model directory"
    )


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
    from retrieval.encoders.exporting import exported

    note(f"preparing {name} for this processor, which is done once and takes a minute or two")
    return exported(encoder) or encoder


def _trained(folder: Path, device: str, note: Callable[[str], None]) -> Encoder:
    """What `search train` wrote."""
    try:
        config = json.loads((folder / "config.json").read_text())
        kind = config["kind"]
        if kind == HEADS_OF_LITE:
            return LiteEncoder(str(folder), heads=folder, device=device)
        made_of = str(config["encoder"])
    except (ValueError, KeyError, TypeError) as error:
        raise CrosslookError(f"{folder}/config.json is damaged: train the model again") from error
    try:
        encoder = load_encoder(made_of, device, note)
    except CrosslookError as error:
        raise CrosslookError(f"{folder} is a scorer for {made_of}: {error}") from error
    return AdaptedEncoder(folder, config, encoder)
