"""Corrects or refuses the kinds of files that Pillow decodes wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrieval.images.photo import UnreadableImage

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _SUBSAMPLING, _STRIP_BYTES = 258, 259, 262, 284, 530, 279
_RAW, _SEPARATE, _YCBCR = 1, 2, 6
_VERSION_INFO = 1057
_PACKED = "packbits"


def fix_psd_offsets(image: ImageFile, content: bytes) -> None:
    """Corrects the offsets of packed PSD files with masks. Their lines begin after the line lengths of all channels;
    Pillow expects them after those of the channels that it uses."""
    if image.format != "PSD":
        return
    masks = int.from_bytes(content[12:14]) - len(image.tile)
    if masks > 0 and all(tile[0] == _PACKED for tile in image.tile):
        image.tile = [tile._replace(offset=tile.offset + 2 * masks * image.height) for tile in image.tile]


def refuse_wrong_kinds(image: ImageFile) -> None:
    """Raises `UnreadableImage` for kinds of TIFF and PSD files that Pillow would show wrongly."""
    if image.format == "TIFF":
        reason = _wrong_in_tiff(image)
    else:
        reason = _wrong_in_psd(image) if image.format == "PSD" else None
    if reason is not None:
        raise UnreadableImage(reason)


def _wrong_in_tiff(image: ImageFile) -> str | None:
    tags = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_COMPRESSION, _RAW) != _RAW:
        return None
    bits = tags.get(_BITS_PER_SAMPLE, (1,))
    if tags.get(_PLANAR) == _SEPARATE and max(bits) > 8:
        return "is a TIFF file of separate colours of 16 bits without compression, which is not read: save it as 8 bits"
    if tags.get(_PHOTOMETRIC) == _YCBCR and len(bits) == 3:
        needed = image.width * image.height * 3
        if sum(tags.get(_STRIP_BYTES, (needed,))) < needed:
            return "is a TIFF file of subsampled colours without compression, which is not read: save it as RGB"
    return None


def _wrong_in_psd(image: ImageFile) -> str | None:
    for number, _, body in image.resources:  # type: ignore[attr-defined]
        if number == _VERSION_INFO and body[4:5] == b"\0":
            return "is a PSD file without a picture of its layers together: save it with maximum compatibility"
    return None
