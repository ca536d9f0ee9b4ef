"""`search explain`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cli.explain import hottest_part


def test_words_are_listed_and_drawn(search, samples, tmp_path):
    run = search("explain", "a cat", samples / "chelsea.png", "--out", tmp_path / "heat.png")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("match ") and "cat" in run.stdout and "%" in run.stdout
    assert Image.open(tmp_path / "heat.png").width > 600


@pytest.mark.parametrize(
    ("cell", "part"),
    [
        ((0, 0), "at the top left"),
        ((1, 3), "at the top"),
        ((0, 6), "at the top right"),
        ((3, 1), "on the left"),
        ((3, 3), "in the centre"),
        ((4, 5), "on the right"),
        ((6, 1), "at the bottom left"),
        ((5, 3), "at the bottom"),
        ((6, 6), "at the bottom right"),
    ],
)
def test_the_hottest_part_is_named_in_words(cell, part):
    heat = np.zeros((7, 7), np.float32)
    assert hottest_part(heat) == "nowhere"
    heat[cell] = 1
    assert hottest_part(heat) == f"most {part}"


def test_json_has_the_maps(search, samples):
    explanation = json.loads(search("explain", "a cat", samples / "chelsea.png", "--json").stdout)
    assert explanation["words"] == ["a", "cat"]
    assert len(explanation["heat"][1]) == 7 and 0 < explanation["match"] < 1


def test_what_cannot_be_done_is_one_line(search, samples, tmp_path):
    picture = samples / "chelsea.png"
    for words in (
        ("a cat", tmp_path / "gone.png"),
        ("a cat", picture, "--out", tmp_path / "no" / "heat.png"),
        ("a cat", picture, "--out", tmp_path / "heat.txt"),
        ("a cat", picture, "--model", "lite-untrained"),
        (" ", picture),
    ):
        run = search("explain", *words)
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1, run.stderr
