"""Which model a name means: a directory first, whatever its path looks like."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import canonical_name, is_openclip_name, load_encoder
from retrieval.encoders.lite import HEADS

ODD_NAMES = ["C:model", "with:two:colons", "ViT-B-32:openai", ":", "~", "lite ", "модель 🐕"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder, which is the home folder as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_directory_loads_whatever_its_name(here, name):
    shutil.copytree(HEADS, here / name)
    for typed_name in (here / name, f"./{name}"):
        encoder = load_encoder(str(typed_name), "cpu")
        assert encoder.name == str(here / name)
        assert encoder.fingerprint == load_encoder("lite", "cpu").fingerprint


@pytest.mark.parametrize("name", ODD_NAMES[:3])
@pytest.mark.torch
def test_a_directory_of_open_clip_loads_whatever_its_name(here, tiny_clip, name):
    shutil.copytree(tiny_clip, here / name)
    assert load_encoder(str(here / name), "cpu").name == str(here / name)


@pytest.mark.parametrize("name", ODD_NAMES[:3])
def test_a_directory_that_holds_no_model_says_so_whatever_its_name(here, name):
    (here / name).mkdir()
    with pytest.raises(CrosslookError, match="is not a model directory"):
        load_encoder(str(here / name))


@pytest.mark.parametrize("name", ["/nowhere/a:b", "/nowhere/C:/models", "nonsense", "lite:"[:-1] + "r"])
def test_what_is_neither_says_what_to_use(name):
    with pytest.raises(CrosslookError, match="no model named .*search models"):
        load_encoder(name)


@pytest.mark.parametrize(
    ("typed_name", "expected"),
    [
        ("m", "m"),
        ("./m", "m"),
        ("m/", "m"),
        ("sub/../m", "m"),
        ("~/m", "m"),
        ("~/sub/../m", "m"),
        ("link/../n", "far/n"),  # through a link, `..` is another place
        ("link/../link", "far/../link"),
    ],
)
def test_a_directory_is_remembered_by_its_absolute_path(here, typed_name, expected):
    for folder in ("m", "sub", "far/away", "far/n"):
        (here / folder).mkdir(parents=True)
    (here / "link").symlink_to(here / "far" / "away")
    name = canonical_name(typed_name)
    if expected == "far/../link":  # does not exist
        assert name == typed_name
    else:
        assert os.path.isabs(name) and Path(name).samefile(here / expected)
        assert name == str(here / expected) or ".." in typed_name


def test_weights_in_a_file_are_remembered_by_its_absolute_path(here):
    (here / "weights.pt").touch()
    for typed_name in ("ViT-B-32:weights.pt", "ViT-B-32:./weights.pt", "ViT-B-32:~/weights.pt"):
        assert canonical_name(typed_name) == f"ViT-B-32:{here / 'weights.pt'}"


@pytest.mark.parametrize("name", ["lite", "lite-untrained"])
def test_the_embedded_models_are_no_directories(here, name):
    (here / name).mkdir()
    assert canonical_name(name) == name


@pytest.mark.parametrize("name", ["ViT-B-32:openai", "nothing", "~nobody-of-this-name/m", "", "a\0b", "x" * 50])
def test_other_names_stay_as_they_are(here, name):
    assert canonical_name(name) == name


@pytest.mark.parametrize(("name", "expected"), [("ViT-B-32:openai", True), ("lite", False), ("/a/b:c", False)])
def test_names_of_open_clip(name, expected):
    assert is_openclip_name(name) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "scorer", "encoder": "lite-untrained"},
        {"kind": "scorer", "encoder": "lite-untrained", "towers": 3},
        {"kind": "heads and scorer of lite"},
        {"kind": "scorer"},
        {},
        [],
    ],
)
def test_a_damaged_configuration_is_one_clear_line(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CrosslookError, match=r"^[^\n]*(config.json is damaged|trained with other)[^\n]*$"):
        load_encoder(str(tmp_path))


def test_a_model_made_of_itself_is_damaged(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "scorer", "encoder": str(tmp_path)}))
    with pytest.raises(CrosslookError, match="is damaged"):
        load_encoder(str(tmp_path))
