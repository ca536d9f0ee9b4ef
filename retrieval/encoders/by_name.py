"""Which model a name means, and how it is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from indexes.errors import CrosslookError
from indexes.on_device.gpus import may_have_gpu
from retrieval.encoders.adapted import AdaptedEncoder
from retrieval.encoders.base import Encoder
from retrieval.encoders.lite import HEADS, HEADS_OF_LITE, LiteEncoder
from retrieval.encoders.openclip_onnx import find_export

DEFAULT_MODEL = "lite"
UNTRAINED_MODEL = "lite-untrained"
EMBEDDED = (DEFAULT_MODEL, UNTRAINED_MODEL)

Note = Callable[[str], None]


def load_encoder(name: str = DEFAULT_MODEL, device: str = "auto", note: Note = lambda text: None) -> Encoder:
    """The model of a name: `lite`, `lite-untrained` (its towers alone), `NAME:PRETRAINED` of open_clip, or a model
    directory of open_clip or `search train`. note: is called with a text before anything that takes minutes, and when
    a GPU cannot be used.

    Raises `CrosslookError` if no such model exists, or it cannot be loaded here."""
    name = canonical_name(name)
    for kind in KINDS:
        if kind.recognises(name):
            return kind.load(name, device, note)
    if name and Path(name).is_dir():
        raise CrosslookError(f"{name} is not a model directory: it holds neither config.json nor open_clip_config.json")
    raise CrosslookError(
        f"no model named {name}: use {DEFAULT_MODEL}, an open_clip model as NAME:PRETRAINED (`search models` lists "
        "some), or a model directory"
    )


def canonical_name(name: str) -> str:
    """The name under which a collection remembers a model: the absolute path of a directory; for weights in a file,
    `ARCHITECTURE:` and the file's absolute path."""
    if not name or name in EMBEDDED:
        return name
    if (folder := _absolute(name)).is_dir():
        return str(folder)
    architecture, colon, weights = name.partition(":")
    if colon and weights and (file := _absolute(weights)).is_file():
        return f"{architecture}:{file}"
    return name


def is_openclip_name(name: str) -> bool:
    """Whether a name that is no directory is `NAME:PRETRAINED` of open_clip."""
    return ":" in name and not Path(name).is_absolute()  # on Windows every absolute path has a colon


def _absolute(path: str) -> Path:
    """Without `~`, and without `..` unless it leads through a link to another place."""
    expanded = Path(os.path.expanduser(path)).absolute()
    plain = Path(os.path.normpath(expanded))
    if plain == expanded or not (plain.exists() and expanded.exists()):
        return expanded
    return plain if plain.samefile(expanded) else expanded


def _holds(name: str, file: str) -> bool:
    """Whether a name is that of a directory with such a file."""
    return bool(name) and (Path(name) / file).is_file()


def _load_embedded(name: str, device: str, note: Note) -> Encoder:
    return LiteEncoder(name, heads=HEADS if name == DEFAULT_MODEL else None, device=device, note=note)


def _load_openclip(name: str, device: str, note: Note) -> Encoder:
    """On torch where a GPU may be; else on ONNX Runtime, for which a model is exported when it is first loaded."""
    on_cpu = device == "cpu" or (device == "auto" and not may_have_gpu())
    if on_cpu and (export := find_export(name)) is not None:
        return export
    from retrieval.encoders.openclip_loading import load_openclip

    encoder = load_openclip(name, device)
    if not on_cpu:
        return encoder
    from retrieval.encoders.openclip_export import exported

    note(f"preparing {name} for this processor, which is done once and takes a minute or two")
    return exported(encoder) or encoder


def _load_trained(name: str, device: str, note: Note) -> Encoder:
    """A directory that `search train` wrote: heads for lite, or a scorer for another encoder."""
    folder = Path(name)
    damaged = CrosslookError(f"{folder}/config.json is damaged: train the model again")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["kind"] == HEADS_OF_LITE:
            return LiteEncoder(name, heads=folder, device=device, note=note)
        encoder_name = str(config["encoder"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged from error
    if canonical_name(encoder_name) == name:  # loading it would never end
        raise damaged
    try:
        encoder = load_encoder(encoder_name, device, note)
    except CrosslookError as error:
        raise CrosslookError(f"{folder} is a scorer for {encoder_name}: {error}") from error
    try:
        return AdaptedEncoder(folder, config, encoder, device)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error


@dataclass(frozen=True)
class Kind:
    """A kind of model. recognises: whether a canonical name means a model of this kind. load: the encoder of such a
    name, a device, and the `note` of `load_encoder`."""

    recognises: Callable[[str], bool]
    load: Callable[[str, str, Note], Encoder]


KINDS = (  # the first whose name it is loads it
    Kind(lambda name: name in EMBEDDED, _load_embedded),
    Kind(lambda name: _holds(name, "open_clip_config.json"), _load_openclip),
    Kind(lambda name: _holds(name, "config.json"), _load_trained),
    Kind(is_openclip_name, _load_openclip),
)
