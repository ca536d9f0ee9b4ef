"""Products in full precision, whatever precision the process that uses this library has chosen for torch.

torch keeps such choices for the whole process. They are changed only while a thread is inside of a block that needs
others, and only if they are not such already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

State = TypeVar("State")


@dataclass
class Held:
    """kept: after the block, whether the choice was as needed all the time."""

    kept: bool = False


class Choice(Generic[State]):
    """A choice for the process, for blocks in any number of threads at once."""

    def __init__(
        self, read: Callable[[], State], is_full: Callable[[State], bool], fill: Callable[[], None], write: Any
    ) -> None:
        """read: the choice. is_full: whether it is precise enough. fill: makes it so. write: takes back what `read`
        gave."""
        self._read, self._is_full, self._fill, self._write = read, is_full, fill, write
        self._lock = Lock()
        self._inside = 0
        self._before: State | None = None
        self._changes = 0  # by others, while a thread was inside

    @contextmanager
    def full(self) -> Iterator[Held]:
        """A block in which the choice is precise enough, unless another part of the process changes it meanwhile."""
        held = Held()
        with self._lock:
            self._note_changes()
            changes = self._changes
            self._inside += 1
            if not self._is_full(state := self._read()):
                self._before = state
                self._fill()
        try:
            yield held
        finally:
            with self._lock:
                self._note_changes()
                held.kept = changes == self._changes
                self._inside -= 1
                if not self._inside and self._before is not None:
                    before, self._before = self._before, None
                    self._write(before)

    def _note_changes(self) -> None:
        """What others chose meanwhile stays, also for the threads that are inside, which cannot know since when."""
        if self._inside and not self._is_full(self._read()):
            self._changes += 1
            self._before = None


def full_sums() -> Any:
    """A block in which a GPU adds the products of float16 values in float32, and rounds the sum once. Its value is a
    `Held`."""
    return _SUMS.full()


def full_float32() -> Any:
    """A block in which a GPU multiplies float32 values with all their bits, not those of TF32."""
    return _FLOAT32.full()


def _read_sums() -> tuple[bool, bool | None, bool | None]:
    """Whether sums may be added in float16 in the end, by `split k`, and from the beginning; None where this torch does
    not know it."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    return (
        bool(matmul.allow_fp16_reduced_precision_reduction),
        getattr(matmul, "allow_fp16_reduced_precision_reduction_split_k", None),
        getattr(matmul, "allow_fp16_accumulation", None),
    )


def _write_sums(state: tuple[bool, bool | None, bool | None]) -> None:
    import torch

    matmul: Any = torch.backends.cuda.matmul
    reduced, by_split, accumulated = state
    matmul.allow_fp16_reduced_precision_reduction = reduced if by_split is None else (reduced, by_split)
    if accumulated is not None:
        matmul.allow_fp16_accumulation = accumulated


def _fill_sums() -> None:
    _, by_split, accumulated = _read_sums()
    _write_sums((False, by_split, None if accumulated is None else False))


def _read_float32() -> tuple[str | None, str | None]:
    """The precision by torch's older name, and by that of newer versions; None where torch does not tell."""
    import torch

    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # the process uses the newer one
        older = None
    return older, getattr(torch.backends.cuda.matmul, "fp32_precision", None)


def _write_float32(state: tuple[str | None, str | None]) -> None:
    import torch

    older, newer = state
    matmul: Any = torch.backends.cuda.matmul
    if older is not None:
        torch.set_float32_matmul_precision(older)
    if newer is not None and matmul.fp32_precision != newer:
        matmul.fp32_precision = newer


def _fill_float32() -> None:
    import torch

    torch.set_float32_matmul_precision("highest")  # by both names


_SUMS = Choice(_read_sums, lambda state: not state[0] and not state[2], _fill_sums, _write_sums)
_FLOAT32 = Choice(
    _read_float32,
    lambda state: state[0] == "highest" if state[1] is None else state[1] != "tf32",
    _fill_float32,
    _write_float32,
)
