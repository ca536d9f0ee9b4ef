"""The second stage: scorers look at a query and its candidates, and rank them."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from weakref import WeakKeyDictionary

from indexes.errors import CrosslookError
from retrieval.encoders import DEFAULT_MODEL
from retrieval.encoders.base import Encoder
from retrieval.encoders.lite import HEADS
from retrieval.fusion.base import PhotoScorer, Scorer
from retrieval.fusion.scorer import SCORER, FusionScorer

__all__ = ["FusionScorer", "PhotoScorer", "Scorer", "has_scorer", "load_scorer", "own_scorer"]

BLIP = "blip:"

_own: WeakKeyDictionary[Encoder, FusionScorer] = WeakKeyDictionary()
_looking = Lock()


def has_scorer(model: str) -> bool:
    """Whether the model of a name has a scorer of its own, without loading either."""
    return ((HEADS if model == DEFAULT_MODEL else Path(model)) / SCORER).is_file()


def own_scorer(encoder: Encoder) -> FusionScorer | None:
    """The scorer that was trained with an encoder, None where there is none. One encoder has one scorer, so that who
    searches and who explains share its sessions."""
    folder = encoder.folder
    with _looking:
        scorer = _own.get(encoder)
        if scorer is None and folder is not None and (folder / SCORER).is_file():
            scorer = _own[encoder] = FusionScorer(folder)
        return scorer


def load_scorer(encoder: Encoder, name: str | None = None, device: str = "auto") -> Scorer | PhotoScorer | None:
    """The scorer of a name, `blip:REPOSITORY_OR_DIRECTORY`; without a name the encoder's own.

    Raises `CrosslookError` where there is no such scorer, or it cannot be loaded here."""
    if name is None:
        return own_scorer(encoder)
    if name.startswith(BLIP):
        from retrieval.fusion.blip import load_blip

        return load_blip(name.removeprefix(BLIP), device)
    raise CrosslookError(f"no scorer named {name}: use {BLIP}NAME, such as {BLIP}Salesforce/blip-itm-base-coco")
