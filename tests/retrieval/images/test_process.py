"""Decoding in many threads, and its effects on the process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from retrieval.images import MAX_PIXELS, decode
from tests.retrieval.images.files import (
    VARIANTS,
    files,
    run_python,
)


def test_eight_threads_decode_as_one_does():
    contents = list(files().values())
    one_by_one = [decode(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, contents * 8))
    for index, photo in enumerate(together):
        alone = one_by_one[index % len(contents)]
        assert np.array_equal(photo.pixels, alone.pixels)
        assert (photo.width, photo.height, photo.taken_at) == (alone.width, alone.height, alone.taken_at)


def test_eight_threads_may_decode_the_first_images_of_a_process(tmp_path):
    kinds = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "heic", "avif")
    for kind in kinds:
        (tmp_path / kind).write_bytes(files()[kind])
    program = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from retrieval.images import MAX_PIXELS, decode
paths = sorted(Path(sys.argv[1]).iterdir())
together = threading.Barrier(len(paths))
def first(path):
    content = path.read_bytes()
    together.wait()
    return path.name, decode(content).width
with ThreadPoolExecutor(len(paths)) as pool:
    for name, width in pool.map(first, paths):
        print(f"{name}:{width}")
"""
    turned = ("jpeg", "png", "webp", "tiff", "heic", "avif")
    assert run_python(program, str(tmp_path)) == [f"{kind}:{32 if kind in turned else 48}" for kind in sorted(kinds)]


def test_importing_the_module_imports_neither_pillow_nor_libheif():
    program = "import sys, retrieval.images; print(*{name.partition('.')[0] for name in sys.modules})"
    assert not {"PIL", "pillow_heif", "_pillow_heif"} & set(run_python(program))


SETTINGS = """
import logging, sys, warnings
from pathlib import Path
import retrieval.images
from PIL import Image
Image.init()
def settings():
    modules = {name: module for name, module in sys.modules.items() if name.startswith("PIL.") and module}
    plain = (bool, int, float, str, tuple, type(None))
    values = {f"{name}.{key}": repr(value) for name, module in modules.items() for key, value in vars(module).items()
              if key.isupper() and isinstance(value, plain)}
    names = {f"open.{name}": "" for name in Image.OPEN}
    levels = {"level": logging.getLogger().level, "root handlers": repr(logging.getLogger().handlers)}
    return values | names | levels | {"filters": repr(warnings.filters)}
before = settings()
for path in sorted(Path(sys.argv[1]).iterdir()):
    retrieval.images.decode(path.read_bytes(), max_pixels=int(sys.argv[2]))
after = settings()
print(*sorted(key for key in after if after[key] != before.get(key) and key.rpartition(".")[0] in {
    key.rpartition(".")[0] for key in before}))
"""


def written(folder, names):
    for name in names:
        (folder / name).write_bytes(files()[name])
    return str(folder)


def test_of_the_settings_of_pillow_and_python_only_the_filter_of_warnings_changes(tmp_path):
    assert run_python(SETTINGS, written(tmp_path, VARIANTS), str(MAX_PIXELS)) == ["filters"]


def test_the_cap_of_pillow_is_lifted_only_where_more_is_asked_for_than_it_allows(tmp_path):
    folder = written(tmp_path, ["png"])
    assert run_python(SETTINGS, folder, "178956970") == ["filters"]
    assert run_python(SETTINGS, folder, "178956971") == ["PIL.Image.MAX_IMAGE_PIXELS", "filters"]


def test_the_first_file_of_a_process_that_has_no_file_handles_left_is_not_taken_for_damaged(tmp_path):
    """If Pillow cannot load a format's library, it takes the format for missing as long as the process lives."""
    program = """
import os, resource, sys
from pathlib import Path
from retrieval.images import UnreadableImage, decode
contents = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
handles = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
while True:
    try:
        handles.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        break
for content in contents:
    try:
        decode(content)
        print("decoded")
    except (OSError, ImportError):
        print("passes")
    except UnreadableImage as error:
        print(str(error).replace(" ", "_"))
for handle in handles:
    os.close(handle)
print(*(decode(content).width for content in contents))
"""
    folder = written(tmp_path, ["avif", "heic", "webp lossless", "jpeg"])
    assert run_python(program, folder) == ["passes"] * 4 + ["32", "32", "32", "48"]
