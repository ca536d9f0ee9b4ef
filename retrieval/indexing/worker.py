"""Reading: what a worker process does. It reads and decodes files, and puts the pixels into memory that it shares with
the run.

A worker imports no torch and sees no GPU. It leaves to the run what takes much memory, since the threads of the run
share one budget, and what it could not read now."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from numpy.typing import NDArray

from indexes.rows import Failure, Row
from retrieval.images.budget import PICTURES
from retrieval.images.photo import Photo
from retrieval.indexing.files import File
from retrieval.indexing.in_flight import Slot
from retrieval.indexing.plan import Encoding
from retrieval.indexing.reading import ImageReader, Reading, reader_of_files
from retrieval.indexing.shared_pixels import IDLE, SharedPixels

LARGEST_PICTURE = 160_000_000  # bytes of memory for decoding one picture in a worker
LARGEST_FILE = 64_000_000
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # the run decides what stops, and closes the connection
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Work:
    """What a worker is told once. number: of the worker. memory, blocks, block_bytes: of `SharedPixels`. note: its slot
    in the note of what is being decoded. min_side, max_pixels: as of `decode`. positions: of known rows, by content
    hash."""

    number: int
    memory: int
    blocks: int
    block_bytes: int
    note: Slot
    min_side: int
    max_pixels: int
    positions: Mapping[bytes, int]


@dataclass(frozen=True)
class Chunk:
    """Files to read. block: for their pixels."""

    encodings: tuple[Encoding, ...]
    block: int


@dataclass(frozen=True)
class Answer:
    """What became of a file: as in a `Reading`, but for the pixels. place: their offset in the block, and their shape.
    is_left: the run is to read the file."""

    row: Row | None = None
    position: int | None = None
    failure: Failure | None = None
    place: tuple[int, tuple[int, ...]] | None = None
    is_left: bool = False

    def reading(self, encoding: Encoding, memory: SharedPixels, block: int) -> Reading:
        pixels = None if self.place is None else memory.pixels(block, *self.place)
        return Reading(encoding, self.row, pixels, self.position, self.failure)


LEFT = Answer(is_left=True)


@dataclass(frozen=True)
class PixelsAsTheyAre:
    """The input of an encoder that takes pixels."""

    image_size: int

    def prepare(self, photo: Photo) -> NDArray[Any]:
        return photo.pixels


class Worker:
    def __init__(self, connection: Connection, work: Work) -> None:
        self._connection = connection
        self._number = work.number
        self._memory = SharedPixels(work.memory, work.blocks, work.block_bytes)
        self._file = IDLE  # the number of the file of the chunk
        self._content = reader_of_files(work.max_pixels, self._note_pieces)
        self._read = ImageReader(
            PixelsAsTheyAre(work.min_side), work.max_pixels, self._read_file, work.positions, work.note
        )
        self._kept: tuple[Encoding, Reading] | None = None  # read, but there was no room left in its block

    def serve(self) -> None:
        """Answers every `Chunk` until the other side closes the connection, or ends. There may be fewer answers than
        files: then the block is full."""
        with suppress(EOFError, ConnectionError):
            while True:
                chunk: Chunk = self._connection.recv()
                answers = self._answers(chunk)
                self._memory.set_progress(self._number, IDLE)
                self._connection.send(answers)

    def _note_pieces(self, pieces: int) -> None:
        self._memory.set_progress(self._number, self._file, pieces)

    def _read_file(self, file: File) -> tuple[File, bytes]:
        self._note_pieces(0)  # opening may take long, too
        file_and_content = self._content(file)
        self._memory.set_progress(self._number, self._file)
        return file_and_content

    def _answers(self, chunk: Chunk) -> Sequence[Answer]:
        answers: list[Answer] = []
        offset = 0
        for number, encoding in enumerate(chunk.encodings):
            self._file = number
            self._memory.set_progress(self._number, number)
            reading = self._reading(encoding)
            pixels = None if reading is None else reading.prepared
            if reading is None or reading.postponed is not None:
                answers.append(LEFT)
            elif pixels is None:
                answers.append(Answer(reading.row, reading.position, reading.failure))
            elif pixels.nbytes > self._memory.block_bytes:  # through a pipe, they would take memory twice
                answers.append(LEFT)
            elif offset + pixels.nbytes > self._memory.block_bytes:
                self._kept = encoding, reading
                break
            else:
                self._memory.pixels(chunk.block, offset, pixels.shape)[:] = pixels
                answers.append(Answer(reading.row, place=(offset, pixels.shape)))
                offset += pixels.nbytes
        return answers

    def _reading(self, encoding: Encoding) -> Reading | None:
        """None if the file is left to the run."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == encoding:
            return kept[1]
        return None if encoding.file.size > LARGEST_FILE else self._read(encoding)


def main() -> None:
    """argument: the descriptor of the connection."""
    for name in SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with suppress(AttributeError, OSError):  # Linux ends this process with the run, even one that a decoder holds
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    PICTURES.largest = LARGEST_PICTURE
    connection = Connection(int(sys.argv[1]))
    try:
        work: Work = connection.recv()
        worker = Worker(connection, work)
        connection.send(os.getpid())
    except (EOFError, OSError):  # the run has ended
        return
    worker.serve()
