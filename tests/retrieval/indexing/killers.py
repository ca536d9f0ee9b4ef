"""Pictures that end, or hold, the process that decodes them."""

from __future__ import annotations

# A `sitecustomize.py`. A PNG with "kills" and the number of a signal at its end sends it to itself; one
# with "hangs" waits for ever.
KILLER = """
import os, signal
from PIL.PngImagePlugin import PngImageFile
real = PngImageFile._open
def _open(self):
    content = self.fp.read()
    self.fp.seek(0)
    if b"hangs" in content:
        signal.pause()
    if b"kills" in content:
        os.kill(os.getpid(), int(content.rpartition(b"kills")[2]))
        signal.pause()
    real(self)
PngImageFile._open = _open
"""
