"""Checksums of weights are computed once for a file and remembered, and a model without random weights is the same."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import weights
from tests.tiny_clip import TINY_CLIP

pytestmark = pytest.mark.torch
RELEASED = "af68dbc3eb3bfcf1184c1a5ebc9d5c2c2b5c83e5cf6a5c41696d94e0798ee0e5"
WEIGHTS = "open_clip_model.safetensors"
TIMM_CLIP: dict[str, Any] = TINY_CLIP | {
    "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
}
VISION, TEXT = (cast(dict[str, Any], TINY_CLIP[name]) for name in ("vision_cfg", "text_cfg"))
TINY_COCA: dict[str, Any] = TINY_CLIP | {
    "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 1},
    "custom_text": True,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, in which the files of a test count as settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "SETTLED", -1)
    return tmp_path / "cache" / "crosslook" / "weights"


@pytest.fixture
def clip(tiny_clip, tmp_path):
    """A copy of the model that a test may change."""
    return shutil.copytree(tiny_clip, tmp_path / "clip")


@pytest.fixture
def uncomputed(monkeypatch):
    """A function after whose call no checksum can be computed."""

    def refuse(model):
        raise AssertionError("computed again")

    return lambda: monkeypatch.setattr(weights, "weights_checksum", refuse)


def loaded(folder: Path) -> Any:
    from retrieval.encoders.openclip_loading import load_openclip

    return load_openclip(str(folder), "cpu")


def records(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


def numbered_clip(folder: Path) -> Path:
    """A tiny CLIP whose weights follow from their names' order."""
    import torch
    from open_clip import CLIP
    from safetensors.torch import save_file

    state = CLIP(**TINY_CLIP).state_dict()
    for number, name in enumerate(sorted(state)):
        values = np.sin(np.arange(state[name].numel()) % 1000 + number).round(3).astype(np.float32)
        state[name] = torch.from_numpy(values).reshape(state[name].shape)
    folder.mkdir()
    save_file(state, folder / WEIGHTS)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": {}}))
    return folder


def test_a_fingerprint_stays_as_released(tmp_path):
    folder = numbered_clip(tmp_path / "numbered")
    computed, remembered = loaded(folder), loaded(folder)
    assert computed.fingerprint == remembered.fingerprint == "d98114e9a5a97510"
    assert weights.weights_checksum(computed.model) == RELEASED


def test_a_checksum_is_computed_once(clip, uncomputed):
    before = loaded(clip)
    assert before.fingerprint == loaded(clip).fingerprint
    uncomputed()
    assert loaded(clip).fingerprint == before.fingerprint


