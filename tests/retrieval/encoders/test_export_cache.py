"""The cache of exported models: damaged exports are not used, and errors that pass are not remembered."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.openclip_onnx import (
    CONFIG,
    IMAGE,
    REFUSED,
    TEXT,
    TOKENIZER,
    ExportedEncoder,
    export_folder,
    find_export,
)
from retrieval.encoders.refusal import AGAIN_AFTER, is_passing, is_refused

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def made(tiny_clip, tmp_path_factory):
    """A cache that holds the export of a tiny CLIP."""
    cache = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(cache))
        assert isinstance(load_encoder(str(tiny_clip)), ExportedEncoder)
    return cache


@pytest.fixture
def export(made, tiny_clip, tmp_path, monkeypatch):
    """The folder of the export, in a copy of the cache that a test may damage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shutil.copytree(made, tmp_path / "cache")))
    return export_folder(str(tiny_clip))


@pytest.fixture(scope="module")
def on_torch(tiny_clip):
    from retrieval.encoders.openclip_loading import load_openclip

    return load_openclip(str(tiny_clip), "cpu")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def changed_config(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


DAMAGES = {
    "a truncated graph": lambda folder: os.truncate(folder / IMAGE, 1000),
    "an empty graph": lambda folder: os.truncate(folder / TEXT, 0),
    "a flipped bit": lambda folder: flipped(folder / TEXT),
    "a flipped bit of the tokeniser": lambda folder: flipped(folder / TOKENIZER),
    "a graph in the other's place": lambda folder: shutil.copy(folder / IMAGE, folder / TEXT),
    "a missing tokeniser": lambda folder: (folder / TOKENIZER).unlink(),
    "a folder in a file's place": lambda folder: (folder / CONFIG).unlink() or (folder / CONFIG).mkdir(),
    "an empty configuration": lambda folder: os.truncate(folder / CONFIG, 0),
    "a configuration that is a list": lambda folder: (folder / CONFIG).write_text("[]"),
    "a configuration that is null": lambda folder: (folder / CONFIG).write_text("null"),
    "seals that are none": lambda folder: changed_config(folder, files={TEXT: None, IMAGE: 3}),
    "no folder at all": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_export_is_not_used(export, tiny_clip, damage):
    assert find_export(str(tiny_clip)) is not None
    damage(export)
    assert find_export(str(tiny_clip)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / TEXT, (1, 1)),
        lambda folder: changed_config(folder, files={}),
        lambda folder: (folder / CONFIG).write_text((folder / CONFIG).read_text().replace('"files"', '"older"')),
    ],
    ids=["touched", "without seals", "of an older version"],
)
def test_a_whole_export_is_used(export, tiny_clip, change):
    change(export)
    assert find_export(str(tiny_clip)) is not None


def test_a_truncated_graph_is_made_again_and_gives_the_same(export, tiny_clip):
    intact = find_export(str(tiny_clip))
    assert intact is not None
    before = intact.encode_texts(["a dog"]).embeddings
    os.truncate(export / TEXT, 1000)
    assert (load_encoder(str(tiny_clip)).encode_texts(["a dog"]).embeddings == before).all()


