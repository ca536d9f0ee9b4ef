"""Which files are listed, and what is said of the others."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager

import pytest

from retrieval.indexing.exclusion import Rules
from retrieval.indexing.listing import list_images
from retrieval.progress import Interrupted
from tests.drives import looking_mounted, mounted


def listing_of(folder, *excludes, include_all=False):
    return list_images([os.fsencode(folder)], Rules(excludes, include_all))


def names(folder, *excludes, include_all=False):
    listing = listing_of(folder, *excludes, include_all=include_all)
    return [os.path.relpath(os.fsdecode(file.path), folder) for file in listing.files]


def touch(folder, *relative):
    for name in relative:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def relative(paths, folder):
    return sorted(os.path.relpath(os.fsdecode(path), folder) for path in paths)


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


def test_excluded_names_and_paths_are_skipped(tmp_path):
    touch(tmp_path, "a.jpg", "b.png", "trash/c.jpg", "keep/trash/d.jpg", "keep/e.jpg")
    assert names(tmp_path, "*.png") == ["a.jpg", "keep/e.jpg", "keep/trash/d.jpg", "trash/c.jpg"]
    assert names(tmp_path, "trash") == ["a.jpg", "b.png", "keep/e.jpg"]
    assert names(tmp_path, "keep/trash/") == ["a.jpg", "b.png", "keep/e.jpg", "trash/c.jpg"]


def test_odd_names_are_found(tmp_path):
    for name in (b"new\nline.jpg", "häuschen 🏠.jpg".encode(), b"\xff\xfe.jpg"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"x")
    assert len(names(tmp_path)) == 3


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    real = os.scandir

    def scandir(path):
        if path.endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_images([os.fsencode(tmp_path)])
    assert [file.path for file in listing.files] == [os.fsencode(tmp_path / "a.jpg")]
    assert listing.unlisted == ((os.fsencode(tmp_path / "locked"), "Permission denied"),)


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
    subprocess.run(["rm", "-r", str(tmp_path / ("d" * 250))], check=True)  # which shutil.rmtree cannot


# What a person asks to leave out.


@pytest.mark.parametrize(
    ("excludes", "expected"),
    [
        (["**/coins.png"], ["a/b/x.jpg", "a/x.jpg", "b/coins.jpg", "x.jpg"]),
        (["coins.*"], ["a/b/x.jpg", "a/x.jpg", "x.jpg"]),
        (["/x.jpg"], ["a/b/coins.png", "a/b/x.jpg", "a/x.jpg", "b/coins.jpg", "coins.png"]),
        (["a/x.jpg"], ["a/b/coins.png", "a/b/x.jpg", "b/coins.jpg", "coins.png", "x.jpg"]),
        (["b/"], ["a/x.jpg", "coins.png", "x.jpg"]),
        (["/b"], ["a/b/coins.png", "a/b/x.jpg", "a/x.jpg", "coins.png", "x.jpg"]),
        (["a/**/coins.png"], ["a/b/x.jpg", "a/x.jpg", "b/coins.jpg", "coins.png", "x.jpg"]),
        (["?.jpg", "!/x.jpg"], ["a/b/coins.png", "b/coins.jpg", "coins.png", "x.jpg"]),
        (["*", "!*/", "!*.png"], ["a/b/coins.png", "coins.png"]),
        (["b", "!a/"], ["a/x.jpg", "coins.png", "x.jpg"]),
        (["a", "!a/x.jpg"], ["b/coins.jpg", "coins.png", "x.jpg"]),
        (["/a/*", "!/a/x.jpg"], ["a/x.jpg", "b/coins.jpg", "coins.png", "x.jpg"]),
        (["*.[jJ]pg"], ["a/b/coins.png", "coins.png"]),
    ],
)
def test_patterns_leave_out_what_git_would(tmp_path, excludes, expected):
    touch(tmp_path, "coins.png", "x.jpg", "a/x.jpg", "a/b/x.jpg", "a/b/coins.png", "b/coins.jpg")
    assert names(tmp_path, *excludes) == expected


def test_patterns_are_relative_to_each_root(tmp_path):
    touch(tmp_path, "one/a.jpg", "one/sub/a.jpg", "two/a.jpg")
    roots = [os.fsencode(tmp_path / name) for name in ("one", "two")]
    assert relative((file.path for file in list_images(roots, Rules(("/a.jpg",))).files), tmp_path) == ["one/sub/a.jpg"]


def test_patterns_hold_for_names_that_are_odd(tmp_path):
    odd = [b"a\nb/trash/x.jpg", b"trash\n/x.jpg", b"\xff\xfe/trash/x.jpg", b"\xff\xfe.jpg", b"x.jpg\n.jpg"]
    for name in odd:
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    left = {os.path.relpath(file.path, os.fsencode(tmp_path)) for file in listing_of(tmp_path, "trash/", "x.jpg").files}
    assert left == {b"\xff\xfe.jpg", b"x.jpg\n.jpg"}
    assert names(tmp_path, "*\udcfe*", "*\n*") == []


def test_a_pattern_on_the_command_line_is_no_comment(tmp_path):
    touch(tmp_path, "#old/a.jpg", "b.jpg")
    assert names(tmp_path, "#old") == ["b.jpg"]


@pytest.mark.parametrize("pattern", ["", "!", "/", "  "])
def test_what_is_no_pattern_is_refused(tmp_path, pattern):
    with pytest.raises(ValueError, match="^" + pattern):
        listing_of(tmp_path, "*.png", pattern)


def test_patterns_that_match_nothing_are_told(tmp_path):
    touch(tmp_path, "a.jpg", "b/c.jpg", "notes.txt", ".hidden/d.jpg", "@eaDir/e.jpg", "f.svg")
    excludes = ["foo*", "a.jpg", "*.txt", ".hidden", "@eaDir", "b/", "b/c.jpg", "!nothing", "*.svg", "*.jpg"]
    assert listing_of(tmp_path, *excludes).unmatched == ("foo*", "b/c.jpg", "!nothing")


def test_a_pattern_that_another_overrules_has_matched(tmp_path):
    touch(tmp_path, "a.jpg")
    assert listing_of(tmp_path, "a.*", "*.jpg").unmatched == ()


def test_linked_folders_are_left_out_as_folders(tmp_path):
    touch(tmp_path, "elsewhere/a.jpg", "root/b.jpg")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "@eaDir").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "root", "link/") == ["b.jpg"]
    listing = listing_of(tmp_path / "root", "link/")
    assert relative(listing.left_out, tmp_path / "root") == ["@eaDir", "link"]


def test_ignore_files_hold_below_their_folder_and_the_inner_one_decides(tmp_path):
    touch(tmp_path, "a.png", "b.jpg", "in/a.png", "in/b.jpg", "in/deep/a.png", "in/deep/b.jpg", "other/b.jpg")
    write(tmp_path / ".crosslookignore", "# screenshots", "", "*.png")
    write(tmp_path / "in" / ".crosslookignore", "!a.png", "/b.jpg")
    write(tmp_path / "in" / "deep" / ".crosslookignore", "*")
    assert names(tmp_path) == ["b.jpg", "in/a.png", "other/b.jpg"]
    assert names(tmp_path, "!in/deep/a.png") == ["b.jpg", "in/a.png", "in/deep/a.png", "other/b.jpg"]
    assert names(tmp_path, "a.png") == ["b.jpg", "other/b.jpg"]


def test_an_ignore_file_of_a_folder_around_the_root_holds_too(tmp_path):
    touch(tmp_path, "photos/2019/a.jpg", "photos/2019/private/b.jpg")
    write(tmp_path / ".crosslookignore", "photos/2019/private", "photos/")
    assert names(tmp_path / "photos" / "2019") == ["a.jpg"]


def test_ignore_files_are_read_as_they_are_written_anywhere(tmp_path):
    touch(tmp_path, "a.png", "ä.jpg", "x y.jpg", "b.jpg", "#c.jpg")
    (tmp_path / ".crosslookignore").write_bytes("\ufeff*.png\r\nä.*\r\nx\\ y.jpg\r\n\\#c.jpg\r\n".encode())
    assert names(tmp_path) == ["b.jpg"]


def test_a_line_of_an_ignore_file_that_is_no_pattern_is_told_and_the_others_hold(tmp_path):
    touch(tmp_path, "a.png", "b.jpg")
    write(tmp_path / ".crosslookignore", "!", "*.png")
    listing = listing_of(tmp_path)
    assert len(listing.files) == 1
    assert listing.notes == (f"{tmp_path / '.crosslookignore'}: '!' is not a gitignore pattern",)


def test_a_folder_whose_ignore_file_cannot_be_read_is_not_looked_into(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "private/b.jpg")
    write(tmp_path / "private" / ".crosslookignore", "*")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("retrieval.indexing.exclusion.read_ignore_file", refuse)
    listing = listing_of(tmp_path)
    assert [os.path.basename(file.path) for file in listing.files] == [b"a.jpg"]
    ((place, reason),) = listing.unlisted
    assert place == os.fsencode(tmp_path / "private") and reason.endswith(
        ".crosslookignore cannot be read: Permission denied"
    )


def test_an_ignore_file_without_end_leaves_out_all(tmp_path):
    touch(tmp_path, "a.jpg", "b/c.jpg")
    (tmp_path / "b" / ".crosslookignore").write_text("x\n" * 600_000)
    listing = listing_of(tmp_path)
    assert len(listing.files) == 1 and "has more than 1 MB" in listing.unlisted[0][1]


def test_an_ignore_file_that_is_none_is_passed_over(tmp_path):
    touch(tmp_path, "a.jpg", "b/c.jpg")
    (tmp_path / ".crosslookignore").mkdir()
    os.mkfifo(tmp_path / "b" / ".crosslookignore")
    assert names(tmp_path) == ["a.jpg", "b/c.jpg"]


def test_nomedia_leaves_out_its_folder_and_all_below(tmp_path):
    touch(tmp_path, "a.jpg", "b/.nomedia", "b/c.jpg", "b/d/e.jpg", "f/.nomedia.txt", "f/g.jpg")
    assert names(tmp_path) == ["a.jpg", "f/g.jpg"]
    assert relative(listing_of(tmp_path).left_out, tmp_path) == ["b"]
    assert names(tmp_path / "b") == []
    assert names(tmp_path, include_all=True) == ["a.jpg", "b/c.jpg", "b/d/e.jpg", "f/g.jpg"]


# What nobody took.

RUBBISH = [
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
    "2019/@eaDir/a.jpg",
    "#recycle/a.jpg",
    "#snapshot/GMT-01/a.jpg",
    "$RECYCLE.BIN/S-1-5/a.jpg",
    "$Recycle.Bin/a.jpg",
    "System Volume Information/a.jpg",
    "lost+found/a.jpg",
    "code/node_modules/x/a.png",
    "__MACOSX/a.jpg",
    "files_trashbin/files/a.jpg",
    "Mine.photoslibrary/resources/derivatives/0/a.jpeg",
    "Mine.photoslibrary/scopes/syndication/resources/derivatives/a.jpeg",
    "Old.PhotosLibrary/Thumbnails/2012/a.jpg",
    "iPhoto Library.photolibrary/Previews/a.jpg",
    "Lightroom Catalog Previews.lrdata/0/a.jpg",
    "immich/thumbs/u/a.webp",
    "immich/encoded-video/u/a.jpg",
    "nextcloud/appdata_oc1x/preview/0/a.jpg",
    "photoprism/cache/thumbnails/a.jpg",
    ".dtrash/files/a.jpg",
    ".Trash-1000/files/a.jpg",
]
PHOTOS = [
    "Mine.photoslibrary/originals/0/a.heic",
    "Mine.photoslibrary/scopes/syndication/originals/0/a.jpg",
    "Old.PhotosLibrary/Masters/2012/resources/a.jpg",
    "immich/library/admin/a.jpg",
    "immich/profile/a.jpg",
    "immich/upload/u/a.jpg",
    "photoprism/sidecar/a.jpg",
    "nextcloud/user/files/preview/a.jpg",
    "trip/thumbs/a.jpg",
    "trip/encoded-video/a.jpg",
    "trip/cache/a.jpg",
    "trip/resources/derivatives/a.jpg",
    "Lost+Found/a.jpg",
    "trash/a.jpg",
    "lost+found.jpg",
    "node_modules.d/a.jpg",
]


def make_libraries(folder):
    touch(folder, *RUBBISH, *PHOTOS, "photoprism/config/x", "immich/backups/x")


def test_thumbnails_trash_and_caches_are_left_out(tmp_path):
    make_libraries(tmp_path)
    assert names(tmp_path) == sorted(PHOTOS)


def test_all_is_included_when_that_is_asked_for_but_what_is_hidden(tmp_path):
    make_libraries(tmp_path)
    visible = [name for name in RUBBISH if not name.startswith(".")]
    assert names(tmp_path, include_all=True) == sorted([*PHOTOS, *visible])


@pytest.mark.parametrize("root", ["@eaDir", "#recycle/.", "Mine.photoslibrary/resources/derivatives", "immich/thumbs"])
def test_a_folder_that_is_asked_for_is_listed_whatever_its_name(tmp_path, root):
    make_libraries(tmp_path)
    assert len(names(tmp_path / root)) == 1


def test_a_library_that_is_asked_for_gives_its_originals(tmp_path):
    make_libraries(tmp_path)
    assert names(tmp_path / "Mine.photoslibrary") == ["originals/0/a.heic", "scopes/syndication/originals/0/a.jpg"]


# What is not read.


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


# Devices, links and loops.


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


def test_a_file_that_vanishes_while_it_is_listed_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "b.jpg")
    real = os.scandir

    @contextmanager
    def scandir(path):
        with real(path) as entries:
            listed = list(entries)
        (tmp_path / "a.jpg").unlink()
        yield iter(listed)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = listing_of(tmp_path)
    assert [os.path.basename(file.path) for file in listing.files] == [b"b.jpg"]
    assert listing.unlisted == ((os.fsencode(tmp_path / "a.jpg"), "has vanished since its folder was listed"),)


class Entry:
    """Of a file system that gives no types, and errors."""

    def __init__(self, entry, error):
        self.name, self.path, self._entry, self._error = entry.name, entry.path, entry, error

    def is_dir(self, follow_symlinks=True):
        if self.name.startswith(b"bad"):
            raise self._error
        return self._entry.is_dir(follow_symlinks=follow_symlinks)

    def __getattr__(self, name):
        return getattr(self._entry, name)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES])
def test_one_odd_entry_costs_nothing_else(tmp_path, monkeypatch, number):
    touch(tmp_path, "a.jpg", "bad.jpg", "bad/c.jpg", "d.jpg")
    real = os.scandir

    @contextmanager
    def scandir(path):
        with real(path) as entries:
            yield (Entry(entry, OSError(number, os.strerror(number))) for entry in entries)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = listing_of(tmp_path)
    assert [os.path.basename(file.path) for file in listing.files] == [b"a.jpg", b"d.jpg"]
    assert {os.path.basename(path): reason for path, reason in listing.unlisted} == {
        b"bad": os.strerror(number),
        b"bad.jpg": os.strerror(number),
    }


def test_an_error_in_the_middle_of_a_folder_is_told_of_the_folder(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "b/c.jpg")
    real = os.scandir

    @contextmanager
    def scandir(path):
        def failing():
            yield from entries
            raise OSError(errno.EIO, "Input/output error")

        with real(path) as entries:
            yield failing() if path.endswith(b"b") else entries

    monkeypatch.setattr(os, "scandir", scandir)
    assert listing_of(tmp_path).unlisted == ((os.fsencode(tmp_path / "b"), "Input/output error"),)


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