def test_the_checksum_of_a_weights_file_is_remembered(tmp_path, uncomputed):
    import open_clip
    from safetensors.torch import save_file

    from retrieval.encoders.openclip_loading import load_openclip

    (tmp_path / "Numbered.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "Numbered.json")
    save_file(open_clip.create_model("Numbered").state_dict(), tmp_path / "weights.safetensors")
    name = f"Numbered:{tmp_path / 'weights.safetensors'}"
    before = load_openclip(name, "cpu").fingerprint
    uncomputed()
    assert load_openclip(name, "cpu").fingerprint == before


@pytest.mark.parametrize("times", ["new", "restored"])
def test_changed_weights_are_computed_again(clip, times):
    """Also if size and time of change are those of the old file."""
    from safetensors.torch import load_file, save_file

    before, status = loaded(clip).fingerprint, os.stat(clip / WEIGHTS)
    state = load_file(clip / WEIGHTS)
    state["logit_scale"] += 1
    save_file(state, clip / WEIGHTS)
    if times == "restored":
        os.utime(clip / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert os.stat(clip / WEIGHTS).st_mtime_ns == status.st_mtime_ns
    assert os.stat(clip / WEIGHTS).st_size == status.st_size
    assert loaded(clip).fingerprint != before


def test_another_architecture_does_not_take_the_checksum_of_a_file(clip, tmp_path, cache):
    """It has other names or shapes of weights, so it has a record of its own."""
    loaded(clip)
    config = json.loads((clip / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = 32  # its position embeddings are resized on loading
    (clip / "open_clip_config.json").write_text(json.dumps(config))
    other = loaded(clip)
    assert len(records(cache)) == 2
    assert weights.weights_checksum(other.model) in records(cache)[0].read_text() + records(cache)[1].read_text()


def test_a_file_that_was_just_changed_is_not_remembered(clip, cache, monkeypatch):
    monkeypatch.setattr(weights, "SETTLED", 10**12)
    loaded(clip)
    assert weights.stamp_of([clip / WEIGHTS]) is None and records(cache) == []


def test_a_file_that_changes_while_it_is_loaded_is_not_remembered(clip, cache, monkeypatch):
    stamps = iter(["before", "after"])
    monkeypatch.setattr("retrieval.encoders.openclip_loading.stamp_of", lambda files: next(stamps))
    loaded(clip)
    assert records(cache) == []


DAMAGES = {
    "empty": lambda record: os.truncate(record, 0),
    "truncated": lambda record: os.truncate(record, 70),
    "another digit": lambda record: record.write_text(("1" if record.read_text()[0] == "0" else "0") + "f" * 63 + " f"),
    "one digit": lambda record: record.write_bytes(bytes([record.read_bytes()[0] ^ 1]) + record.read_bytes()[1:]),
    "no text": lambda record: record.write_bytes(b"\xff" * 130),
    "a folder": lambda record: record.unlink() or record.mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_ignored(clip, cache, damage):
    before = loaded(clip).fingerprint
    (record,) = records(cache)
    damage(record)
    assert loaded(clip).fingerprint == before


def test_a_damaged_record_is_mended(clip, cache, uncomputed):
    before = loaded(clip).fingerprint
    (record,) = records(cache)
    record.write_bytes(b"")
    loaded(clip)
    uncomputed()
    assert loaded(clip).fingerprint == before


def test_a_record_in_the_place_of_another_is_ignored(clip, cache, tmp_path):
    (tmp_path / "other").mkdir()
    loaded(clip)
    loaded(numbered_clip(tmp_path / "numbered"))
    one, other = records(cache)
    expected = {path: loaded(path).fingerprint for path in (clip, tmp_path / "numbered")}
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert {path: loaded(path).fingerprint for path in expected} == expected


def test_writers_at_once_leave_one_record_and_no_draft(clip, cache):
    model = loaded(clip).model
    stamp = weights.stamp_of([clip / WEIGHTS])
    with ThreadPoolExecutor(8) as threads:
        checksums = set(threads.map(lambda _: weights.remembered_checksum(model, stamp), range(40)))
    assert checksums == {weights.weights_checksum(model)}
    assert len(records(cache)) == 2  # that of the file alone, and that of the directory with its configuration
    assert all(len(record.name) == 64 for record in records(cache))


def test_a_cache_that_cannot_be_written_is_no_error(clip, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in the folder's place")
    assert loaded(clip).fingerprint == loaded(clip).fingerprint


def test_without_a_home_folder_nothing_is_remembered(clip, monkeypatch):
    def homeless():
        raise CrosslookError("there is no home folder")

    monkeypatch.setattr(weights, "cache_folder", homeless)
    model = loaded(clip).model
    assert weights.remembered_checksum(model, "a stamp") == weights.weights_checksum(model)


@pytest.mark.parametrize("files", [[], [Path("/no/such/file")]])
def test_what_has_no_files_has_no_stamp(files):
    assert weights.stamp_of(files) is None


@pytest.mark.parametrize("config", [TINY_CLIP, TIMM_CLIP, TINY_COCA], ids=["native", "timm", "CoCa"])
def test_a_model_has_the_weights_of_its_file(config, tmp_path):
    """New modules get no random weights, so whatever the file does not fill would show."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    (tmp_path / "Made-up.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "Made-up.json")
    torch.manual_seed(0)
    model = open_clip.create_model("Made-up")
    for parameter in model.parameters():  # open_clip leaves one of CoCa's as the memory was, which may be nan
        torch.nn.init.normal_(parameter)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / WEIGHTS)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    encoder = loaded(tmp_path)
    buffers = dict(encoder.model.named_buffers())  # those that no file holds are computed, not drawn
    for name, value in [*model.state_dict().items(), *model.named_buffers()]:
        assert torch.equal(encoder.model.state_dict().get(name, buffers.get(name)), value), name
