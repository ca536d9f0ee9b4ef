"""Fixtures for the tests of decoding: by which library JPEG pictures are decoded."""

from __future__ import annotations

import pytest

from retrieval.images import turbo


@pytest.fixture(params=["simplejpeg", "Pillow alone"])
def either_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of installation: with simplejpeg, and without it."""
    if request.param == "simplejpeg":
        assert turbo.decoder() is not None
    else:
        monkeypatch.setattr(turbo, "decoder", lambda: None)


@pytest.fixture
def by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without simplejpeg."""
    monkeypatch.setattr(turbo, "decoder", lambda: None)
