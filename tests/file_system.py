"""A file system that fails or stops at a chosen call. Counted calls: open, write, fsync, rename, mkdir, unlink."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CHANGES = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "open", "scandir")


@contextmanager
def failing_at(call: int, error: Callable[[], OSError], once: bool = False) -> Iterator[list[int]]:
    """Makes the given call (from 1) fail and, unless `once`, every later call of the same function. Yields a list of
    one number, the count of calls."""
    failed: list[str] = []

    def before(name: str, number: int) -> None:
        if number == call or (name in failed and not once):
            failed.append(name)
            raise error()

    with intercepted(before, lambda name, number: None) as count:
        yield count


@contextmanager
def intercepted(before: Callable[[str, int], None], after: Callable[[str, int], None]) -> Iterator[list[int]]:
    """Calls `before` and `after` around every counted call, with its name and its number from 1. Yields a list of one
    number: how many calls were made."""
    count = [0]

    def around(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            number = count[0]
            before(name, number)
            result = real(*arguments, **options)
            after(name, number)
            return result

        return call

    real = {name: getattr(os, name) for name in CHANGES}
    real_open = io.open

    class Writes:
        """An open file whose writes are counted too."""

        def __init__(self, file: Any) -> None:
            self._file = file
            self.write = around("write", file.write)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Writes:
            return self

        def __exit__(self, *error: object) -> None:
            self._file.close()

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        result = around("create" if "w" in mode else "read", real_open)(file, mode, *arguments, **options)
        return Writes(result) if mode == "wb" else result

    try:
        for name, function in real.items():
            setattr(os, name, around(name, function))
        io.open = builtins.open = opened
        yield count
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        io.open = builtins.open = real_open
