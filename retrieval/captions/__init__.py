"""Captioned images, read from the formats in which they are published."""

from retrieval.captions.faults import CannotRead
from retrieval.captions.images import absent_images, missing_images, read_image_bytes, stamp
from retrieval.captions.reading import read_captions
from retrieval.captions.sets import CaptionedImage, CaptionSet, Skipped, left_out_lines

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
