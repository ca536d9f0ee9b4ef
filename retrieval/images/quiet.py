"""Keeps decoders silent on standard error. The reason of a failure, or a photo's note, says what matters."""

from __future__ import annotations

import ctypes
import logging
import warnings
from functools import cache


@cache
def silence_decoders() -> None:
    """Silences decoders in the whole process; it cannot be done for one thread. Ignores warnings of the modules of
    Pillow and pillow_heif. Keeps their log from being printed where no handler is set. Removes the handlers of Pillow's
    libtiff, which write to standard error without Python."""
    from PIL import _imaging

    warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif|pillow_jxl)(\.|$)")
    for name in ("PIL", "pillow_heif"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        # Symbols of the libtiff that Pillow's module is linked with, be it bundled or the system's.
        pillow = ctypes.CDLL(_imaging.__file__)
        pillow.TIFFSetErrorHandler(None)
        pillow.TIFFSetWarningHandler(None)
    except (AttributeError, OSError):
        pass  # the symbols are hidden; then libtiff prints, which does no harm
