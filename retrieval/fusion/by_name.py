"""Which scorer a name means, and which one an encoder has."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from weakref import WeakKeyDictionary

from indexes.errors import CrosslookError
from retrieval.encoders import DEFAULT_MODEL, Encoder
from retrieval.encoders.lite import HEADS
from retrieval.fusion.base import Scorer
from retrieval.fusion.scorer import SCORER, FusionScorer
from retrieval.fusion.similarity import BySimilarity

BLIP = "blip:"

_scorers: WeakKeyDictionary[Encoder, FusionScorer] = WeakKeyDictionary()
_lock = Lock()


def has_scorer(model: str) -> bool:
    """Whether the model of a name has a scorer, without loading either."""
    return ((HEADS if model == DEFAULT_MODEL else Path(model)) / SCORER).is_file()


def own_scorer(encoder: Encoder) -> FusionScorer | None:
    """The scorer that was trained with an encoder, or None. An encoder has one scorer, so that
    searching and explaining share its sessions."""
    folder = encoder.folder
    with _lock:
        scorer = _scorers.get(encoder)
        if scorer is None and folder is not None and (folder / SCORER).is_file():
            scorer = _scorers[encoder] = FusionScorer(folder)
        return scorer


def load_scorer(encoder: Encoder, name: str | None = None, device: str = "auto") -> Scorer:
    """The scorer of a name, `blip:REPOSITORY_OR_DIRECTORY`. Without a name it is the encoder's own, or `BySimilarity`
    for an encoder without one.

    Raises `CrosslookError` if no such scorer exists, or it cannot be loaded here."""
    if name is None:
        return own_scorer(encoder) or BySimilarity()
    if name.startswith(BLIP):
        from retrieval.fusion.blip import load_blip

        return load_blip(name.removeprefix(BLIP), device)
    raise CrosslookError(f"no scorer named {name}: use {BLIP}NAME, such as {BLIP}Salesforce/blip-itm-base-coco")
