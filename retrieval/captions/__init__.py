"""Captioned images, read from the formats in which they are published."""

from retrieval.captions.images import missing_images, read_image_bytes
from retrieval.captions.reading import read_captions
from retrieval.captions.sets import CaptionedImage, CaptionSet, Skipped

__all__ = ["CaptionSet", "CaptionedImage", "Skipped", "missing_images", "read_captions", "read_image_bytes"]
