"""Reading: many files, ahead of the encoder, in batches as it takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from retrieval.indexing.plan import Encoding
from retrieval.indexing.reading import Reading


def read_batches(
    encodings: Sequence[Encoding], read: Callable[[Encoding], Reading], size: int, threads: int
) -> Iterator[list[Reading]]:
    """The results of `read` for all encodings, in their order, in lists of `size`; the last list may be shorter.

    threads: how many files are read at once, up to 2 * (threads + size) ahead of what was taken. With 0, a batch is
    read in the calling thread when it is asked for."""
    readings = map(read, encodings) if threads == 0 else _read_ahead(encodings, read, 2 * (threads + size), threads)
    while batch := list(islice(readings, size)):
        yield batch


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
