"""Reading: many files by worker processes, for encoders that are faster than the threads of one interpreter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from queue import SimpleQueue

from retrieval.encoders.registered_memory import registered
from retrieval.indexing.crew import Crew, can_start_threads
from retrieval.indexing.held_pixels import HeldPixels
from retrieval.indexing.photo_batches import STAGES, ReadChunk, Running, gathered
from retrieval.indexing.plan import Encoding
from retrieval.indexing.read_ahead import Batch
from retrieval.indexing.reading import ImageReader
from retrieval.indexing.shared_pixels import BLOCK_BYTES, MOST_WORKERS, SharedPixels
from retrieval.indexing.worker_lane import Lane
from retrieval.usable_memory import usable_memory

CHUNK = 16  # files that a worker is given at once
CHUNKS_AHEAD = 2  # for every worker
SHARED_BYTES = 2_200_000_000  # at most, for pixels; an eighth of the memory of a small machine
OTHER_CORES = 3  # for the threads that encode, write, and talk to the workers
LEAST_CORES = 4
MOST_POSITIONS = 100_000  # of known contents, which every worker holds
CHUNK_SECONDS = 0.5  # for one chunk, where drives are slow
OTHER_THREADS = 8  # that this process needs beside: they encode, write, and send pixels


def worker_count(files: int, batch_size: int, cores: int, positions: int) -> int:
    """How many workers pay for a run over so many files; 0 if threads are better. positions: how many contents are
    known."""
    if files < batch_size or cores < LEAST_CORES or positions > MOST_POSITIONS:
        return 0
    return min(cores - OTHER_CORES, MOST_WORKERS, -(-files // CHUNK))


class WorkerReader:
    """A context manager that starts workers. Raises `OSError` if there is no memory to share, or no worker starts."""

    def __init__(self, read: ImageReader, count: int, files: int, block_bytes: int = BLOCK_BYTES) -> None:
        """read: reads in this process what workers leave to it. files: how many there will be, about."""
        blocks = max(count + 2 * STAGES, shared_bytes() // block_bytes)
        self._memory = SharedPixels.created(blocks, block_bytes)
        # Of the blocks: usual chunks take one each, and so do the first ones, of a single file.
        self._registered = min(blocks, -(-files // CHUNK) + CHUNKS_AHEAD * count)
        self._held = HeldPixels()
        self._lanes = [Lane(number, read, self._memory, self._held) for number in range(count)]
        self._idle: SimpleQueue[Lane] = SimpleQueue()
        self._length = 1  # of a chunk, while nothing is known of the files
        self._closing = ExitStack()
        self._closing.callback(self._memory.close)

    def __enter__(self) -> WorkerReader:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def _start(self) -> None:
        self._closing.callback(self._close_lanes)
        self._crew = self._closing.enter_context(Crew(len(self._lanes), "worker", cancels=True))
        self._closing.callback(self._stop)
        started: list[Lane] = []
        errors: list[OSError] = []
        for lane in self._lanes[: self._crew.count]:
            try:
                lane.start()
                started.append(lane)
            except OSError as error:
                errors.append(error)
        while started and not can_start_threads(OTHER_THREADS):
            for lane in started[len(started) // 2 :]:
                lane.close()
            started = started[: len(started) // 2]
        self._count = len(started)
        for lane in started:
            self._idle.put(lane)
        if not started:
            raise errors[0] if errors else OSError("too many threads and processes")

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def _stop(self) -> None:
        self._held.close()
        for lane in self._lanes:
            lane.stop()

    def _close_lanes(self) -> None:
        for lane in self._lanes:
            lane.close()

    def batches(
        self, encodings: Sequence[Encoding], size: int, stops: Callable[[], bool] = lambda: False
    ) -> Iterator[Batch]:
        """The readings of all encodings, in their order, in batches of up to `size` photos. `prepared` is the pixels of
        a photo, and valid until its batch is released. Batches are smaller where `size` photos do not fit a part of
        the memory, or files come slowly. stops: whether no more is to be read; what is read is passed on."""
        left = deque(encodings)
        turns = count()
        ahead = CHUNKS_AHEAD * self._count
        most = min(CHUNK, size)

        def begin(running: Running, waits: bool) -> None:
            while left and len(running) < ahead:
                # Waits only if all blocks are with the encoder, which gives them back.
                block = self._memory.take(wait=waits and not running)
                if block is None:
                    return
                chunk = [left.popleft() for _ in range(min(self._length, most, len(left)))]
                running.append(self._crew.submit(partial(self._chunk, chunk, block, next(turns))))

        running: Running = deque()
        begin(running, True)
        self._closing.enter_context(registered(self._memory.parts[: self._registered]))
        most_blocks = self._memory.blocks // STAGES
        yield from gathered(
            begin, running, self._held, size, self._memory.give_back, most_blocks, stops, self._note_sizes
        )

    @property
    def given_up(self) -> int:
        """How many threads read by themselves, since their workers end whatever they read."""
        return sum(lane.has_given_up for lane in self._lanes)

    def _note_sizes(self, chunk: ReadChunk) -> None:
        """Chunks of files like these have their pixels in one block, and take no longer than `CHUNK_SECONDS`."""
        sizes = [reading.prepared.nbytes for reading in chunk.readings if reading.prepared is not None]
        fitting = self._memory.block_bytes * len(sizes) // sum(sizes) if sizes else CHUNK
        self._length = max(1, min(CHUNK, fitting, int(CHUNK_SECONDS / max(chunk.seconds, 1e-6))))

    def _chunk(self, encodings: Sequence[Encoding], block: int, turn: int) -> ReadChunk:
        lane = self._idle.get()
        try:
            return lane.read(encodings, block, turn)
        finally:
            self._idle.put(lane)


def shared_bytes() -> int:
    """How much memory may hold pixels."""
    memory = usable_memory()
    return SHARED_BYTES if memory is None else min(SHARED_BYTES, memory // 8)
