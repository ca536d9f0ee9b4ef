"""Which files are listed, and what a listing tells about the others."""

from __future__ import annotations

import os
import subprocess

import pytest

from retrieval.indexing.exclusion import Rules
from retrieval.indexing.listing import list_images
from retrieval.progress import Interrupted
from tests.drives import looking_mounted, mounted
from tests.retrieval.indexing.listings import listing_of, names, relative, touch


def test_images_are_found_by_ending_in_either_case(tmp_path):
    touch(tmp_path, "a.JPG", "b.jpeg", "c.HeIc", "sub/d.webp", "e.txt", "f", "jpg", "g.jpg.part")
    assert names(tmp_path) == ["a.JPG", "b.jpeg", "c.HeIc", "sub/d.webp"]


def test_hidden_files_and_folders_are_skipped(tmp_path):
    touch(tmp_path, "a.jpg", "._a.jpg", ".b.jpg", ".thumbnails/c.jpg", "d/.e/f.jpg")
    assert names(tmp_path) == ["a.jpg"]


def test_a_hidden_folder_is_indexed_when_it_is_asked_for(tmp_path):
    touch(tmp_path, ".private/a.jpg")
    assert names(tmp_path / ".private") == ["a.jpg"]


def test_loops_of_links_end(tmp_path):
    touch(tmp_path, "a/b/c.jpg")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    assert names(tmp_path) == ["a/b/c.jpg", "self.jpg"]


def test_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path, "elsewhere/a.jpg", "root/b.jpg")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "second").symlink_to(tmp_path / "elsewhere")
    assert len(names(tmp_path / "root")) == 2


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(tmp_path) == []


def test_odd_names_are_found(tmp_path):
    for name in (b"new\nline.jpg", "häuschen 🏠.jpg".encode(), b"\xff\xfe.jpg"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"x")
    assert len(names(tmp_path)) == 3


def test_names_as_long_as_they_can_be_are_found(tmp_path):
    name = "ä" * 123 + ".jpg"  # 250 bytes
    touch(tmp_path, name, f"{'d' * 250}/{name}")
    assert names(tmp_path) == [f"{'d' * 250}/{name}", name]


def test_a_path_longer_than_the_system_takes_costs_only_what_lies_there(tmp_path):
    touch(tmp_path, "a.jpg")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        with open("deep.jpg", "wb"):
            pass
    finally:
        os.chdir(before)
    listing = listing_of(tmp_path)
    assert [os.path.basename(file.path) for file in listing.files] == [b"a.jpg"]
    assert [reason for _, reason in listing.unlisted] == ["File name too long"]
    subprocess.run(["rm", "-r", str(tmp_path / ("d" * 250))], check=True)  # shutil.rmtree cannot remove it


def test_pictures_that_are_not_read_are_counted_by_ending_for_each_root(tmp_path):
    touch(tmp_path, "one/a.KRA", "one/x/b.kra", "one/c.xcf", "one/d.jpg", "one/e.txt", "one/.f.kra", "two/g.svg")
    touch(tmp_path, "one/@eaDir/h.kra", "one/out/i.kra")
    roots = [os.fsencode(tmp_path / name) for name in ("one", "two", "one/x")]
    listing = list_images(roots, Rules(("out",)))
    assert listing.passed_over == {roots[0]: {".kra": 2, ".xcf": 1}, roots[1]: {".svg": 1}}
    assert relative(listing.occupied, tmp_path) == ["one", "one/x", "two"]


def test_folders_in_which_images_are_left_out_are_told_from_empty_ones(tmp_path):
    touch(tmp_path, "a/x.jpg", "b/y.jpg", "c/notes.txt", "d/.hidden.jpg")
    listing = listing_of(tmp_path, "x.jpg")
    assert relative(listing.occupied, tmp_path) == ["a"]
    assert relative(listing.visited, tmp_path) == [".", "a", "b", "c", "d"]


@pytest.fixture(params=[mounted, looking_mounted], ids=["as the system does", "as it looks"])
def mounting(request):
    return request.param


def test_folders_on_another_device_are_mounts(tmp_path, mounting):
    for name in ("photos/usb", "photos/sub/card", "photos/plain", "drive/DCIM"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "drive" / "DCIM")
    (tmp_path / "photos" / "near").symlink_to(tmp_path / "photos" / "plain")
    with mounting(tmp_path / "photos" / "usb", tmp_path / "photos" / "sub" / "card", tmp_path / "drive"):
        (tmp_path / "drive" / "DCIM").mkdir(exist_ok=True)
        (tmp_path / "photos" / "usb" / "inner").mkdir()
        assert relative(listing_of(tmp_path / "photos").mounts, tmp_path) == [
            "photos/link",
            "photos/sub/card",
            "photos/usb",
        ]
        assert relative(listing_of(tmp_path / "photos" / "usb").mounts, tmp_path) == ["photos/usb"]
        assert relative(listing_of(tmp_path / "photos" / "usb" / "inner").mounts, tmp_path) == []


def test_a_folder_seen_under_two_names_is_listed_under_the_first_root(tmp_path):
    touch(tmp_path, "photos/sub/a.jpg", "b.jpg")
    (tmp_path / "photos" / "sub" / "self").symlink_to(tmp_path / "photos" / "sub")
    roots = [os.fsencode(tmp_path / name) for name in ("photos/sub", "photos")]
    listing = list_images(roots)
    assert relative((file.path for file in listing.files), tmp_path) == ["photos/sub/a.jpg"]
    assert relative(listing.left_out, tmp_path) == ["photos/sub/self"]


def test_a_bound_folder_is_listed_once(tmp_path, monkeypatch):
    """`mount --bind photos/a photos/b`: two folders that are one, and no link."""
    touch(tmp_path, "photos/a/x.jpg", "photos/b/x.jpg")
    real = os.stat
    bound = os.fsencode(tmp_path / "photos" / "b")
    monkeypatch.setattr(
        os, "stat", lambda path, **options: real(path[:-1] + b"a" if path == bound else path, **options)
    )
    listing = listing_of(tmp_path)
    assert len(listing.files) == 1 and len(listing.left_out) == 1


def test_folders_without_numbers_are_told_apart_by_path(tmp_path, monkeypatch):
    """Some network file systems number all files 0."""
    touch(tmp_path, "a/x.jpg", "b/y.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    real = os.stat

    def stat(path, **options):
        status = real(path, **options)
        return os.stat_result([status.st_mode, 0, *status[2:]])

    monkeypatch.setattr(os, "stat", stat)
    assert names(tmp_path) == ["a/x.jpg", "b/y.jpg"]


@pytest.mark.parametrize("seconds", [-10_000_000_000, -1, 0, 2**31, 9_300_000_000, 13_569_465_600])
def test_times_of_any_century_are_listed(tmp_path, seconds):
    touch(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(seconds * 10**9, seconds * 10**9))
    expected = os.stat(tmp_path / "a.jpg").st_mtime_ns
    assert [file.mtime_ns for file in listing_of(tmp_path).files] == [max(min(expected, 2**63 - 1), -(2**63))]


def test_an_interrupt_is_heard_in_the_middle_of_a_folder(tmp_path):
    touch(tmp_path, *(f"{index}.jpg" for index in range(50)))
    asked = []

    def should_stop():
        asked.append(True)
        return len(asked) > 10

    with pytest.raises(Interrupted):
        list_images([os.fsencode(tmp_path)], should_stop=should_stop)
    assert len(asked) == 11
