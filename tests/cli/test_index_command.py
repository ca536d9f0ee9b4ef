"""`search index`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.batches import copy_tree_bytes
from tests.support import write_photo, write_photos


def test_two_commands_index_and_search(search, samples, path):
    run = search("index", samples, index=path)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "" and "18 new" in run.stderr and "images/s" in run.stderr
    assert search("a cup of coffee", "--paths", "-k", 1, index=path).stdout == f"{samples / 'coffee.png'}\n"


def test_a_second_run_says_that_nothing_changed(search, photos, path):
    search("index", photos, index=path)
    assert search("index", photos, index=path).stderr.startswith("4 unchanged in")


def test_changes_are_counted(search, photos, path):
    search("index", photos, index=path)
    write_photos(photos, 2, first=50)
    (photos / "000.png").rename(photos / "moved.png")
    (photos / "001.png").unlink()
    write_photo(photos / "002.png", seed=77)
    os.utime(photos / "002.png", ns=(1, 1))
    (photos / "broken.jpg").write_bytes(b"no")
    run = search("index", photos, index=path)
    assert "2 new, 1 changed, 1 moved, 1 removed, 1 unchanged, 1 failed in" in run.stderr
    assert f"skipped {photos / 'broken.jpg'}: is not an image" in run.stderr
    assert run.returncode == 0


def test_the_default_collection_is_the_one_in_the_environment(search, photos, path):
    search("index", photos, index=path)
    assert (path / "CURRENT").exists()
    assert search("status", index=path).returncode == 0


def test_the_option_comes_before_the_environment(search, photos, path, tmp_path):
    search("index", photos, "-i", tmp_path / "named", index=path)
    assert (tmp_path / "named" / "CURRENT").exists() and not path.exists()


def test_a_dry_run_prints_the_plan_and_does_nothing(search, photos, path):
    assert search("index", "--dry-run", photos, index=path).stdout.splitlines()[0] == f"add\t{photos / '000.png'}"
    assert not path.exists()
    search("index", photos, index=path)
    before = copy_tree_bytes(path)
    (photos / "000.png").rename(photos / "moved\n.png")
    (photos / "001.png").unlink()
    run = search("index", "--dry-run", photos, index=path)
    assert sorted(run.stdout.splitlines()) == [
        f"move\t{photos / '000.png'}\t{photos}/moved\\n.png",
        f"remove\t{photos / '001.png'}",
    ]
    assert "nothing was done" in run.stderr
    assert copy_tree_bytes(path) == before


def test_excluded_files_are_left_out(search, photos, path):
    search("index", photos, "--exclude", "000*", "--exclude", "001.png", index=path)
    assert json.loads(search("status", "--json", index=path).stdout)["images"] == 2


def test_a_dry_run_tells_what_is_touched_kept_and_passed_over(search, photos, path):
    write_photos(photos / "usb", 2, first=50)
    search("index", photos, index=path)
    os.utime(photos / "000.png", ns=(1, 1))
    shutil.rmtree(photos / "usb")
    (photos / "usb").mkdir()
    for name in ("a.XCF", "b.xcf", "c.kra"):
        (photos / name).touch()
    run = search("index", photos, "--dry-run", index=path)
    assert run.stdout.splitlines() == [f"touch\t{photos / '000.png'}", f"keep\t{photos / 'usb'}"]
    assert "usb holds no images now, but 2 were indexed there: kept" in run.stderr
    assert "passed over: 2 .xcf, 1 .kra" in run.stderr
    assert "1 touched, 0 to remove, 2 kept, 3 unchanged" in run.stderr
    assert "2 to remove, 0 kept" in search("index", photos, "--dry-run", "--forget", index=path).stderr


def test_an_emptied_folder_is_kept_until_it_is_forgotten(search, photos, path):
    write_photos(photos / "usb", 2, first=50)
    search("index", photos, index=path)
    shutil.rmtree(photos / "usb")
    (photos / "usb").mkdir()
    run = search("index", photos, index=path)
    assert f"`search index --forget {photos}` or `search remove {photos}/usb`" in run.stderr
    assert json.loads(search("status", "--json", index=path).stdout)["images"] == 6
    assert "2 removed, 4 unchanged" in search("index", photos, "--forget", index=path).stderr


def test_thumbnails_and_nomedia_are_left_out_unless_asked_for(search, photos, path):
    write_photos(photos / "@eaDir", 1, first=50)
    write_photos(photos / "private", 1, first=60)
    (photos / "private" / ".nomedia").touch()
    assert "4 new" in search("index", photos, index=path).stderr
    assert "2 new" in search("index", photos, "--include-all", index=path).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--exclude", "!"), "--exclude '!' is not a gitignore pattern"),
        (("--no-exclude", "x"), "remembers no exclude 'x' to take back; it remembers none"),
    ],
)
def test_a_bad_exclude_is_one_line_and_makes_nothing(search, photos, path, words, message):
    for more in ((), ("--dry-run",)):
        run = search("index", photos, *words, *more, index=path)
        assert run.returncode == 2 and message in run.stderr and len(run.stderr.splitlines()) == 1
        assert not path.exists()


def test_a_pattern_that_matched_nothing_gets_a_line(search, photos, path):
    run = search("index", photos, "--exclude", "foo*", index=path)
    assert run.returncode == 0 and "--exclude 'foo*' matched nothing" in run.stderr


def test_names_of_any_bytes_are_indexed_and_printed(search, tmp_path, path):
    names = [b"new\nline.png", "häuschen 🏠.png".encode(), b"\xff\xfe.png"]
    (tmp_path / "odd").mkdir()
    for index, name in enumerate(names):
        write_photo(os.path.join(os.fsencode(tmp_path / "odd"), name), seed=index)
    assert search("index", tmp_path / "odd", index=path).returncode == 0
    printed = search("a cat", "-0", index=path).stdout.split("\0")[:-1]
    assert sorted(os.path.basename(os.fsencode(name)) for name in printed) == sorted(names)
    assert len(search("a cat", index=path).stdout.splitlines()) == 3
    paths = [json.loads(line)["path"] for line in search("a cat", "--json", index=path).stdout.splitlines()]
    assert sorted(os.path.basename(os.fsencode(name)) for name in paths) == sorted(names)


@pytest.mark.parametrize(
    ("folder", "message"),
    [("none", "no such folder"), ("file.txt", "not a folder"), ("empty", "no images in")],
)
def test_a_bad_folder_is_one_line_and_status_2(search, tmp_path, path, folder, message):
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    run = search("index", tmp_path / folder, index=path)
    assert (run.returncode, run.stdout) == (2, "")
    assert message in run.stderr and len(run.stderr.splitlines()) == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "nonsense"), "no model named nonsense"),
        (("--device", "tpu"), "not auto, cpu or cuda"),
        (("--max-pixels", "nan"), "not a number of megapixels"),
        (("--device", "cuda"), "--device cpu"),
    ],
)
def test_a_bad_model_or_device_is_told_and_makes_nothing(search, photos, path, words, message):
    run = search("index", photos, *words, index=path, env={"HF_HUB_OFFLINE": "1"})
    assert run.returncode == 2 and message in run.stderr and "Traceback" not in run.stderr
    assert not path.exists()


def test_a_folder_that_is_not_a_collection_is_refused(search, photos, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    run = search("index", photos, index=tmp_path / "thesis")
    assert run.returncode == 2 and "choose another -i COLLECTION" in run.stderr


def test_the_first_interrupt_commits_what_is_done_and_the_next_run_goes_on(search, tmp_path, path):
    """The interrupt comes while the fortieth file is being decoded."""
    photos = tmp_path / "photos"
    write_photos(photos, 60)
    script = f"""