def test_of_two_that_want_a_model_one_exports_it(empty_cache, tiny_clip, monkeypatch):
    from retrieval.encoders import openclip_export
    from retrieval.encoders.openclip_graphs import write_graphs
    from retrieval.encoders.openclip_loading import load_openclip

    writes = []

    def count_and_write(encoder, folder):
        writes.append(folder)
        write_graphs(encoder, folder)

    monkeypatch.setattr(openclip_export, "write_graphs", count_and_write)
    encoders = [load_openclip(str(tiny_clip), "cpu") for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        exports = list(threads.map(openclip_export.exported, encoders))
    assert len(writes) == 1 and all(isinstance(export, ExportedEncoder) for export in exports)


def test_what_a_kill_left_behind_is_cleared_away(empty_cache, tiny_clip):
    folder = export_folder(str(tiny_clip))
    for name in (f"{folder.name}.abc123", "0123456789abcdef.abc123"):
        (folder.parent / name).mkdir(parents=True)
        (folder.parent / name / TEXT).write_bytes(b"half")
    assert isinstance(load_encoder(str(tiny_clip)), ExportedEncoder)
    assert {path.name for path in folder.parent.iterdir() if path.is_dir()} == {
        folder.name,
        "0123456789abcdef.abc123",  # of another model, which another process may be writing
    }


PASSING = {
    "a full disk": OSError(28, "No space left on device"),
    "a drive that fails": OSError(5, "Input/output error"),
    "a full disk, told by Rust": Exception("No space left on device (os error 28)"),
    "little memory": MemoryError(),
    "little memory, told by ONNX Runtime": RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory"),
    "little memory, told by C++": RuntimeError("std::bad_alloc"),
    "a missing package": ModuleNotFoundError("No module named 'onnxscript'"),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("part", ["write_graphs", "check", "quantize_graph"])
def test_what_passes_is_not_remembered(empty_cache, on_torch, monkeypatch, part, error):
    from retrieval.encoders import openclip_export, openclip_quantization

    def fail(*arguments):
        raise error

    if part != "write_graphs":
        monkeypatch.setattr(openclip_export, "write_graphs", lambda encoder, folder: (folder / CONFIG).write_text("{}"))
        monkeypatch.setattr(openclip_export, "ExportedEncoder", lambda *arguments: None)
    if part == "quantize_graph":
        monkeypatch.setattr(openclip_export, "check", lambda *arguments: None)
    monkeypatch.setattr(openclip_quantization if part == "quantize_graph" else openclip_export, part, fail)
    assert openclip_export.exported(on_torch) is None
    folder = export_folder(on_torch.name)
    assert not is_refused(folder) and [path for path in folder.parent.iterdir() if path.is_dir()] == []


def test_what_came_of_a_passing_fault_is_one():
    try:
        try:
            raise MemoryError
        except MemoryError as error:
            raise CrosslookError("cannot load text.onnx") from error
    except CrosslookError as error:
        assert is_passing(error)
    assert not is_passing(CrosslookError("the pictures differ by 0.1")) and not is_passing(None)


@pytest.fixture
def refused(empty_cache, on_torch, monkeypatch):
    """The folder of a model that could not be exported; writing is counted from now on."""
    from retrieval.encoders import openclip_export

    writes = []

    def fail(*arguments):
        writes.append(arguments)
        raise ValueError("an operator that ONNX has not")

    monkeypatch.setattr(openclip_export, "write_graphs", fail)
    assert openclip_export.exported(on_torch) is None
    writes.clear()
    return export_folder(on_torch.name), writes, openclip_export.exported


def test_what_does_not_pass_is_remembered_with_its_reason(refused, on_torch):
    folder, writes, exported = refused
    assert "an operator that ONNX has not" in (folder / REFUSED).read_text()
    assert exported(on_torch) is None
    assert not writes


def test_a_refusal_is_tried_again_after_a_week(refused, on_torch):
    folder, writes, exported = refused
    then = (folder / REFUSED).stat().st_mtime - AGAIN_AFTER - 1
    os.utime(folder / REFUSED, (then, then))
    assert exported(on_torch) is None
    assert len(writes) == 1


def test_a_refusal_is_tried_again_with_another_version(refused, on_torch, monkeypatch):
    _, writes, exported = refused
    monkeypatch.setattr("importlib.metadata.version", lambda package: "99")
    assert exported(on_torch) is None
    assert len(writes) == 1


@pytest.mark.parametrize("content", ["", "NotExportable: by an older version\n", "[]", "{}", '{"versions": 3}'])
def test_a_refusal_that_cannot_be_read_is_none(refused, on_torch, content):
    folder, writes, exported = refused
    (folder / REFUSED).write_text(content)
    assert exported(on_torch) is None
    assert len(writes) == 1
