"""The memory that threads share while they decode."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from retrieval.images import UnreadableImage, budget, decode, decoding
from retrieval.images.budget import Budget
from retrieval.images.sizes import BYTES_A_PIXEL
from retrieval.indexing.held_pixels import HELD_BYTES
from tests.retrieval.images.files import run_python, save
from tests.retrieval.images.pictures import picture


class Watched(Budget):
    """Records the most bytes and the most holders at any one time."""

    def __init__(self, total):
        super().__init__(total)
        self.most = self.most_holders = self.holders = 0
        self._noting = threading.Lock()

    @contextmanager
    def reserve(self, size):
        with super().reserve(size):
            with self._noting:
                self.holders += 1
                self.most = max(self.most, self.taken)
                self.most_holders = max(self.most_holders, self.holders)
            try:
                yield
            finally:
                with self._noting:
                    self.holders -= 1


def held(shared, sizes, threads=8):
    """Several threads hold these sizes. A thread holds its size until another one had a chance to get in."""
    together = threading.Barrier(2)

    def hold(size):
        with shared.reserve(size):
            try:
                together.wait(0.01)
            except threading.BrokenBarrierError:
                together.reset()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hold, sizes))


@pytest.mark.parametrize("sizes", [[40] * 12, [30, 90, 10] * 5, [100] * 5, [1] * 30])
def test_no_more_is_held_at_once_than_there_is(sizes):
    shared = Watched(100)
    held(shared, sizes)
    assert shared.most <= 100 and shared.taken == 0
    assert shared.most_holders > 1 or sizes[0] == 100


def test_what_is_larger_than_all_of_it_goes_alone():
    shared = Watched(100)
    held(shared, [500, 10, 700, 10, 10, 500])
    assert shared.most in (500, 700) or shared.most == 700
    assert shared.taken == 0


def test_a_large_one_is_not_overtaken_for_ever():
    shared = Budget(100)
    order = []
    first = shared.reserve(60)
    first.__enter__()

    def hold(name, size):
        with shared.reserve(size):
            order.append(name)

    large = threading.Thread(target=hold, args=("large", 90))
    large.start()
    while shared.waiting < 1:
        pass
    small = threading.Thread(target=hold, args=("small", 10))
    small.start()
    while shared.waiting < 2:
        pass
    first.__exit__(None, None, None)
    large.join()
    small.join()
    assert order == ["large", "small"]


def test_bytes_are_released_after_an_error():
    shared = Budget(100)
    with pytest.raises(KeyboardInterrupt), shared.reserve(100):
        raise KeyboardInterrupt
    with shared.reserve(100):
        assert shared.taken == 100


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "GIF", "HEIF"])
def test_pictures_are_decoded_within_the_budget(format, monkeypatch):
    shared = Watched(3_000_000)
    monkeypatch.setattr(decoding, "PICTURES", shared)
    content = save(picture(600, 400), format)
    with ThreadPoolExecutor(8) as pool:
        photos = list(pool.map(decode, [content] * 12))
    assert {photo.pixels.shape for photo in photos} == {(400, 600, 3)}
    assert 600 * 400 * 4 <= shared.most <= max(3_000_000, 600 * 400 * 20)
    assert shared.taken == 0


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_files_that_fail_release_their_bytes(share, monkeypatch):
    shared = Watched(3_000_000)
    monkeypatch.setattr(decoding, "PICTURES", shared)
    for format in ("PNG", "WEBP", "AVIF", "HEIF", "JPEG"):
        content = save(picture(600, 400), format)
        with suppress(UnreadableImage):
            decode(content[: int(len(content) * share)])
    assert shared.taken == 0


# ------------------------------------------------------------------------------------ what a process takes

MEGAPIXELS = 6
MEASURED = """
import sys
from importlib import import_module
from pathlib import Path
for name in ("PIL._webp", "PIL._avif", "PIL.ImageCms", "pillow_heif", "PIL.Jpeg2KImagePlugin"):
    import_module(name)
from retrieval.images import TooManyPixels, decode
from tests.retrieval.images.files import files
decode(files()["png"])
content = Path(sys.argv[1]).read_bytes()
def peak():  # of this process alone: ru_maxrss begins with what its parent has
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
try:
    decode(content, min_side=int(sys.argv[2]), max_pixels=int(sys.argv[3]))
    outcome = "decoded"
except TooManyPixels:
    outcome = "refused"
print(outcome, peak() - before)
"""
SIDES = (3000, 2000)


def large(format, mode="RGB", **options):
    tile = np.add.outer(np.arange(100), np.arange(100)).astype(np.uint8)
    values = np.tile(tile, (20, 30))
    if mode == "I;16":
        return save(values.astype(np.uint16) * 257, format, **options)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    return save(values if channels == 1 else np.repeat(values[..., None], channels, axis=2), format, **options)


def blank_animation(format, **options):
    from PIL import Image

    frames = [Image.new("RGB", SIDES, value) for value in ("black", "white", "red")]
    return save(frames[0], format, save_all=True, append_images=frames[1:], **options)


HOSTILE = {
    "webp": lambda: large("WEBP", method=0, quality=10),
    "webp animation": lambda: blank_animation("WEBP", method=0),
    "png with alpha": lambda: large("PNG", "RGBA", compress_level=1),
    "png of 16 bits": lambda: large("PNG", "I;16", compress_level=1),
    "png animation": lambda: blank_animation("PNG"),
    "tiff lzw": lambda: large("TIFF", compression="tiff_lzw"),
    "gif animation": lambda: blank_animation("GIF"),
    "heic": lambda: large("HEIF", quality=10),
    "avif": lambda: large("AVIF", speed=10, quality=20),
    "jpeg progressive": lambda: large("JPEG", progressive=True, subsampling=0),
    "jpeg 2000": lambda: large("JPEG2000", "L", quality_mode="rates", quality_layers=[200]),
}


@pytest.mark.skipif("__import__('sys').platform != 'linux'", reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_picture_takes_no_more_memory_than_six_and_a_half_bytes_for_each_pixel_of_the_limit(kind, tmp_path):
    content = HOSTILE[kind]()
    path = tmp_path / "picture"
    path.write_bytes(content)
    limit = MEGAPIXELS * 1_000_000
    outcome, kib = run_python(MEASURED, str(path), "260", str(limit))
    assert (
        int(kib) * 1024 < BYTES_A_PIXEL * limit + 24_000_000
    )  # a part of it is a band of the conversion, and the heap's overhead
    if outcome == "refused":
        outcome, kib = run_python(MEASURED, str(path), "260", str(4 * limit))
        assert int(kib) * 1024 < BYTES_A_PIXEL * 4 * limit
    assert outcome == "decoded"


def test_the_budgets_together_leave_room_for_a_model_in_one_and_a_half_gibibytes():
    largest_picture = BYTES_A_PIXEL * decoding.MAX_PIXELS
    assert max(budget.MEMORY, largest_picture) + budget.CONTENTS <= 800_000_000
    assert max(budget.MEMORY, largest_picture) + budget.CONTENTS + HELD_BYTES <= 1_200_000_000
