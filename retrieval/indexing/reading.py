"""Reading: from one file to the input of the encoder. Read, hash, decode, prepare; by any number of threads.

A file is a failure if its content itself shows that it cannot be decoded; it stays one until the file changes. Trouble
that may pass (an I/O error, no memory, too many open files, a file that is just being written) postpones the file: what
is known of it stays, and the next run tries again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from numpy.typing import NDArray

from indexes.rows import Failure, Row
from retrieval.images import FILES, Photo, TooManyPixels, UnreadableImage, decode
from retrieval.indexing.content import new_hash
from retrieval.indexing.files import File
from retrieval.indexing.in_flight import InFlight, KillsDecoder, MayPass, Slot, refuse_killer
from retrieval.indexing.plan import Encoding

SMALL_BYTES = 64_000_000  # files up to this size are read whatever the limit
PIECE = 1_000_000  # bytes
BYTES_A_PIXEL = 2.5  # a file of more is not read; 16-bit TIFF, the largest format, has 6 uncompressed, JPEG less than 1

Read = Callable[[File], tuple[File, bytes]]


@dataclass(frozen=True)
class Reading:
    """What became of a file, which is one of:

    - a `row` (without an id yet) with the encoder's input, `prepared`;
    - a `row` with the `position` of a known row of the same content;
    - a `failure`. kills_decoder: the file kills the process that decodes it, so its failure is committed at once;
    - the reason why it is `postponed`."""

    encoding: Encoding
    row: Row | None = None
    prepared: NDArray[Any] | None = None
    position: int | None = None
    failure: Failure | None = None
    postponed: str | None = None
    kills_decoder: bool = False


class Unsettled(Exception):
    """A file that may be different at the next look; the message says why."""


class PhotoInput(Protocol):
    """The part of an `Encoder` that reading needs."""

    @property
    def image_size(self) -> int: ...

    def prepare(self, photo: Photo) -> NDArray[Any]: ...


@dataclass(frozen=True)
class ImageReader:
    """Reads files for an encoder. read: gives the content of a file, and what the file is now. positions: of known
    rows, by content hash. in_flight: the note of what is being decoded, if there is one."""

    encoder: PhotoInput
    max_pixels: int
    read: Read
    positions: Mapping[bytes, int] = field(default_factory=dict)
    in_flight: InFlight | Slot | None = None

    def __call__(self, encoding: Encoding) -> Reading:
        """Raises nothing for a single file that cannot be read or decoded: see `Reading`."""
        with FILES.reserve(encoding.file.size):  # many large files at once would take all memory
            return self._reading(encoding)

    def _reading(self, encoding: Encoding) -> Reading:
        file = encoding.file
        try:
            file, content = self.read(file)
            digest = new_hash()
            digest.update(content)
            position = self.positions.get(digest.digest()) if encoding.may_be_known else None
            if position is not None:
                return Reading(encoding, _row(file, digest.digest()), position=position)
            with nullcontext() if self.in_flight is None else self.in_flight.decoding(file.path):
                self._refuse_killer(file)
                photo = decode(content, self.encoder.image_size, self.max_pixels)
                prepared = self.encoder.prepare(photo)
            row = _row(
                file, digest.digest(), width=photo.width, height=photo.height, taken_at=photo.taken_at, note=photo.note
            )
            return Reading(encoding, row, prepared)
        except KillsDecoder as error:
            return Reading(encoding, failure=failure_of(file, str(error)), kills_decoder=True)
        except TooManyPixels as error:
            return Reading(encoding, failure=failure_of(file, str(error), error.pixels))
        except UnreadableImage as error:
            return Reading(encoding, failure=failure_of(file, str(error)))
        except FileNotFoundError:
            if os.path.islink(file.path):
                return Reading(encoding, failure=failure_of(file, "is a broken link"))
            return Reading(encoding, postponed="is gone since the folder was listed")
        except (Unsettled, MayPass) as error:
            return Reading(encoding, postponed=str(error))
        except MemoryError:
            return Reading(encoding, postponed="needs more memory than is free now")
        except ImportError as error:  # a decoder is loaded when it is first needed
            return Reading(encoding, postponed=f"cannot be decoded now: {error}")
        except OSError as error:
            if error.errno == errno.ELOOP and os.path.islink(file.path):
                return Reading(encoding, failure=failure_of(file, "is a broken link"))
            return Reading(encoding, postponed=f"cannot be read now: {error.strerror or error}")

    def _refuse_killer(self, file: File) -> None:
        if self.in_flight is not None and file.path in self.in_flight.suspects:
            refuse_killer(file.path, self.encoder.image_size, self.max_pixels)
            self.in_flight.settle(file.path)


class TooManyBytes(TooManyPixels):
    """A file so large that it is not read at all. pixels: the limit that would admit it."""

    def __init__(self, size: int) -> None:
        self.pixels = int(size / BYTES_A_PIXEL) + 1
        megapixels = -(-self.pixels // 1_000_000)
        UnreadableImage.__init__(
            self, f"has {size / 1e6:.0f} MB, too many to read: raise it with --max-pixels {megapixels}"
        )


def reader_of_files(max_pixels: int, progress: Callable[[int], None] | None = None) -> Read:
    """progress: called with the number of pieces of `PIECE` bytes that are read of a file, from 0 on.

    Returns a function that reads a file: its content, and the file as it is then, which may be newer than the
    listing. That function raises `TooManyBytes`, `OSError`, and `Unsettled` if the file is written to meanwhile."""

    def read(file: File) -> tuple[File, bytes]:
        with open(file.path, "rb", opener=_without_waiting) as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unsettled("is no file any more")
            if status.st_size > max(SMALL_BYTES, BYTES_A_PIXEL * max_pixels):
                raise TooManyBytes(status.st_size)
            content = opened.read() if progress is None else _read_in_pieces(opened, progress)
            after = os.fstat(opened.fileno())
        if len(content) != status.st_size or after.st_mtime_ns != status.st_mtime_ns:
            raise Unsettled("is being written to")
        return File(file.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns), content

    return read


def _read_in_pieces(opened: BinaryIO, progress: Callable[[int], None]) -> bytes:
    pieces: list[bytes] = []
    progress(0)
    while piece := opened.read(PIECE):
        pieces.append(piece)
        progress(len(pieces))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _without_waiting(path: str, flags: int) -> int:
    """Opens a path without waiting for a writer, in case it is a pipe by now."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def failure_of(file: File, error: str, pixels: int = 0) -> Failure:
    """A failure without an id yet. pixels: how many the image has, if that is the reason."""
    return Failure(0, file.path, file.size, file.mtime_ns, file.ctime_ns, pixels, error)


def _row(file: File, content_hash: bytes, **picture: Any) -> Row:
    values = {"width": 0, "height": 0, "taken_at": None} | picture
    return Row(0, file.path, file.size, file.mtime_ns, content_hash, ctime_ns=file.ctime_ns, **values)
