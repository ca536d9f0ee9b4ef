"""`search explain`, as users run it."""

from __future__ import annotations

import json

from PIL import Image


def test_words_are_listed_and_drawn(search, samples, tmp_path):
    run = search("explain", "a cat", samples / "chelsea.png", "--out", tmp_path / "heat.png")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("match ") and "cat" in run.stdout and "%" in run.stdout
    assert Image.open(tmp_path / "heat.png").width > 600


def test_json_has_the_maps(search, samples):
    found = json.loads(search("explain", "a cat", samples / "chelsea.png", "--json").stdout)
    assert found["words"] == ["a", "cat"] and len(found["heat"][1]) == 7 and 0 < found["match"] < 1


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
