"""Fixtures of the tests of a device's search."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from indexes.on_device import faiss_matrix
from tests.indexes.on_device.fake_faiss import fake_faiss


@pytest.fixture(autouse=True, scope="module")
def faked_faiss() -> Iterator[None]:
    """FAISS has a GPU here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_matrix, "import_faiss", fake_faiss)
        yield
