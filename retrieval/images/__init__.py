"""Image files as upright arrays. Pillow is imported only when an image is decoded."""

from retrieval.images.budget import FILES
from retrieval.images.decoding import MAX_PIXELS, MAX_SECONDS, decode
from retrieval.images.formats import ENDINGS, RAW_ENDINGS, RECOGNISED
from retrieval.images.photo import INCOMPLETE, Photo, TooManyPixels, TooSlow, UnreadableImage

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
