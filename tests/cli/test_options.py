"""Paths on the command line."""

from __future__ import annotations

import inspect
import os
import pwd
import sys
import typing
from pathlib import Path

import pytest

from cli.commands import app
from cli.models import cached_models
from cli.options import name_or_path, typed_path
from indexes.errors import CrosslookError
from indexes.on_device import choosing
from retrieval.location import cache_folder, default_collection
from tests.indexes.on_device.numpy_matrix import NumpyBackend
from tests.support import write_photo, write_photos

ROOT_HOME = pwd.getpwuid(0).pw_dir
ROOT = pwd.getpwuid(0).pw_name


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "{home}"),
        ("~/x", "{home}/x"),
        ("~/x y/日本", "{home}/x y/日本"),
        (f"~{ROOT}/x", f"{ROOT_HOME}/x"),
        ("~no-such-user/x", "~no-such-user/x"),
        ("./~", "~"),
        ("./~/x", "~/x"),
        ("a/~/b", "a/~/b"),
        ("a~", "a~"),
        ("/x/~", "/x/~"),
        ("", "."),
        ("-", "-"),
    ],
)
def test_a_tilde_at_the_beginning_is_the_home_folder(home, text, path):
    assert typed_path(text) == Path(path.format(home=home))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lite", "lite"),
        ("ViT-B-32:openai", "ViT-B-32:openai"),
        ("~/model", "{home}/model"),
        ("./~", "./~"),
        ("blip:~/weights", "blip:{home}/weights"),
        ("blip:Salesforce/blip", "blip:Salesforce/blip"),
        ("-", "-"),
    ],
)
def test_what_may_be_a_name_is_left_alone_unless_it_is_a_home_folder(home, text, name):
    assert name_or_path(text) == name.format(home=home)


def test_every_path_of_every_command_is_read_so():
    checked = 0
    for command in app.registered_commands:
        assert command.callback is not None
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for name in inspect.signature(command.callback).parameters:
            kind, parameter = typing.get_args(hints[name])[:2]
            takes_path = Path in (kind, *typing.get_args(kind))
            takes_name = name in ("batch", "model", "scorer")
            if takes_path or takes_name:
                expected = typed_path if takes_path else name_or_path
                assert parameter.parser is expected, f"{name} of {command.name}"
                checked += 1
    assert checked > 25


@pytest.mark.parametrize(("named", "path"), [("~/c", "{home}/c"), ("./~/c", "~/c"), ("/c", "/c")])
def test_the_collection_named_in_the_environment_is_read_so(home, monkeypatch, named, path):
    monkeypatch.setenv("CROSSLOOK_INDEX", named)
    assert default_collection() == Path(path.format(home=home))


@pytest.fixture(params=[None, "", "relative"])
def homeless(request, monkeypatch):
    """As in a container whose user has no name, or with a useless HOME."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "CROSSLOOK_INDEX", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    if request.param is not None:
        monkeypatch.setenv("HOME", request.param)

    def nobody(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_without_a_home_folder_one_line_says_what_to_set(homeless, monkeypatch, tmp_path):
    for path in (default_collection, cache_folder, lambda: typed_path("~/x"), lambda: name_or_path("~")):
        with pytest.raises(CrosslookError, match="no home folder; set HOME") as error:
            path()
        assert "\n" not in str(error.value)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_collection() == tmp_path / "crosslook" / "collection"


def test_without_a_home_folder_there_is_no_cache_of_models(homeless, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cached_models() == []


def test_the_cache_of_models_may_be_named_by_a_tilde(home, monkeypatch):
    monkeypatch.setenv("HF_HOME", "~/hub")
    folder = home / "hub" / "hub" / "models--laion--CLIP-test" / "snapshots" / "0"
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text("{}")
    assert cached_models() == ["laion/CLIP-test"]


def test_a_run_takes_quoted_tildes_and_a_folder_of_that_name(search, fake_model, monkeypatch, tmp_path):
    write_photos(tmp_path / "photos", 2)
    (tmp_path / "here" / "~").mkdir(parents=True)
    write_photo(tmp_path / "here" / "~" / "literal.png", seed=9)
    monkeypatch.chdir(tmp_path / "here")
    run = search("index", "~/photos", "./~", "--index=~/c")
    assert run.returncode == 0 and "3 new" in run.stderr, run.stderr
    run = search("a cat", "--paths", "--in", "./~", env={"CROSSLOOK_INDEX": "~/c"})
    assert run.stdout == f"{tmp_path}/here/~/literal.png\n"
    assert sorted(os.listdir(tmp_path / "here")) == ["~"]


@pytest.mark.parametrize("words", [("index", "."), ("a dog",), ("--batch", "-"), ("evaluate", "."), ("optimize",)])
def test_another_device_is_refused_everywhere(search, path, words):
    run = search(*words, "--device", "tpu", index=path)
    assert run.returncode == 2 and "tpu is not auto, cpu or cuda" in run.stderr and "Traceback" not in run.stderr
    assert "--device" in run.stderr and not path.exists()


def test_one_query_takes_no_gpu(search, path):
    run = search("a dog", "--device", "cuda", index=path)
    assert run.returncode == 2 and "one query is faster without a GPU: use it with --batch" in run.stderr


def test_a_missing_gpu_is_one_line_and_changes_nothing(search, photos, path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    search("index", photos, index=path)
    before = sorted(path.iterdir())
    for words in (("optimize",), ("--batch", "-")):
        run = search(*words, "--device", "cuda", index=path)
        assert run.returncode == 2 and "--device cpu" in run.stderr and len(run.stderr.splitlines()) == 1
    assert sorted(path.iterdir()) == before


def test_a_batch_by_a_gpu_gives_the_same_and_says_where_it_cannot(search, photos, path, fake_model, monkeypatch):
    search("index", photos, index=path)
    queries = photos.parent / "queries"
    queries.write_text("a cat\na dog\n")
    words = ("--batch", queries, "--device")
    expected = search(*words, "cpu", index=path)
    backend = NumpyBackend()
    monkeypatch.setattr(choosing, "find_backend", lambda device: backend)
    monkeypatch.setattr(choosing, "check", lambda backend: None)
    by_gpu = search(*words, "cuda", index=path)
    assert (by_gpu.stdout, by_gpu.stderr) == (expected.stdout, expected.stderr) and backend.calls
    monkeypatch.setattr(choosing, "find_backend", lambda device: NumpyBackend(most=1))
    small = search(*words, "cuda", index=path)
    assert small.stdout == expected.stdout and "since the processor searches" in small.stderr
