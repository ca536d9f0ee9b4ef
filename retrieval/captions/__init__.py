"""Captioned images, read from the formats in which they are published."""

from retrieval.captions.caption_set import CaptionedImage, CaptionSet, Skipped, left_out_lines
from retrieval.captions.errors import CannotRead
from retrieval.captions.images import absent_images, missing_images, read_image_bytes, stamp
from retrieval.captions.reading import read_captions

__all__ = [
    "CannotRead",
    "CaptionSet",
    "CaptionedImage",
    "Skipped",
    "absent_images",
    "left_out_lines",
    "missing_images",
    "read_captions",
    "read_image_bytes",
    "stamp",
]
