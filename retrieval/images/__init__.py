"""What does an image file show?

In: the bytes of a file in any common format. Out: a `Photo`, upright, in sRGB; or the reason why there is none.
Decoding modules and Pillow are imported lazily, on first use: a query decodes nothing.

Words: a file is bytes; a picture is what a decoder opens, of which a file may have several; a photo is the upright
sRGB array."""

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

_MODULES = {
    "FILES": "budget",
    "MAX_PIXELS": "decoding",
    "MAX_SECONDS": "decoding",
    "decode": "decoding",
    "ENDINGS": "formats",
    "RAW_ENDINGS": "formats",
    "RECOGNISED": "formats",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"retrieval.images.{_MODULES[name]}"), name)
