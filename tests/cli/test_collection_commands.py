"""`search status`, `remove` and `optimize`: the commands that look after a collection."""

from __future__ import annotations

import itertools
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from indexes.collection import Collection
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.maintenance import status
from tests.support import FakeEncoder, write_photo, write_photos


def test_a_damaged_manifest_is_one_line(search, photos, path):
    search("index", photos, index=path)
    next(path.glob("manifest-*.json")).write_text("{")
    for words in (("a cat",), ("status",), ("index", photos), ("optimize",)):
        run = search(*words, index=path)
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1 and "is damaged" in run.stderr


def test_a_truncated_segment_is_one_line_and_can_be_repaired(search, photos, path):
    search("index", photos, index=path)
    tokens = next(path.glob("segments/*/tokens.npy"))
    tokens.write_bytes(tokens.read_bytes()[:-1])
    run = search("a cat", index=path)
    assert run.returncode == 2 and "--repair" in run.stderr
    assert search("index", "--repair", photos, index=path).returncode == 0
    assert len(search("a cat", index=path).stdout.splitlines()) == 4


def test_status_tells_what_is_there(search, photos, path):
    (photos / "broken.jpg").write_bytes(b"no")
    search("index", photos, index=path)
    text = search("status", index=path).stdout
    assert f"collection  {path}" in text and "lite (" in text and "images      4" in text and str(photos) in text
    assert "scorer      the model's own" in text
    record = json.loads(search("status", "--json", index=path).stdout)
    assert (record["images"], record["failures"], record["model"], record["scorer"]) == (4, 1, "lite", "lite")
    assert record["folders"] == [str(photos)]
    assert search("status", "--failures", index=path).stdout.startswith(f"{photos / 'broken.jpg'}\tis not an image")


def test_remove_takes_a_folder_out_and_leaves_the_files(search, tmp_path, path):
    write_photos(tmp_path / "a", 3)
    write_photos(tmp_path / "b", 2, first=10)
    search("index", tmp_path / "a", tmp_path / "b", index=path)
    run = search("remove", tmp_path / "a", index=path)
    assert run.returncode == 0 and "3 images removed" in run.stderr
    record = json.loads(search("status", "--json", index=path).stdout)
    assert (record["images"], record["folders"]) == (2, [str(tmp_path / "b")])
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_remove_takes_one_image_out(search, photos, path):
    search("index", photos, index=path)
    assert "1 image removed" in search("remove", photos / "000.png", index=path).stderr


def test_removing_what_is_not_there_is_an_error(search, photos, path, tmp_path):
    search("index", photos, index=path)
    run = search("remove", tmp_path / "elsewhere", index=path)
    assert run.returncode == 2 and "nothing in" in run.stderr


def test_a_collection_that_lost_all_its_images_finds_nothing(search, photos, path):
    search("index", photos, index=path)
    search("remove", photos, index=path)
    run = search("a cat", index=path)
    assert (run.returncode, run.stdout) == (1, "") and "empty" in run.stderr


def test_optimize_leaves_one_segment_and_the_same_results(search, photos, path):
    search("index", photos, index=path)
    write_photos(photos, 1, first=20)
    search("index", photos, index=path)
    before = search("a cat", index=path).stdout
    assert "2 segments became 1" in search("optimize", index=path).stderr
    assert search("a cat", index=path).stdout == before
    assert json.loads(search("status", "--json", index=path).stdout)["segments"] == 1


def test_optimize_tells_what_it_dropped(search, photos, path):
    search("index", photos, index=path)
    search("remove", photos / "000.png", index=path)
    assert "1 dead entry dropped" in search("optimize", index=path).stderr
    assert "nothing to do" in search("optimize", index=path).stderr


def test_status_works_while_a_writer_is_at_work(photos, path):
    """The writer goes on until the status of five commits was seen."""
    write_photos(photos, 40)
    index_folders([photos], path, FakeEncoder())
    commits: set[str] = set()
    enough = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(index_until, enough, photos, path)
        while len(commits) < 5 and not writing.done():
            assert status(path).images > 0
            commits.add(Collection.open(path).manifest.file_name)
        enough.set()
        writing.result()
    assert len(commits) == 5


def index_until(enough, photos, path):
    for time in itertools.count():
        for photo in list(photos.iterdir())[::2]:
            write_photo(photo, seed=time)
            os.utime(photo, ns=(time, time))
        index_folders([photos], path, FakeEncoder(), Settings(commit_rows=4))
        if enough.is_set():
            return
