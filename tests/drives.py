"""Drives that come and go: real mounts if this process may make them, otherwise folders that look like mounts."""

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
    """Give an identity to every file system, real or imitated; or to none."""

    def identity(folder: bytes) -> str:
        return f"fsid {os.stat(folder).st_dev:x}" if is_known else ""

    patch.setattr("retrieval.indexing.devices.identity", identity)


@contextmanager
def mounted(*mount_points: Path) -> Iterator[None]:
    """Mounts another device at every mount point: a file system in memory, or a folder that looks like one."""
    done: list[Path] = []
    try:
        while len(done) < len(mount_points) and _mount("-t", "tmpfs", "-o", "size=1m", "none", mount_points[len(done)]):
            done.append(mount_points[len(done)])
        if len(done) == len(mount_points):
            yield
            return
        with looking_mounted(*mount_points):
            yield
    finally:
        for mount_point in reversed(done):
            _unmount(mount_point)


@contextmanager
def looking_mounted(*mount_points: Path) -> Iterator[None]:
    """Makes `os.stat` report another device for everything in every mount point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", _stat_with_devices(mount_points))
        yield


class Drive:
    """A drive with files, and the folder in which it is mounted at times. Use it as a context manager."""

    def __init__(self, store: Path, mount_point: Path, number: int = 0) -> None:
        """store: a folder for its files, which does not exist yet. number: of its device, if it only looks like one."""
        self.store = store
        self.mount_point = mount_point
        self._hidden = store.with_name(f"{store.name}-hidden")
        self._number = number
        self._patch = pytest.MonkeyPatch()
        store.mkdir(parents=True)
        mount_point.mkdir(parents=True, exist_ok=True)
        self._is_real = _mount("-t", "tmpfs", "-o", "size=1m", "none", store)

    def attach(self) -> None:
        if self._is_real:
            assert _mount("--bind", self.store, self.mount_point)
            return
        self.mount_point.rename(self._hidden)
        self.store.rename(self.mount_point)
        self._patch.setattr(os, "stat", _stat_with_devices([self.mount_point], 20_000 + self._number))

    def detach(self) -> None:
        """Unmount it, so that the files of the folder below are visible again."""
        if self._is_real:
            _unmount(self.mount_point)
            return
        self._patch.undo()
        self.mount_point.rename(self.store)
        self._hidden.rename(self.mount_point)

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()
        if self._is_real:
            subprocess.run(["umount", "-q", str(self.mount_point)], check=False, capture_output=True)
            _unmount(self.store)


def _mount(*words: object) -> bool:
    try:
        return not subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def _unmount(mount_point: Path) -> None:
    subprocess.run(["umount", str(mount_point)], check=True)


def _stat_with_devices(mount_points: Sequence[Path], first: int = 10_000) -> Callable[..., Any]:
    real = os.stat
    names = [os.fsencode(mount_point) for mount_point in mount_points]

    def stat(path: Any, **options: Any) -> Any:
        status = real(path, **options)
        resolved = os.path.realpath(os.fsencode(path))
        inside = [name for name in names if (resolved + b"/").startswith(name + b"/")]
        if not inside:
            return status
        fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        return SimpleNamespace(**(fields | {"st_dev": first + names.index(max(inside, key=len))}))

    return stat
