"""How hits are printed, including those whose files are gone."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime

import pytest

from cli.show.hits import hit_record, is_missing, print_json, print_lines, print_paths, print_table
from retrieval.query import Hit, Results
from tests.support import write_photos

TAKEN = datetime(2021, 7, 4, 12, 30, 5)


def hit(path, rank=1, taken_at=None):
    return Hit(rank, str(path), 1.5, 0.25, 0.125, 40, 30, taken_at, rank)


@pytest.fixture
def hits(tmp_path):
    """The files of the first and third exist, those of the second and fourth do not."""
    (tmp_path / "a.jpg").touch()
    (tmp_path / "c.jpg").touch()
    return [hit(tmp_path / f"{name}.jpg", rank) for rank, name in enumerate("abcd", 1)]


def test_json_has_the_time_when_a_photo_was_taken(tmp_path):
    assert hit_record(hit(tmp_path, taken_at=TAKEN))["taken_at"] == "2021-07-04T12:30:05"
    assert hit_record(hit(tmp_path))["taken_at"] is None


def test_json_says_which_files_are_missing(hits, capfd):
    print_json(hits)
    shown = capfd.readouterr()
    assert [json.loads(line)["missing"] for line in shown.out.splitlines()] == [False, True, False, True]
    assert shown.err == ""


def test_a_table_marks_what_is_missing(hits, capfd):
    print_table(Results(tuple(hits), False, {}))
    assert [line.endswith("  (missing)") for line in capfd.readouterr().out.splitlines()] == [False, True, False, True]


def test_on_a_pipe_lines_stay_and_a_note_counts_what_is_missing(hits, capfd):
    print_lines(hits)
    shown = capfd.readouterr()
    assert [line.split("\t")[2] for line in shown.out.splitlines()] == [hit.path for hit in hits]
    assert len(shown.err.splitlines()) == 1 and "2 images that are missing" in shown.err
    print_lines(hits[::2])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_paths_are_those_of_files_that_are_there(hits, capfd, end):
    assert print_paths(hits, end) == 2
    shown = capfd.readouterr()
    assert shown.out == f"{hits[0].path}{end}{hits[2].path}{end}"
    assert "left out: 2 images that are missing" in shown.err
    assert print_paths(hits[1:2], end) == 0
    shown = capfd.readouterr()
    assert shown.out == "" and "1 image that is missing" in shown.err


def test_a_name_that_no_file_can_have_is_missing():
    assert is_missing(hit("/photos/\0.jpg"))
    assert is_missing(hit("/photos/" + "x" * 10_000))


def test_a_file_of_any_bytes_is_there(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\n.jpg"
    open(path, "wb").close()
    assert not is_missing(hit(os.fsdecode(path)))


def test_a_collection_whose_drive_is_away_answers_and_says_so(search, fake_model, tmp_path):
    write_photos(tmp_path / "photos", 3)
    search("index", tmp_path / "photos", "-i", tmp_path / "c")
    shutil.rmtree(tmp_path / "photos")
    run = search("a cat", "-i", tmp_path / "c")
    assert (run.returncode, len(run.stdout.splitlines())) == (0, 3) and "3 images that are missing" in run.stderr
    run = search("a cat", "--paths", "-i", tmp_path / "c")
    assert (run.returncode, run.stdout) == (1, "") and "left out: 3 images" in run.stderr
