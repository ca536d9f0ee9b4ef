"""Which captions belong to which images?

In: a captions file in any of the published formats, a folder of images with sidecars, or tar shards. Out: a
`CaptionSet`, which also lists what cannot be used. Errors name the file, the position in it and the remedy."""

from retrieval.captions.caption_set import CaptionedImage, CaptionSet, Skipped, left_out_lines
from retrieval.captions.errors import CannotRead
from retrieval.captions.images import (
    absent_images,
    content_digest,
    file_of,
    missing_images,
    read_image_bytes,
    stamp,
)
from retrieval.captions.reading import read_captions

__all__ = [
    "CannotRead",
    "CaptionSet",
    "CaptionedImage",
    "Skipped",
    "absent_images",
    "content_digest",
    "file_of",
    "left_out_lines",
    "missing_images",
    "read_captions",
    "read_image_bytes",
    "stamp",
]
