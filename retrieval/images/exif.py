"""Which side of a picture is up, and when was it taken?"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from retrieval.images.photo import is_of_the_content

if TYPE_CHECKING:
    from PIL.Image import Exif, Image

ORIENTATION, TAKEN, CHANGED, EXIF = 0x0112, 0x9003, 0x0132, 0x8769
FIRST_PHOTOGRAPH, LAST_YEAR = 1826, 2200
UPRIGHT = 1


def orientation(image: Image, content: bytes, otherwise: int = UPRIGHT) -> int:
    """The EXIF orientation, 1 to 8, of the loaded pixels; `otherwise` if the file does not tell it.

    Pillow turns a TIFF as it loads it, and removes the tag. libavif and libheif apply the rotation of the container.
    Pillow passes AVIF's rotation on as if it were EXIF. The EXIF of HEIC counts only where its container does not turn
    the picture."""
    if image.format == "HEIF":
        return _orientation_of_heic(image, content)
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return UPRIGHT  # libjxl has turned it, unless it gave a JPEG file back
    if image.format == "AVIF":
        image.info.pop("xmp", None)  # where Pillow would look next
    return sane_orientation(tag(image, ORIENTATION), otherwise)


def sane_orientation(value: Any, otherwise: int = UPRIGHT) -> int:
    return value if isinstance(value, int) and UPRIGHT <= value <= 8 else otherwise


def _orientation_of_heic(image: Image, content: bytes) -> int:
    """pillow_heif writes 1 into the EXIF of an image that it loads, so the orientation is read from the file again."""
    if image.info.get("original_orientation") in (None, UPRIGHT):
        return UPRIGHT
    from PIL.Image import Exif
    from pillow_heif import open_heif

    heif = open_heif(content)
    transformations = getattr(heif[heif.primary_index]._c_image, "transformations", None)
    if transformations is None:  # before pillow_heif 1.5
        transformations = [name for name in ("irot", "imir") if name.encode() in content]
    if any(name in str(step) for step in transformations for name in ("irot", "imir")):
        return UPRIGHT
    exif = Exif()
    try:
        exif.load(heif.info.get("exif") or b"")
        return sane_orientation(exif.get(ORIENTATION))
    except Exception:  # damaged EXIF is no reason to lose the picture
        return UPRIGHT


def taken_at(image: Image) -> datetime | None:
    """DateTimeOriginal, else DateTime, in the camera's local time. None unless it is a plausible date."""
    return sane_date(tag(image, TAKEN, EXIF)) or sane_date(tag(image, CHANGED))


def sane_date(text: Any) -> datetime | None:
    try:
        date = datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    return date if FIRST_PHOTOGRAPH <= date.year <= LAST_YEAR else None


def tag(image: Image | Exif, number: int, directory: int | None = None) -> Any:
    """A value from the EXIF of a loaded image. None if it is absent or damaged, which is no reason to lose the picture.
    For a PNG image that is not loaded yet, Pillow would load it to look for the EXIF."""
    try:
        exif = image.getexif() if hasattr(image, "getexif") else image
        return (exif if directory is None else exif.get_ifd(directory)).get(number)
    except Exception as error:
        if not is_of_the_content(error):
            raise
        return None