import os, signal
import retrieval.indexing.reading as indexing
real = indexing.decode
calls = 0
def decode(*arguments):
    global calls
    calls += 1
    if calls == 40:
        os.kill(os.getpid(), signal.SIGINT)
    return real(*arguments)
indexing.decode = decode
import sys
sys.argv[1:] = ["index", {str(photos)!r}, "-i", {str(path)!r}]
from cli.main import main
main()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 130, run.stderr
    assert "interrupted: what is done is committed" in run.stderr
    kept = json.loads(search("status", "--json", index=path).stdout)["images"]
    assert 0 < kept < 60
    assert f"{60 - kept} new, {kept} unchanged" in search("index", photos, index=path).stderr


def test_a_killed_run_leaves_a_searchable_collection_and_the_next_goes_on(search, tmp_path, path):
    photos = tmp_path / "photos"
    write_photos(photos, 60)
    script = f"""
import os, signal, sys
from pathlib import Path
from retrieval.encoders import load_encoder
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.progress import Observer
def progress(now):
    if now.new >= 48:
        os.kill(os.getpid(), signal.SIGKILL)
index_folders([{str(photos)!r}], Path({str(path)!r}), load_encoder(), Settings(commit_rows=16), Observer(progress))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == -signal.SIGKILL
    kept = len(search("a cat", "-k", 100, index=path).stdout.splitlines())
    assert kept >= 16
    assert f"{60 - kept} new, {kept} unchanged" in search("index", photos, index=path).stderr
    uninterrupted = tmp_path / "uninterrupted"
    search("index", photos, index=uninterrupted)
    words = ("a cat", "-k", 100, "--json")
    assert search(*words, index=path).stdout == search(*words, index=uninterrupted).stdout


def test_a_folder_whose_images_are_gone_is_not_emptied_without_being_told(search, photos, path):
    search("index", photos, index=path)
    shutil.rmtree(photos)
    photos.mkdir()
    run = search("index", photos, index=path)
    assert run.returncode == 2 and f"search remove {photos}" in run.stderr
    assert len(search("a cat", index=path).stdout.splitlines()) == 4


def test_settings_reach_the_run(search, photos, path):
    assert "4 failed" in search("index", photos, "--max-pixels", "0.00001", index=path).stderr
    assert "4 failed" in search("index", photos, "--max-pixels", "0.00001", index=path).stderr
    (photos / "000.png").write_bytes(b"no")
    search("index", photos, index=path)
    assert "skipped" not in search("index", photos, index=path).stderr
    assert "skipped" in search("index", photos, "--retry-failed", index=path).stderr
    assert "add" in search("index", photos, "--dry-run", "--retry-failed", index=path).stdout


def test_a_folder_name_cannot_command_the_terminal(search, path):
    run = search("index", "no\nsuch\x1b[31m", index=path)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1 and "\x1b" not in run.stderr
