"""Fixtures for all tests; nothing here may reach a user's own collection or a terminal's settings."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from indexes.writer import CollectionWriter
from retrieval.encoders.lite import LiteEncoder
from tests.support import BINDING, TINY_CLIP, FakeEncoder, make_batch


def pytest_configure() -> None:
    """Whoever starts the tests in the background, or under nohup, ignores signals, and so would all processes that
    tests start; those are to hear them."""
    for name, action in (
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_DFL),
        ("SIGHUP", signal.SIG_DFL),
    ):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For all tests together: exporting a model takes a while."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, _cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLOOK_INDEX", str(tmp_path / "default-collection"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache))
    for name in ("NO_COLOR", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="session")
def lite() -> LiteEncoder:
    return LiteEncoder(device="cpu")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Three segments of ten images, two failures each."""
    folder = tmp_path / "collection"
    with CollectionWriter(folder, BINDING) as writer:
        for _ in range(3):
            writer.commit(make_batch(writer.manifest.next_id, 10, failures=2), folders=["/photos"])
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP as open_clip stores one, with random weights."""
    import torch
    from open_clip import CLIP
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny-clip")
    torch.manual_seed(0)
    model = CLIP(**TINY_CLIP)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": {}}))
    return folder
