"""Fixtures that several tests of indexing share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.drives import identified
from tests.retrieval.indexing.library import Library, write
from tests.retrieval.indexing.slots import Slot
from tests.support import write_photos


@pytest.fixture
def photos(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of ten photos, or as many as the module's PHOTOS says: 000.png, 001.png, ..."""
    write_photos(tmp_path / "photos", getattr(request.module, "PHOTOS", 10))
    return tmp_path / "photos"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a collection that does not exist yet."""
    return tmp_path / "collection"


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture(params=[True, False], ids=["identities", "no identities"])
def knows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both kinds of file system: with an identity, and without one."""
    identified(monkeypatch, request.param)
    return bool(request.param)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system has an identity."""
    identified(monkeypatch)


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    """The folder `photos/card`, in which one of two cards, A and B, is mounted at a time."""
    with ExitStack() as stack:
        slot = Slot(stack, tmp_path, tmp_path / "photos" / "card", "A", "B")
        write(tmp_path / "photos", "own.jpg")
        yield slot
        slot.put(None)
