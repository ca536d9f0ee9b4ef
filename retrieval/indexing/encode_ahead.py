"""Encoding: batches ahead of writing, several at once where that keeps a GPU busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from retrieval.encoders.base import Encoder
from retrieval.indexing.crew import Crew
from retrieval.indexing.encoding import EncodedFiles, encode_readings
from retrieval.indexing.read_ahead import Batch
from retrieval.indexing.reading import Reading

Encoded = tuple[list[Reading], EncodedFiles]
AHEAD = 2  # while one batch is computed, the pixels of the next are sent


def encode_batches(
    batches: Iterator[Batch],
    chosen: Callable[[Sequence[Reading]], Sequence[Reading]],
    encoder: Encoder,
    stops: Callable[[], bool],
) -> Generator[Encoded, None, None]:
    """The results of `encode_readings` for all batches, in their order. An encoder that takes pixels gets `AHEAD`
    batches at once.

    chosen: the readings of a batch that are to be encoded; called in the order of the batches. stops: whether no more
    batches are to be begun; those that are begun are finished."""
    if not encoder.takes_pixels:
        for batch in batches:
            yield _encoded(chosen(batch.readings), batch, encoder)
            if stops():
                return
        return
    running: deque[Future[Encoded]] = deque()
    with Crew(AHEAD, "encode") as crew:
        for batch in batches:
            running.append(crew.submit(partial(_encoded, chosen(batch.readings), batch, encoder)))
            while running and (len(running) > AHEAD or running[0].done()):
                yield running.popleft().result()
            if stops():
                break
        while running:
            yield running.popleft().result()


def _encoded(readings: Sequence[Reading], batch: Batch, encoder: Encoder) -> Encoded:
    try:
        return encode_readings(readings, encoder)
    finally:
        batch.release()
