"""Which files are being decoded: so that one that kills the whole process is known to the next run.

Decoders are C code that reads files from anywhere. A segmentation fault, or the system's killing for memory, ends the
run without a word; without a note of what was in flight, every later run would end at the same file. The note is a
small file of fixed slots, one a thread, written by `pwrite`: what a process wrote survives its death. Whoever was in
flight is only suspected, since a run may be killed for any reason: each suspect is decoded in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

from indexes.leftovers import IN_FLIGHT
from retrieval.images import UnreadableImage, decode

SLOT = 8192  # bytes, twice the longest path
SECONDS = 300.0  # for one suspect


class InFlight:
    """The note of one run. suspects: the files that were in flight when a run before this one ended without finishing.
    Use as a context manager. Where the note cannot be written, the run does without."""

    def __init__(self, collection: Path, threads: int) -> None:
        self._path = collection / IN_FLIGHT
        self.suspects = _read(self._path)
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(threads):
            self._free.put(slot)
        self._file: int | None = None
        if hasattr(os, "pwrite"):  # not on Windows
            with suppress(OSError):
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)

    @contextmanager
    def decoding(self, path: bytes) -> Iterator[None]:
        """While a thread decodes a file."""
        slot = self._free.get()
        self._write(slot, path)
        try:
            yield
        finally:
            self._write(slot, b"")
            self._free.put(slot)

    def _write(self, slot: int, path: bytes) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk, say
                os.pwrite(self._file, len(path).to_bytes(4, "little") + path[: SLOT - 4], slot * SLOT)

    def __enter__(self) -> InFlight:
        return self

    def __exit__(self, *error: object) -> None:
        """A run that ends, also by an exception, has nothing in flight."""
        if self._file is not None:
            os.close(self._file)
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def killer_of_decoders(path: bytes, at_least: int, max_pixels: int) -> str | None:
    """How a process ends that decodes this file, as the reason why it cannot be indexed; None where it ends well, or
    the file merely cannot be decoded, which the run itself will find."""
    command = [sys.executable, "-m", "retrieval.indexing.in_flight", path.hex(), str(at_least), str(max_pixels)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        run = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"takes longer than {SECONDS:.0f} s to decode"
    return f"kills the process that decodes it ({_signal_name(-run.returncode)})" if run.returncode < 0 else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        content = path.read_bytes()
    except OSError:
        return ()
    slots = [content[low : low + SLOT] for low in range(0, len(content), SLOT)]
    paths = [slot[4 : 4 + int.from_bytes(slot[:4], "little")] for slot in slots]
    return tuple(dict.fromkeys(filter(None, paths)))


def _decode_alone() -> None:
    """What the process of a suspect does. It offers itself first, should the system run out of memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    path, at_least, max_pixels = sys.argv[1:]
    with suppress(UnreadableImage, OSError, MemoryError):
        decode(Path(os.fsdecode(bytes.fromhex(path))).read_bytes(), int(at_least), int(max_pixels))


if __name__ == "__main__":
    _decode_alone()
