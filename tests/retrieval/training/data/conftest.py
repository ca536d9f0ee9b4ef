"""Fixtures for tests of features and their cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.captions import CaptionSet
from tests.retrieval.training.data.made_up_towers import MadeUpTowers, captioned


@pytest.fixture
def towers() -> MadeUpTowers:
    return MadeUpTowers()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path: Path) -> CaptionSet:
    """Six pictures with two captions each, in a folder."""
    return captioned(tmp_path, "photos")
