"""Decoders say nothing on standard error: what matters of a file is told as the reason or the note of its picture."""

from __future__ import annotations

import ctypes
import logging
import warnings
from functools import cache


@cache
def silence_decoders() -> None:
    """For the whole process, since none of it can be had for a thread alone: warnings of Pillow's and pillow_heif's
    modules are ignored; their log is not printed where nobody has set a handler; and the libtiff that Pillow uses loses
    its handlers, which write to the standard error of the process past Python."""
    from PIL import _imaging

    warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif|pillow_jxl)(\.|$)")
    for name in ("PIL", "pillow_heif"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        # Symbols are looked up through what Pillow's own module is linked with, be it bundled or the system's.
        pillow = ctypes.CDLL(_imaging.__file__)
        pillow.TIFFSetErrorHandler(None)
        pillow.TIFFSetWarningHandler(None)
    except (AttributeError, OSError):
        pass  # linked in a way that does not show them: noise, no more
