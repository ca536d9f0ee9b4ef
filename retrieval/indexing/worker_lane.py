"""Reading: one worker process, and another one in its place when it ends.

A worker that dies costs no run: the file that it was reading is decoded once more by a process that does nothing else,
and its other files are read again. Where no process can be started, the thread that asks reads."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from retrieval.indexing.held_pixels import HeldPixels
from retrieval.indexing.in_flight import InFlight, KillsDecoder, MayPass, Slot, interpreter, refuse_killer
from retrieval.indexing.photo_batches import ReadChunk
from retrieval.indexing.plan import Encoding
from retrieval.indexing.reading import ImageReader, Reading, failure_of
from retrieval.indexing.shared_pixels import DECODING, IDLE, SharedPixels
from retrieval.indexing.worker import Answer, Chunk, Work

SECONDS = 300.0  # without an answer or progress, until a worker is taken to hang
MOST_IDLE_ENDS = 2  # of workers in a row, while they read no file: what they answer does not arrive
_START = "from retrieval.indexing.worker import main; main()"


class _WorkerEnded(Exception):
    """progress: of the worker, as of `SharedPixels`. number: of the file in its chunk that the worker was at; `IDLE` if
    there was none. hangs: it was ended from here, since it took too long."""

    def __init__(self, progress: tuple[int, int], hangs: bool = False) -> None:
        super().__init__()
        self.number, self.pieces = progress
        self.hangs = hangs


class Lane:
    """One worker after the other, of which one is alive at a time; used by one thread at a time. Without a worker, the
    thread itself reads."""

    def __init__(self, number: int, read: ImageReader, memory: SharedPixels, held: HeldPixels) -> None:
        """held: what the thread reads is held there."""
        self._held = held
        self._number = number
        self._read = read
        self._memory = memory
        in_flight = read.in_flight
        self._note = in_flight.slot_of_worker(number) if isinstance(in_flight, InFlight) else Slot(None, 0)
        self._suspects = frozenset() if in_flight is None else in_flight.suspects
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._is_ready = False
        self._is_stopped = False
        self._idle_ends = 0
        self.has_given_up = False  # its thread reads, since workers end whatever they read

    def start(self) -> None:
        """Raises `OSError` if no process can be started. The process learns its work when it is first asked."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), self._memory.descriptor)
            noted = () if self._note.descriptor is None else (self._note.descriptor,)
            try:
                # An answer may take long, but not what is sent to a process that waits for it.
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(SECONDS) + 1, 0))
                self._process = subprocess.Popen(
                    [*interpreter(), "-P", "-c", _START, str(theirs.fileno())],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(*descriptors, *noted),
                    start_new_session=True,  # Ctrl-C is meant for the run
                )
            except OSError:
                ours.close()
                raise
            except Exception as error:  # whatever it is, threads can read
                ours.close()
                raise OSError(f"no process can be started: {error}") from error
            except BaseException:
                ours.close()
                raise
        self._connection = Connection(ours.detach())
        self._is_ready = False

    def _work(self) -> Work:
        return Work(
            self._number,
            self._memory.descriptor,
            self._memory.blocks,
            self._memory.block_bytes,
            self._note,
            self._read.encoder.image_size,
            self._read.max_pixels,
            dict(self._read.positions),
        )

    def read(self, encodings: Sequence[Encoding], block: int, turn: int) -> ReadChunk:
        """block: free for the pixels of this chunk; more are taken if there are. turn: of the chunk in `held`."""
        started = time.monotonic()
        results: list[Reading | None] = [None] * len(encodings)
        blocks = [block]
        room: int | None = block
        held = 0
        left = deque(range(len(encodings)))
        judged: set[int] = set()

        def read_here(number: int) -> None:
            nonlocal held
            reading = self._read(encodings[number])
            size = 0 if reading.prepared is None else reading.prepared.nbytes
            self._held.admit(turn, size)
            held += size
            results[number] = reading

        while left and not self._is_stopped:
            is_alone = self._connection is None or room is None
            if is_alone or encodings[left[0]].file.path in self._suspects:
                read_here(left.popleft())
                continue
            assert room is not None
            numbers = [number for number in left if encodings[number].file.path not in self._suspects]
            try:
                answers = self._ask(Chunk(tuple(encodings[number] for number in numbers), room))
            except _WorkerEnded as ended:
                self._idle_ends += ended.number == IDLE
                self._replace()
                if ended.number != IDLE and not self._is_stopped:
                    number = numbers[ended.number]
                    reading = self._judged(encodings[number], ended, number in judged)
                    judged.add(number)
                    if reading is not None:
                        results[number] = reading
                        left.remove(number)
                continue
            self._idle_ends = 0
            for number, answer in zip(numbers, answers, strict=False):
                if answer.is_left:
                    read_here(number)
                else:
                    results[number] = answer.reading(encodings[number], self._memory, room)
                left.remove(number)
            if left and len(answers) < len(numbers):
                room = self._memory.take(wait=False)
                blocks += [] if room is None else [room]
        readings = [reading for reading in results if reading is not None]
        return ReadChunk(readings, blocks, held, (time.monotonic() - started) / len(encodings))

    def _ask(self, chunk: Chunk) -> Sequence[Answer]:
        """Raises `_WorkerEnded`."""
        connection = self._connection
        assert connection is not None
        self._memory.set_progress(self._number, IDLE)
        try:
            if not self._is_ready:
                connection.send(self._work())
                self._receive(connection)
                self._is_ready = True
            connection.send(chunk)
            answers: Sequence[Answer] = self._receive(connection)
            return answers
        except (EOFError, OSError) as error:
            raise _WorkerEnded(self._memory.progress(self._number)) from error

    def _receive(self, connection: Connection) -> Any:
        progress = self._memory.progress(self._number)
        while not connection.poll(SECONDS):
            if self._memory.progress(self._number) == progress:
                raise _WorkerEnded(progress, hangs=True)
            progress = self._memory.progress(self._number)
        return connection.recv()

    def _replace(self) -> None:
        """Starts another worker, unless the last one never began to read, or several ended while they read no file:
        then another one would, too."""
        had_begun = self._is_ready and self._idle_ends < MOST_IDLE_ENDS
        self.has_given_up = not had_begun
        self.close()
        if had_begun and not self._is_stopped:
            with suppress(OSError):
                self.start()

    def _judged(self, encoding: Encoding, ended: _WorkerEnded, is_judged: bool) -> Reading | None:
        """What became of the file that a worker was reading when it ended; None if it is to be read again."""
        if ended.hangs and ended.pieces != DECODING:
            return Reading(encoding, postponed=f"cannot be read now: nothing arrived for {SECONDS:.0f} s")
        if ended.hangs:
            return Reading(encoding, postponed=f"takes longer than {SECONDS:.0f} s to decode")
        if is_judged:
            return Reading(encoding, postponed="ends the process that decodes it, perhaps for want of memory")
        try:
            refuse_killer(encoding.file.path, self._read.encoder.image_size, self._read.max_pixels)
        except KillsDecoder as error:
            return Reading(encoding, failure=failure_of(encoding.file, str(error)), kills_decoder=True)
        except MayPass as error:
            return Reading(encoding, postponed=str(error))
        except OSError as error:
            return Reading(encoding, postponed=f"cannot be decoded now: {error.strerror or error}")
        return None

    def stop(self) -> None:
        """Ends the worker; the thread that reads by it ends soon."""
        self._is_stopped = True
        process = self._process  # another thread may be replacing it
        if process is not None:
            process.kill()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._note.write(b"")  # nothing is in flight there


def _environment() -> dict[str, str]:
    """That of this process, without a GPU, with one thread a process, and with the modules of this process."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path if isinstance(entry, str))
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return os.environ | single | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
