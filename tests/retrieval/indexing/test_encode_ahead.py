"""Batches are encoded ahead of writing, in their order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest

from retrieval.indexing.encode_ahead import AHEAD, encode_batches
from retrieval.indexing.files import File
from retrieval.indexing.plan import Encoding
from retrieval.indexing.read_ahead import Batch, batch_size_of
from retrieval.indexing.reading import ImageReader, Reading
from tests.retrieval.images.files import save
from tests.support import FakeEncoder, PixelEncoder

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 9, 9, 3), dtype=np.uint8)


def batches(encoder: FakeEncoder, released: list[int], taken: list[int]) -> Iterator[Batch]:
    """Twelve batches of four files, which note that they are taken and released."""
    for number, photos in enumerate(PIXELS):
        contents = {b"%d %d" % (number, index): save(pixels) for index, pixels in enumerate(photos)}
        read = ImageReader(encoder, 10_000, partial(content_of, contents))
        taken.append(number)
        readings = [read(Encoding(File(name, 0, 0, 0))) for name in contents]
        yield Batch(readings, partial(released.append, number))


def content_of(contents: dict[bytes, bytes], file: File) -> tuple[File, bytes]:
    return file, contents[file.path]


def chosen(readings: Any) -> Any:
    return readings


@pytest.fixture(params=[FakeEncoder, PixelEncoder])
def encoder(request: pytest.FixtureRequest) -> FakeEncoder:
    encoder: FakeEncoder = request.param()
    return encoder


def test_results_come_in_order_and_every_batch_is_released(encoder):
    released: list[int] = []
    results = list(encode_batches(batches(encoder, released, []), chosen, encoder, lambda: False))
    paths = [row.path for _, encoded in results for row in encoded.rows]
    assert paths == [b"%d %d" % (number, index) for number in range(12) for index in range(4)]
    expected = list(encode_batches(batches(FakeEncoder(), [], []), chosen, FakeEncoder(), lambda: False))
    for (_, encoded), (_, other) in zip(results, expected, strict=True):
        np.testing.assert_allclose(encoded.embeddings, other.embeddings, atol=1e-3)
    assert sorted(released) == list(range(12))


def test_after_a_stop_what_was_begun_is_finished(encoder):
    released: list[int] = []
    taken: list[int] = []
    seen: list[Any] = []
    for result in encode_batches(batches(encoder, released, taken), chosen, encoder, lambda: len(seen) >= 3):
        seen.append(result)
    assert 3 <= len(seen) == len(taken) == len(released) <= 3 + AHEAD + 1


def test_batches_are_encoded_at_once_on_a_gpu_and_no_more_than_that():
    together = threading.Barrier(AHEAD, timeout=60)
    running: list[int] = []

    class Together(PixelEncoder):
        def encode_images(self, prepared: Any) -> Any:
            running.append(1)
            assert len(running) <= AHEAD
            together.wait()
            running.pop()
            return super().encode_images(prepared)

    encoder = Together()
    assert len(list(encode_batches(batches(encoder, [], []), chosen, encoder, lambda: False))) == 12


def test_an_error_is_raised_and_batches_that_were_begun_are_released(encoder, monkeypatch):
    released: list[int] = []
    taken: list[int] = []
    monkeypatch.setattr(encoder, "encode_images", lambda prepared: 1 / 0)
    with (
        pytest.raises(ZeroDivisionError),
        closing(encode_batches(batches(encoder, released, taken), chosen, encoder, lambda: False)) as results,
    ):
        list(results)
    assert sorted(released) == taken


def test_few_photos_are_held_whose_pixels_are_kept_as_they_are():
    large = PixelEncoder()
    large.batch_size = 512
    assert batch_size_of(large) == 64 and batch_size_of(FakeEncoder()) == FakeEncoder.batch_size


def test_what_is_not_chosen_is_not_encoded(encoder):
    def first(readings: Sequence[Reading]) -> Sequence[Reading]:
        return readings[:1]

    results = list(encode_batches(batches(encoder, [], []), first, encoder, lambda: False))
    assert sum(len(encoded.rows) for _, encoded in results) == encoder.encoded == 12
