"""The image files of a caption set: the bytes of one, and the names of those that are missing."""

from __future__ import annotations

import os

from retrieval.captions.faults import fault
from retrieval.captions.sets import CaptionedImage, CaptionSet
from retrieval.captions.shards import read_member


def read_image_bytes(captions: CaptionSet, image: CaptionedImage) -> bytes:
    """The file as it is, from the images folder or from inside its tar. Safe to call from several threads.

    Raises `CrosslookError` when it cannot be read."""
    if captions.images_dir is None:
        return read_member(captions.members[image.image])
    path = captions.images_dir / image.image
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}): put it there, or name another folder of images"
        raise fault(path, reason) from error


def missing_images(captions: CaptionSet) -> tuple[str, ...]:
    """The images without a file in the images folder, in the order of the set. Those of a tar are all there."""
    if captions.images_dir is None:
        return ()
    folder = str(captions.images_dir)
    return tuple(image.image for image in captions.images if not os.path.isfile(os.path.join(folder, image.image)))
