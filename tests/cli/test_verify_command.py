"""`search verify`, `search index --repair`, and what `search status` prints about both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from indexes.commits import current_name
from indexes.recovery import SET_ASIDE

GOLDEN = Path(__file__).parents[1] / "goldens" / "format-1" / "collection"


@pytest.fixture
def copied(indexed, tmp_path):
    return shutil.copytree(indexed, tmp_path / "collection")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_whole_collection_is_read_and_found_whole(search, copied):
    run = search("verify", "-i", copied)
    assert run.returncode == 0 and run.stdout.count("\n") == 1
    assert "nothing is damaged" in run.stdout and "nothing is damaged" not in run.stderr


def test_a_flipped_bit_is_named_with_the_remedy_which_mends_it(search, copied, samples):
    file = next((copied / "segments").glob("*/embeddings.npy"))
    flip(file)
    run = search("verify", "-i", copied)
    assert run.returncode == 2
    assert str(file) in run.stdout and "checksum" in run.stdout
    assert "search index --repair FOLDER" in run.stderr
    repaired = search("index", "--repair", samples, "-i", copied)
    assert repaired.returncode == 0, repaired.stderr
    assert SET_ASIDE in repaired.stderr and "new" in repaired.stderr
    assert search("verify", "-i", copied).returncode == 0
    assert search("a cat", "-i", copied, "-k", "1").stdout.count("\n") == 1
    assert "of damaged files, in set-aside/" in search("status", "-i", copied).stdout


def test_json_says_the_same(search, copied):
    flip(next((copied / "segments").glob("*/tokens.npy")))
    run = search("verify", "--json", "-i", copied)
    record = json.loads(run.stdout)
    assert run.returncode == 2 and record["files"] == 6 and len(record["faults"]) == 1


def test_a_lost_manifest_is_rebuilt_and_the_run_says_so(search, copied, samples):
    (copied / current_name(copied)).write_bytes(b"")
    for words in (("verify",), ("a cat",), ("status",), ("index", samples)):
        run = search(*words, "-i", copied)
        assert run.returncode == 2 and "--repair" in run.stderr and "Traceback" not in run.stderr
    run = search("index", "--repair", samples, "-i", copied)
    assert run.returncode == 0 and "rebuilt from 1 segment with 18 images" in run.stderr
    assert "18 unchanged in" in run.stderr
    assert search("verify", "-i", copied).returncode == 0


def test_files_without_a_checksum_are_counted(search, tmp_path):
    run = search("verify", "-i", shutil.copytree(GOLDEN, tmp_path / "old"))
    assert run.returncode == 0 and "9 files of an earlier version had no checksum" in run.stderr


def test_no_collection_is_an_error(search, tmp_path):
    run = search("verify", "-i", tmp_path / "none")
    assert run.returncode == 2 and "no collection" in run.stderr


def test_status_tells_what_is_incomplete_excluded_passed_over_and_removed(search, samples, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("rocket.jpg", "chelsea.png", "coffee.png"):
        shutil.copy(samples / name, photos)
    content = (samples / "rocket.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(content[: 3 * len(content) // 4])
    (photos / "painting.xcf").write_bytes(b"x")
    path = tmp_path / "c"
    run = search("index", photos, "-i", path, "--exclude", "coffee.*")
    assert "3 new (1 incomplete)" in run.stderr and "passed over: 1 .xcf" in run.stderr
    search("remove", photos / "chelsea.png", "-i", path)
    record = json.loads(search("status", "-i", path, "--json").stdout)
    assert (record["images"], record["removed"], record["incomplete"]) == (2, 1, 1)
    assert record["excludes"] == ["coffee.*"] and record["passed_over"] == {".xcf": 1}
    lines = search("status", "-i", path).stdout
    for word in ("incomplete  1", "excludes    coffee.*", "passed over 1 .xcf", "removed     1"):
        assert word in lines
    assert search("status", "-i", path, "--incomplete").stdout == f"{photos / 'cut.jpg'}\tincomplete\n"
