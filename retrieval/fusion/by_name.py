"""Which scorer a name means, and which one an encoder has."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from indexes.errors import CrosslookError
from retrieval.encoders import DEFAULT_MODEL, Encoder
from retrieval.encoders.devices import gpu_of_torch
from retrieval.encoders.lite import HEADS
from retrieval.fusion.base import Scorer
from retrieval.fusion.scorer import SCORER, FusionScorer
from retrieval.fusion.similarity import BySimilarity

BLIP = "blip:"

_scorers: WeakKeyDictionary[Encoder, dict[str, FusionScorer]] = WeakKeyDictionary()  # by device
_lock = Lock()


def has_scorer(model: str) -> bool:
    """Whether the model of a name has a scorer, without loading either."""
    return ((HEADS if model == DEFAULT_MODEL else Path(model)) / SCORER).is_file()


def own_scorer(encoder: Encoder, device: str = "cpu") -> FusionScorer | None:
    """The scorer that was trained with an encoder, or None. An encoder has one scorer for each device, so that
    searching and explaining share its sessions.

    device: `cpu`; `cuda`; or `auto`, which is a GPU if torch finds one, as long as its memory suffices, and pays where
    thousands of pairs come: only this imports torch. Raises `CrosslookError` for `cuda` where torch has no GPU."""
    folder = encoder.folder
    if folder is None or not (folder / SCORER).is_file():
        return None
    gpu = gpu_of_torch(device)
    name = "cpu" if gpu is None else device
    with _lock:
        scorers = _scorers.setdefault(encoder, {})
        if name not in scorers:
            scorers[name] = FusionScorer(folder) if gpu is None else _on_device(folder, gpu, device == "auto")
        return scorers[name]


def _on_device(folder: Path, device: Any, processor_may: bool) -> FusionScorer:
    from retrieval.fusion.scorer_torch import DeviceScorer

    return DeviceScorer(folder, device, processor_may=processor_may)


def load_scorer(encoder: Encoder, name: str | None = None, device: str = "auto", many_pairs: bool = False) -> Scorer:
    """The scorer of a name, `blip:REPOSITORY_OR_DIRECTORY`. Without a name it is the encoder's own, or `BySimilarity`
    for an encoder without one.

    device: `cpu`, `cuda` or `auto`. many_pairs: whether thousands will be scored, so that the encoder's own scorer on
    `auto` is worth loading onto a GPU; for a few queries, the processor has finished before torch is imported.

    Raises `CrosslookError` if no such scorer exists, or it cannot be loaded here."""
    if name is None:
        return own_scorer(encoder, "cpu" if device == "auto" and not many_pairs else device) or BySimilarity()
    if name.startswith(BLIP):
        from retrieval.fusion.blip import load_blip

        return load_blip(name.removeprefix(BLIP), device)
    raise CrosslookError(f"no scorer named {name}: use {BLIP}NAME, such as {BLIP}Salesforce/blip-itm-base-coco")
