"""Drives that come and go: real mounts where this process may make them, and what looks like one elsewhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def identified(patch: pytest.MonkeyPatch, is_known: bool = True) -> None:
    """Every file system has an identity, whether it is real or only looks like one; or none has."""

    def identity(folder: bytes) -> str:
        return f"fsid {os.stat(folder).st_dev:x}" if is_known else ""

    patch.setattr("retrieval.indexing.devices.identity", identity)


@contextmanager
def mounted(*places: Path) -> Iterator[None]:
    """Each place is on a device of its own: a file system in memory; where nobody may mount one, it looks so."""
    done: list[Path] = []
    try:
        while len(done) < len(places) and _mount("-t", "tmpfs", "-o", "size=1m", "none", places[len(done)]):
            done.append(places[len(done)])
        if len(done) == len(places):
            yield
            return
        with looking_mounted(*places):
            yield
    finally:
        for place in reversed(done):
            _unmount(place)


@contextmanager
def looking_mounted(*places: Path) -> Iterator[None]:
    """`os.stat` tells another device for what lies in each place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", _stat_with_devices(places))
        yield


class Drive:
    """A drive with files of its own, and a folder in which it is mounted at times. Use as a context manager."""

    def __init__(self, store: Path, place: Path, number: int = 0) -> None:
        """store: a folder for it that does not exist yet. number: of the device, where it only looks like one."""
        self.store = store
        self.place = place
        self._hidden = store.with_name(f"{store.name}-hidden")
        self._number = number
        self._patch = pytest.MonkeyPatch()
        store.mkdir(parents=True)
        place.mkdir(parents=True, exist_ok=True)
        self._is_real = _mount("-t", "tmpfs", "-o", "size=1m", "none", store)

    def attach(self) -> None:
        if self._is_real:
            assert _mount("--bind", self.store, self.place)
            return
        self.place.rename(self._hidden)
        self.store.rename(self.place)
        self._patch.setattr(os, "stat", _stat_with_devices([self.place], 20_000 + self._number))

    def detach(self) -> None:
        """What is in the folder below comes to light."""
        if self._is_real:
            _unmount(self.place)
            return
        self._patch.undo()
        self.place.rename(self.store)
        self._hidden.rename(self.place)

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()
        if self._is_real:
            subprocess.run(["umount", "-q", str(self.place)], check=False, capture_output=True)
            _unmount(self.store)


def _mount(*words: object) -> bool:
    try:
        return not subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def _unmount(place: Path) -> None:
    subprocess.run(["umount", str(place)], check=True)


def _stat_with_devices(places: Sequence[Path], first: int = 10_000) -> Callable[..., Any]:
    real = os.stat
    names = [os.fsencode(place) for place in places]

    def stat(path: Any, **options: Any) -> Any:
        status = real(path, **options)
        resolved = os.path.realpath(os.fsencode(path))
        inside = [name for name in names if (resolved + b"/").startswith(name + b"/")]
        if not inside:
            return status
        fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        return SimpleNamespace(**(fields | {"st_dev": first + names.index(max(inside, key=len))}))

    return stat
