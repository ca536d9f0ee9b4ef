"""Fixtures for the tests of `retrieval`."""

from __future__ import annotations

import pytest

from retrieval.encoders.lite import LiteEncoder
from tests.support import FakeEncoder


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="session")
def lite() -> LiteEncoder:
    return LiteEncoder(device="cpu")
