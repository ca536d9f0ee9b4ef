"""Reading: many files, ahead of the encoder, in batches as it takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from retrieval.encoders.base import Encoder
from retrieval.indexing.plan import Encoding
from retrieval.indexing.reading import Reading

MOST_PIXELS = 64  # photos at once whose pixels are held as they are, each of up to 12 MB


@dataclass(frozen=True)
class Batch:
    """What was read of some files. release: to be called when they are encoded; then `prepared` is no longer valid."""

    readings: list[Reading]
    release: Callable[[], None] = lambda: None


def batch_size_of(encoder: Encoder) -> int:
    """How many files make a batch that this process reads: as many as the encoder likes, but few whole photos."""
    return min(encoder.batch_size, MOST_PIXELS) if encoder.takes_pixels else encoder.batch_size


def read_batches(
    encodings: Sequence[Encoding], read: Callable[[Encoding], Reading], size: int, threads: int
) -> Iterator[Batch]:
    """The results of `read` for all encodings, in their order, in batches of `size`; the last one may be smaller.

    threads: how many files are read at once, up to 2 * (threads + size) ahead of what was taken. With 0, a batch is
    read in the calling thread when it is asked for."""
    readings = map(read, encodings) if threads == 0 else _read_ahead(encodings, read, 2 * (threads + size), threads)
    while batch := list(islice(readings, size)):
        yield Batch(batch)


def _read_ahead(
    encodings: Sequence[Encoding], read: Callable[[Encoding], Reading], ahead: int, threads: int
) -> Iterator[Reading]:
    waiting: deque[Future[Reading]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as decoding:
        try:
            for encoding in encodings:
                waiting.append(decoding.submit(read, encoding))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            decoding.shutdown(cancel_futures=True)
