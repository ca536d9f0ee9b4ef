"""Reading: photos as they were decoded, in batches that are bounded in number, bytes and time.

A photo may take 43 MB, and a drive may take a second a file. So a batch is closed when it is full, when its photos take
a part of the memory that there is for all, or when it has waited for `BATCH_SECONDS`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial

from retrieval.indexing.crew import Crew
from retrieval.indexing.held_pixels import HeldPixels
from retrieval.indexing.plan import Encoding
from retrieval.indexing.read_ahead import Batch
from retrieval.indexing.reading import Reading

BATCH_SECONDS = 2.0
STAGES = 4  # batches whose pixels are held: one is being read, one waits, two are being encoded
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ReadChunk:
    """readings: of some files, in their order. blocks: of shared memory, that hold pixels. held: bytes of other pixels,
    of `HeldPixels`. seconds: that a file took."""

    readings: list[Reading]
    blocks: list[int] = field(default_factory=list)
    held: int = 0
    seconds: float = 0.0


Running = deque[Future[ReadChunk]]


def photo_batches(
    encodings: Sequence[Encoding],
    read: Callable[[Encoding], Reading],
    size: int,
    threads: int,
    stops: Callable[[], bool] = lambda: False,
    held: HeldPixels | None = None,
) -> Iterator[Batch]:
    """The results of `read` for all encodings, in their order, in batches of up to `size`, by threads of this process.
    What a batch holds must be released.

    threads: how many files are read at once, up to 2 * (threads + size) ahead of what was taken. With 0, or where none
    can be started, a batch is read in the calling thread when it is asked for. stops: whether no more is to be read;
    what is read is passed on."""
    held = HeldPixels() if held is None else held
    left = deque(encodings)
    turn = 0

    def begin(crew: Crew, running: Running, waits: bool) -> None:
        nonlocal turn
        most = 2 * (threads + size) if crew.count else 1
        while left and len(running) < most:
            task = partial(_read, read, left.popleft(), held, turn, waits=crew.count > 0)
            running.append(crew.submit(task))
            turn += 1

    with Crew(threads, "decode", cancels=True) as crew:
        try:
            yield from gathered(partial(begin, crew), deque(), held, size, lambda blocks: None, 1, stops)
        finally:
            held.close()


def _read(
    read: Callable[[Encoding], Reading], encoding: Encoding, held: HeldPixels, turn: int, waits: bool
) -> ReadChunk:
    reading = read(encoding)
    size = 0 if reading.prepared is None else reading.prepared.nbytes
    held.admit(turn, size, waits)
    return ReadChunk([reading], held=size)


def gathered(
    begin: Callable[[Running, bool], None],
    running: Running,
    held: HeldPixels,
    size: int,
    give_back: Callable[[list[int]], None],
    most_blocks: int,
    stops: Callable[[], bool],
    seen: Callable[[ReadChunk], None] = lambda chunk: None,
) -> Iterator[Batch]:
    """Batches of chunks, in order. begin: adds chunks to `running`, the n-th with turn n; if none is running and its
    second argument is true, it waits until it can add one, unless all are done. give_back: takes blocks that are no
    longer needed. most_blocks: of one batch. seen: called with every chunk."""
    batch = _GrowingBatch()
    turn = 0
    is_stopped = False
    while True:
        if not is_stopped:
            begin(running, not batch.readings)
        if not running or (is_stopped and not running[0].done()):
            if not batch.readings:
                return
            yield batch.closed()
            continue
        held.expect(turn)
        is_large = batch.held >= held.total // STAGES or batch.blocks >= most_blocks
        is_full = bool(batch.readings) and (is_large or batch.has_waited)
        while not (is_full or running[0].done()):
            wait([running[0]], timeout=_POLL_SECONDS)
            is_stopped = stops()
            is_full = is_stopped or batch.has_waited or (bool(batch.readings) and held.lacks_room(turn))
        if is_full:
            if batch.readings:
                yield batch.closed()
            continue
        chunk = running.popleft().result()
        turn += 1
        seen(chunk)
        held.pass_on(chunk.held)
        parts, low = [], 0
        while low < len(chunk.readings):
            parts.append(chunk.readings[low : low + size - (len(batch.readings) if low == 0 else 0)])
            low += len(parts[-1])
        lease = _Lease(chunk, len(parts), held, give_back)
        for part in parts:
            batch.add(part, lease)
            if len(batch.readings) == size:
                yield batch.closed()


class _Lease:
    """The memory of a chunk, which is released when all batches are that have a part of it."""

    def __init__(self, chunk: ReadChunk, parts: int, held: HeldPixels, give_back: Callable[[list[int]], None]) -> None:
        self.blocks = chunk.blocks
        self.size = chunk.held
        self._parts = parts
        self._held = held
        self._give_back = give_back
        self._changing = threading.Lock()
        if parts == 0:
            self._release()

    def drop(self) -> None:
        with self._changing:
            self._parts -= 1
            is_last = self._parts == 0
        if is_last:
            self._release()

    def _release(self) -> None:
        self._held.release(self.size)
        self._give_back(self.blocks)


class _GrowingBatch:
    """blocks, held: of chunks of which the batch has a part."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.blocks = 0
        self.held = 0
        self._leases: list[_Lease] = []
        self._since = 0.0

    def add(self, readings: list[Reading], lease: _Lease) -> None:
        if not self.readings:
            self._since = time.monotonic()
        self.readings += readings
        self.blocks += len(lease.blocks)
        self.held += lease.size
        self._leases.append(lease)

    @property
    def has_waited(self) -> bool:
        return bool(self.readings) and time.monotonic() - self._since >= BATCH_SECONDS

    def closed(self) -> Batch:
        """The batch. This one is empty from now on."""
        batch = Batch(self.readings, partial(_drop, self._leases))
        self.readings, self.blocks, self.held, self._leases = [], 0, 0, []
        return batch


def _drop(leases: list[_Lease]) -> None:
    for lease in leases:
        lease.drop()
