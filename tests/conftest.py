"""Fixtures for all tests. No test may reach the collection or the settings of the user who runs it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.tiny_clip import TINY_CLIP


def pytest_configure(config: pytest.Config) -> None:
    _restore_signals()
    os.environ["HF_HUB_OFFLINE"] = "1"  # the hub's client reads it when it is imported, and would try again and again
    if config.getoption("numprocesses", None):  # of pytest-xdist: the workers share the cores, and inherit this
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "PYTEST_XDIST_WORKER" in os.environ:  # idle threads of ONNX Runtime would take the cores from other workers
        from retrieval.encoders.runtime import import_onnxruntime

        import_onnxruntime().set_global_thread_pool_sizes(1, 1)


def _restore_signals() -> None:
    """Restores signals, which tests in the background or under nohup ignore, and so would all processes that they
    start."""
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
    """One cache for all tests: exporting a model takes a while."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, _cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLOOK_INDEX", str(tmp_path / "default-collection"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache))
    for name in ("NO_COLOR", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


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
    """The directory of a tiny CLIP, as open_clip stores one, with random weights."""
    import torch
    from open_clip import CLIP
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny-clip")
    torch.manual_seed(0)
    model = CLIP(**TINY_CLIP)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": {}}))
    return folder


@pytest.fixture(scope="session")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP as the model hub has them, with random weights."""
    import torch
    from transformers import BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor

    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "the", "beach", "cat")
    path = tmp_path_factory.mktemp("blip")
    (path / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": len(vocabulary), "pad_token_id": 0, "max_position_embeddings": 12, "encoder_hidden_size": 16}
    config = BlipConfig(
        text_config=small | words,
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
        image_text_hidden_size=8,
    )
    model = BlipForImageTextRetrieval(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    processor = BlipProcessor(
        BlipImageProcessor(size={"height": 32, "width": 32}), BertTokenizerFast(str(path / "vocab.txt"))
    )
    processor.save_pretrained(path)
    return path
