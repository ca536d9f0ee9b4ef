"""Reading the photos of caption sets."""

from __future__ import annotations

from collections.abc import Sequence

from indexes.errors import CrosslookError
from retrieval.captions import CannotRead, CaptionedImage, CaptionSet, Skipped, absent_images, read_image_bytes
from retrieval.images import Photo, UnreadableImage, decode

Captioned = tuple[CaptionSet, CaptionedImage]  # an image, with the set that it belongs to


class UnusablePhoto(CrosslookError):
    """An image of a set cannot be read.

    reason: why, without its name. passes: True if the file system reported it, which may succeed the next time; False
    if the content is at fault."""

    def __init__(self, captions: CaptionSet, image: CaptionedImage, reason: str, passes: bool) -> None:
        self.reason = f"image {reason}"
        self.passes = passes
        super().__init__(f"{image.image} of {captions.source} {reason}: leave it out of the captions")


def photo_of(captions: CaptionSet, image: CaptionedImage, side: int) -> Photo:
    """Decode an image for a tower whose input is `side` pixels wide. Raises `UnusablePhoto` if it cannot be read."""
    try:
        return decode(read_image_bytes(captions, image), side)
    except CannotRead as error:
        raise UnusablePhoto(captions, image, error.reason, True) from error
    except UnreadableImage as error:
        raise UnusablePhoto(captions, image, " ".join(str(error).split()), False) from error


def present(sets: Sequence[CaptionSet]) -> tuple[list[Captioned], tuple[Skipped, ...]]:
    """The images of the sets whose files exist, and those whose files do not."""
    images: list[Captioned] = []
    absent: list[Skipped] = []
    for captions in sets:
        missing = absent_images(captions)
        names = {item.what for item in missing}
        images += [(captions, image) for image in captions.images if image.image not in names]
        absent += missing
    return images, tuple(absent)
