"""Decoders are silent."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from retrieval.images import UnreadableImage, decode
from tests.mutations import mutations
from tests.retrieval.images.files import files, save, tiff, tiff_with
from tests.retrieval.images.pictures import GREY, picture

PROGRAM = """
import sys
from pathlib import Path
from retrieval.images import UnreadableImage, decode
outcomes = set()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path.read_bytes())
        outcomes.add("decoded")
    except UnreadableImage:
        outcomes.add("unreadable")
print(*sorted(outcomes))
"""


def noisy():
    """Files about which libtiff, libjpeg, libpng, Pillow and others print or log something."""
    lzw = save(picture(), "TIFF", compression="tiff_lzw")
    jpeg = save(picture(), "TIFF", compression="jpeg")
    samples = {
        "lzw cut": lzw[: len(lzw) // 2] + bytes(60) + lzw[len(lzw) // 2 + 60 :],
        "tags": tiff_with(tiff(GREY), RowsPerStrip=7, StripByteCounts=11),
        "compression": tiff_with(tiff(GREY), Compression=5),
        "deflate": tiff_with(tiff(GREY), Compression=8),
        "group 4": tiff_with(tiff(GREY > 128), Compression=4),
        "jpeg in tiff": jpeg[:300] + bytes(200) + jpeg[500:],
        "many samples": tiff_with(tiff(picture()), SamplesPerPixel=60_000),
    }
    return samples | {name: content for name, content in mutations(files(), 400, seed=5) if "tiff" in name}


@pytest.mark.parametrize("flags", [[], ["-W", "error"], ["-W", "always"]], ids=str)
def test_nothing_is_written_to_the_terminal_while_files_are_decoded(flags, tmp_path):
    for name, content in noisy().items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run([sys.executable, *flags, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "decoded unreadable\n", "")


def test_pillow_alone_would_have_written(tmp_path):
    """So that the test above cannot pass just because nothing makes noise."""
    program = PROGRAM.replace("import sys\n", "import sys\nfrom PIL import Image\n", 1)
    program = program.replace("decode(path.read_bytes())", "Image.open(path).convert('RGB')")
    program = program.replace("except UnreadableImage", "except Exception")
    for name, content in noisy().items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert "Warning" in done.stderr and "TIFF" in done.stderr.upper()


def test_handlers_that_a_program_has_set_still_get_what_pillow_logs(caplog):
    with caplog.at_level(logging.DEBUG, "PIL"), pytest.raises(UnreadableImage):
        decode(tiff_with(tiff(picture()), SamplesPerPixel=60_000))
    assert "samples per pixel" in caplog.text
