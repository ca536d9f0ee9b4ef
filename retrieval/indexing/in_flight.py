"""Reading: a note of the files that are being decoded. From it the next run knows a file that kills the process.

Decoders are C code that reads files of any origin. A segmentation fault, or the kernel's out-of-memory killer, ends a
run without a message; without the note, every later run would end at the same file. The note is a small file of fixed
slots, one per thread or worker process, written by `pwrite`: what a process has written survives its death. A file that
was in flight is only a suspect, since a run may be killed for any reason. So a suspect is first decoded in a process of
its own. It stays in the note, behind the other slots, until a run settles it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from indexes.files import DRAFT
from indexes.leftovers import IN_FLIGHT
from retrieval.images import UnreadableImage, decode

SLOT = 8192  # bytes, twice the longest path
SECONDS = 300.0  # for one suspect
FROM_OUTSIDE = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


class KillsDecoder(UnreadableImage):
    """Decoding this file ends the process that does it."""


class MayPass(Exception):
    """The process that decoded a file ended for a reason that may not be the file. The message says which."""


@dataclass(frozen=True)
class Slot:
    """A place in the note for one process that decodes one file at a time. descriptor: of the note, None if it cannot
    be written."""

    descriptor: int | None
    number: int
    suspects: frozenset[bytes] = frozenset()

    def write(self, path: bytes) -> None:
        """path: of the file that is being decoded; empty if none is."""
        if self.descriptor is not None:
            with suppress(OSError):  # a full disk, say
                os.pwrite(self.descriptor, _slot(path)[: 4 + len(path)], self.number * SLOT)

    @contextmanager
    def decoding(self, path: bytes) -> Iterator[None]:
        self.write(path)
        try:
            yield
        finally:
            self.write(b"")

    def settle(self, path: bytes) -> None:
        """There are no suspects to settle: the run reads those."""


class InFlight:
    """The note of one run, a context manager. If the note cannot be written, the run goes on without it.

    suspects: files that were in flight when an earlier run ended, and are not settled yet."""

    def __init__(self, collection: Path, threads: int, workers: int = 0) -> None:
        """threads: of this process that decode. workers: other processes that decode, see `slot_of_worker`."""
        self._path = collection / IN_FLIGHT
        suspects = _read(self._path)
        self._slots = {path: threads + workers + number for number, path in enumerate(suspects)}
        self._threads = threads
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(threads):
            self._free.put(slot)
        self._file: int | None = None
        if hasattr(os, "pwrite"):  # not on Windows
            with suppress(OSError):
                draft = self._path.with_name(IN_FLIGHT + DRAFT)
                draft.write_bytes(bytes((threads + workers) * SLOT) + b"".join(map(_slot, suspects)))
                draft.replace(self._path)
                self._file = os.open(self._path, os.O_RDWR)

    @property
    def suspects(self) -> frozenset[bytes]:
        return frozenset(self._slots)

    def slot_of_worker(self, worker: int) -> Slot:
        """The slot of a worker, from 0 to `workers` - 1."""
        return Slot(self._file, self._threads + worker)

    @contextmanager
    def decoding(self, path: bytes) -> Iterator[None]:
        """Holds a slot of the note while a thread decodes a file."""
        slot = self._free.get()
        self._write(slot, path)
        try:
            yield
        finally:
            self._write(slot, b"")
            self._free.put(slot)

    def settle(self, path: bytes) -> None:
        """Clears a suspect: it was decoded, or its failure is committed."""
        slot = self._slots.pop(path, None)
        if slot is not None:
            self._write(slot, b"")

    def _write(self, slot: int, path: bytes) -> None:
        Slot(self._file, slot).write(path)

    def __enter__(self) -> InFlight:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is in flight after a run, even one that an exception ended. Suspects that it did not reach stay."""
        if self._file is not None:
            os.close(self._file)
        if not self._slots:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def refuse_killer(path: bytes, min_side: int, max_pixels: int) -> None:
    """Decodes a file in a process of its own. Raises `KillsDecoder` if the file ends that process, and `MayPass` if it
    was ended from outside or by lack of memory, which may pass."""
    command = [*interpreter(), "-m", "retrieval.indexing.in_flight", path.hex(), str(min_side), str(max_pixels)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry and isinstance(entry, str))
    }
    try:
        status = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            start_new_session=True,  # Ctrl-C is meant for the run
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise KillsDecoder(f"takes longer than {SECONDS:.0f} s to decode") from error
    if -status in FROM_OUTSIDE:
        raise MayPass("was interrupted while it was decoded by itself")
    if -status == getattr(signal, "SIGKILL", 9):
        raise MayPass("is killed while it is decoded, perhaps for want of memory")
    if status < 0:
        raise KillsDecoder(f"kills the process that decodes it ({_signal_name(-status)})")


def interpreter() -> list[str]:
    """The command that starts Python. Raises `OSError` in a program that is not started by Python: its `sys.executable`
    may be the program itself."""
    if getattr(sys, "frozen", False) or not sys.executable:
        raise OSError("this program is not run by a Python interpreter")
    return [sys.executable]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _slot(path: bytes) -> bytes:
    return (len(path).to_bytes(4, "little") + path)[:SLOT].ljust(SLOT, b"\0")


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        content = path.read_bytes()
    except OSError:
        return ()
    slots = [content[low : low + SLOT] for low in range(0, len(content), SLOT)]
    paths = [slot[4 : 4 + int.from_bytes(slot[:4], "little")] for slot in slots]
    return tuple(dict.fromkeys(filter(None, paths)))


def _decode_alone() -> None:
    """The main function of a suspect's process. It asks to be killed first if the system runs out of memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    path, min_side, max_pixels = sys.argv[1:]
    with suppress(UnreadableImage, OSError, MemoryError):
        decode(Path(os.fsdecode(bytes.fromhex(path))).read_bytes(), int(min_side), int(max_pixels))


if __name__ == "__main__":
    _decode_alone()
