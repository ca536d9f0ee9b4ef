"""Image files as upright arrays.

What decodes is loaded when it is first asked for, since a query decodes nothing; and Pillow only when an image is
decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrieval.images.photo import INCOMPLETE, Photo, TooManyPixels, TooSlow, UnreadableImage

if TYPE_CHECKING:
    from retrieval.images.budget import FILES
    from retrieval.images.decoding import MAX_PIXELS, MAX_SECONDS, decode
    from retrieval.images.formats import ENDINGS, RAW_ENDINGS, RECOGNISED

__all__ = [
    "ENDINGS",
    "FILES",
    "INCOMPLETE",
    "MAX_PIXELS",
    "MAX_SECONDS",
    "RAW_ENDINGS",
    "RECOGNISED",
    "Photo",
    "TooManyPixels",
    "TooSlow",
    "UnreadableImage",
    "decode",
]

_HOMES = {
    "FILES": "budget",
    "MAX_PIXELS": "decoding",
    "MAX_SECONDS": "decoding",
    "decode": "decoding",
    "ENDINGS": "formats",
    "RAW_ENDINGS": "formats",
    "RECOGNISED": "formats",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"retrieval.images.{_HOMES[name]}"), name)
