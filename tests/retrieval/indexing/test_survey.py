"""Runs over real folders, one after the other. The collection is a stand-in that does what a plan says."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from indexes.errors import CrosslookError
from indexes.rows import Failure, failures_table
from retrieval.indexing.roots import find_roots
from retrieval.indexing.survey import Settings, plan_folders, survey
from retrieval.progress import Interrupted, Observer
from tests.drives import Drive, identified

ROW_TYPES = {
    "position": pa.int64(),
    "id": pa.int64(),
    "path": pa.binary(),
    "size": pa.int64(),
    "mtime_ns": pa.int64(),
    "ctime_ns": pa.int64(),
    "content_hash": pa.binary(),
}


@dataclass
class Library:
    """A collection: rows by id, each a dictionary. What a plan says is done as the pipeline does it: a file whose
    content is known, from a row that is there or was removed, is not embedded."""

    rows: dict[int, dict[str, object]] = field(default_factory=dict)
    gone: list[dict[str, object]] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    manifest: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            folders=(), excludes=(), mounts=(), devices={}, passed_over={}, next_id=1
        )
    )
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list)
    next_id: int = 1

    def table(self, columns):
        return self._table(list(self.rows.values()), columns)

    def dead(self, columns):
        return self._table(self.gone, columns)

    def failures(self):
        return failures_table(self.failed)

    @staticmethod
    def _table(rows, columns):
        values = {"position": list(range(len(rows)))} | {name: [row[name] for row in rows] for name in columns}
        return pa.table({name: pa.array(column, ROW_TYPES[name]) for name, column in values.items()})

    def run(self, *folders, stop=lambda: False, **settings):
        """Returns what was planned; `notes`, `skipped` and `embedded` are those of this run."""
        self.notes, self.skipped, self.embedded = [], [], []
        observer = Observer(
            note=self.notes.append,
            failure=lambda path, reason: self.skipped.append((os.path.basename(os.fsdecode(path)), reason)),
            should_stop=stop,
        )
        roots = find_roots(folders, self.manifest.folders)
        outcome = survey(roots, self, Settings(**settings), observer)
        self._carry_out(outcome)
        return outcome.plan

    def _carry_out(self, outcome):
        plan = outcome.plan
        for rename in (*plan.touch, *plan.rename):
            row = self.rows.pop(rename.replaces)
            assert row["path"] == rename.old
            self._put(rename.file, row["content_hash"])
        for gone in plan.remove:
            self.gone.append(self.rows.pop(gone.id))
        self.failed = [item for item in self.failed if item.id not in {gone.id for gone in plan.forget}]
        for encoding in (*plan.reencode, *plan.add):
            content = Path(os.fsdecode(encoding.file.path)).read_bytes()
            digest = hashlib.blake2b(content, digest_size=16).digest()
            known = {row["content_hash"] for row in (*self.rows.values(), *self.gone)}
            if encoding.replaces in self.rows:
                self.gone.append(self.rows.pop(encoding.replaces))
            if content.startswith(b"broken"):
                file = encoding.file
                failure = (file.path, file.size, file.mtime_ns, file.ctime_ns)
                self.failed = [item for item in self.failed if item.id != encoding.replaces]
                self.failed.append(Failure(self.next_id, *failure, 0, "is damaged"))
                self.next_id += 1
                continue
            assert encoding.may_be_known or digest not in known
            if digest not in known:
                self.embedded.append(os.path.basename(os.fsdecode(encoding.file.path)))
            self._put(encoding.file, digest)
        self.manifest = SimpleNamespace(
            folders=outcome.folders,
            excludes=outcome.excludes,
            mounts=outcome.mounts,
            devices=outcome.devices,
            passed_over=outcome.passed_over,
            next_id=self.next_id,
        )

    def remove(self, folder):
        """As `search remove` does."""
        inside = os.fsencode(folder) + b"/"
        self.gone += [row for row in self.rows.values() if row["path"].startswith(inside)]
        self.rows = {id: row for id, row in self.rows.items() if not row["path"].startswith(inside)}
        self.manifest.folders = tuple(name for name in self.manifest.folders if name != str(folder))

    def lose(self, folder):
        """As a repair does of which the damaged segment held these rows."""
        inside = os.fsencode(folder) + b"/"
        self.rows = {id: row for id, row in self.rows.items() if not row["path"].startswith(inside)}

    def _put(self, file, digest):
        row = {"id": self.next_id, "path": file.path, "size": file.size, "mtime_ns": file.mtime_ns}
        self.rows[self.next_id] = row | {"ctime_ns": file.ctime_ns, "content_hash": digest}
        self.next_id += 1

    def paths(self, folder):
        return sorted(os.path.relpath(os.fsdecode(row["path"]), folder) for row in self.rows.values())


@pytest.fixture
def library():
    return Library()


@pytest.fixture(autouse=True)
def identities(monkeypatch):
    identified(monkeypatch)


def write(folder, *names, of=""):
    """Files, each with content of its own; `of` makes other content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}{of}")


# Drives that are away.


def test_a_drive_that_is_away_is_kept_and_nothing_is_embedded_when_it_is_back(tmp_path, library):
    photos = tmp_path / "photos"
    write(photos, "a.jpg", "sub/b.jpg")
    with Drive(tmp_path / "drive", photos / "usb") as drive:
        write(drive.store, "1.jpg", "DCIM/2.jpg", "DCIM/3.jpg")
        drive.attach()
        library.run(photos)
        assert len(library.embedded) == 5 and library.manifest.mounts == (str(photos / "usb"),)
        drive.detach()
        plan = library.run(photos)
        assert (plan.kept, plan.remove, plan.unchanged) == (3, (), 2)
        assert library.notes == [
            f"{photos}/usb was a mounted drive and is none now, but 3 were indexed there: kept; mount it; if they are "
            f"gone for good, `search index --forget {photos}` or `search remove {photos}/usb`"
        ]
        drive.attach()
        assert library.run(photos).unchanged == 5
        assert library.embedded == library.notes == []


def test_a_drive_whose_mount_point_is_gone_with_it_is_kept(tmp_path, library):
    """As file managers do it, which make and remove the folder."""
    photos = tmp_path / "photos"
    write(photos, "a.jpg")
    with Drive(tmp_path / "drive", photos / "media" / "STICK") as drive:
        write(drive.store, "1.jpg")
        drive.attach()
        library.run(photos)
        drive.detach()
        shutil.rmtree(photos / "media")
        for _ in range(2):
            assert library.run(photos).kept == 1
            assert "media/STICK was a mounted drive" in library.notes[0]
        assert len(library.run(photos, forget=True).remove) == 1
        assert library.manifest.mounts == () and library.run(photos).kept == 0


def test_what_lies_under_a_drive_that_is_away_is_indexed_and_the_drive_kept(tmp_path, library):
    photos = tmp_path / "photos"
    with Drive(tmp_path / "drive", photos / "usb") as drive:
        write(drive.store, "1.jpg", "2.jpg")
        drive.attach()
        write(photos, "a.jpg")
        library.run(photos)
        drive.detach()
        write(photos / "usb", "shadow.jpg")
        plan = library.run(photos)
        assert plan.kept == 2 and library.embedded == ["shadow.jpg"]
        assert library.run(photos).kept == 2 and library.embedded == []


def test_a_drive_that_is_a_root_costs_the_other_roots_nothing(tmp_path, library):
    with Drive(tmp_path / "drive", tmp_path / "usb") as drive:
        write(drive.store, "1.jpg")
        drive.attach()
        write(tmp_path / "photos", "a.jpg")
        library.run(tmp_path / "photos", tmp_path / "usb")
        drive.detach()
        write(tmp_path / "photos", "b.jpg")
        assert library.run(tmp_path / "photos", tmp_path / "usb").kept == 1
        assert library.embedded == ["b.jpg"]
        shutil.rmtree(tmp_path / "usb")
        assert library.run(tmp_path / "photos", tmp_path / "usb").unchanged == 2
        assert f"{tmp_path}/usb is gone; 1 image of it is still in the collection" in library.notes[0]
        assert library.manifest.folders == (str(tmp_path / "photos"), str(tmp_path / "usb"))


def test_another_drive_in_the_same_place_takes_nothing_from_the_first(tmp_path, library):
    photos = tmp_path / "photos"
    write(photos, "a.jpg")
    with Drive(tmp_path / "one", photos / "card", 1) as one, Drive(tmp_path / "two", photos / "card", 2) as two:
        write(one.store, "1.jpg", "2.jpg")
        write(two.store, "3.jpg")
        one.attach()
        library.run(photos)
        one.detach()
        two.attach()
        plan = library.run(photos)
        assert plan.kept == 2 and "seems to be another drive" in library.notes[0]
        two.detach()
        one.attach()
        library.run(photos)
        assert library.embedded == []


def test_a_linked_drive_is_kept_whether_its_folder_is_empty_or_gone(tmp_path, library):
    photos = tmp_path / "photos"
    write(photos, "a.jpg")
    with Drive(tmp_path / "drive", tmp_path / "media" / "usb") as drive:
        write(drive.store, "1.jpg", "DCIM/2.jpg")
        (photos / "link").symlink_to(tmp_path / "media" / "usb")
        drive.attach()
        library.run(photos)
        assert library.manifest.mounts == (str(photos / "link"),)
        drive.detach()
        assert library.run(photos).kept == 2
        shutil.rmtree(tmp_path / "media")
        plan = library.run(photos)
        assert not plan.remove and library.skipped == [("link", "is a broken link; what is known there is kept")]
        assert library.run(photos, forget=True).remove == ()  # out of reach is not empty


@pytest.mark.parametrize("depth", ["usb", "2020/trips/usb"])
def test_an_emptied_folder_is_kept_until_it_is_to_be_forgotten(tmp_path, library, depth):
    """No device tells of it: an encrypted folder that is locked, a bound one, photos taken away for good."""
    write(tmp_path, "a.jpg", f"{depth}/1.jpg", f"{depth}/x/2.jpg")
    library.run(tmp_path)
    shutil.rmtree(tmp_path / depth)
    (tmp_path / depth).mkdir()
    for _ in range(2):
        assert library.run(tmp_path).kept == 2
        folder = tmp_path / depth.split("/")[0]
        assert library.notes[0].startswith(f"{folder} holds no images now, but 2 were indexed there: kept;")
        assert f"`search remove {folder}`" in library.notes[0]
    assert len(library.run(tmp_path, forget=True).remove) == 2
    assert library.run(tmp_path).kept == 0 and library.notes == []


def test_names_in_commands_are_quoted_for_a_shell(tmp_path, library):
    write(tmp_path, "a.jpg", "my usb/1.jpg")
    library.run(tmp_path)
    (tmp_path / "my usb" / "1.jpg").unlink()
    library.run(tmp_path)
    assert f"`search remove '{tmp_path}/my usb'`" in library.notes[0]


def test_a_deleted_folder_leaves_and_comes_back_without_being_embedded(tmp_path, library):
    write(tmp_path, "a.jpg", "trip/1.jpg", "trip/day/2.jpg")
    library.run(tmp_path)
    shutil.move(tmp_path / "trip", tmp_path.parent / f"{tmp_path.name}-away")
    assert len(library.run(tmp_path).remove) == 2
    shutil.move(tmp_path.parent / f"{tmp_path.name}-away", tmp_path / "trip")
    assert len(library.run(tmp_path).add) == 2 and library.embedded == []


def test_all_roots_emptied_are_an_error_and_one_is_not(tmp_path, library):
    write(tmp_path, "one/1.jpg", "two/2.jpg")
    one, two = tmp_path / "one", tmp_path / "two"
    library.run(one, two)
    (one / "1.jpg").unlink()
    assert library.run(one, two).kept == 1
    (two / "2.jpg").unlink()
    message = "one holds no images now, but 1 was indexed there: if it is a drive, mount it; .* `search remove .*one`"
    with pytest.raises(CrosslookError, match=message):
        library.run(one, two)
    with pytest.raises(CrosslookError, match="two holds no images"):
        library.run(two)
    assert len(library.run(one, two, forget=True).remove) == 2


def test_a_folder_that_cannot_be_read_costs_the_others_nothing(tmp_path, library, monkeypatch):
    write(tmp_path, "one/1.jpg", "one/locked/2.jpg", "two/3.jpg")
    library.run(tmp_path / "one", tmp_path / "two")
    real = os.scandir
    for name, place in (("locked", "locked"), ("one", "one")):

        def scandir(path, name=name):
            if os.path.basename(path) == os.fsencode(name):
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        plan = library.run(tmp_path / "one", tmp_path / "two")
        assert not plan.remove and library.skipped == [(place, "Permission denied; what is known there is kept")]
    with pytest.raises(CrosslookError, match="cannot read the folder .*one: Permission denied"):
        library.run(tmp_path / "one")


def test_a_file_in_a_folder_without_permission_is_told_each_time_and_stays(tmp_path, library, monkeypatch):
    """The names can be read, what they are cannot."""
    write(tmp_path, "a.jpg", "b.jpg")
    library.run(tmp_path)
    monkeypatch.setattr("retrieval.indexing.listing._status", refuse_b)
    for _ in range(2):
        plan = library.run(tmp_path)
        assert (plan.unchanged, plan.remove, plan.add) == (1, (), ())
        assert library.skipped == [("b.jpg", "Permission denied; what is known there is kept")]
    assert library.failed == []


def refuse_b(entry):
    if entry.name == b"b.jpg":
        raise PermissionError(errno.EACCES, "Permission denied")
    return entry.stat(), False


# Folders that are moved.


def test_a_renamed_root_is_moved_and_forgotten(tmp_path, library):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "1.jpg", "sub/2.jpg", "sub/deep/3.jpg")
    (old / "bad.jpg").write_text("broken")
    library.run(old)
    old.rename(new)
    plan = library.run(new)
    assert len(plan.rename) == 3 and library.embedded == library.notes == []
    assert library.paths(new) == ["1.jpg", "sub/2.jpg", "sub/deep/3.jpg"]
    assert library.manifest.folders == (str(new),)
    assert [os.fsdecode(item.path) for item in library.failed] == [str(new / "bad.jpg")]


def test_what_is_left_of_a_root_that_is_gone_is_named_until_it_is_removed(tmp_path, library):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "1.jpg", "2.jpg", "3.jpg")
    library.run(old)
    new.mkdir()
    (old / "1.jpg").rename(new / "x.jpg")
    shutil.rmtree(old)
    for moved in (1, 0):
        assert len(library.run(new).rename) == moved
        assert library.notes == [
            f"{old} is gone; 2 images of it are still in the collection: if it is a drive, mount it; if it is gone for "
            f"good, `search remove {old}` takes them out"
        ]
    assert library.manifest.folders == (str(new), str(old))
    library.remove(old)
    library.run(new)
    assert library.notes == [] and library.manifest.folders == (str(new),)


def test_a_renamed_root_with_another_indexed_one_in_it_takes_that_too(tmp_path, library):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "1.jpg", ".private/2.jpg", ".private/3.jpg")
    library.run(old, old / ".private")
    assert library.manifest.folders == (str(old), str(old / ".private"))
    old.rename(new)
    library.run(new)
    assert library.notes[0].startswith(f"{old}/.private is gone; 2 images of it") and len(library.notes) == 1
    assert library.manifest.folders == (str(new), str(old / ".private"))
    library.run(new / ".private")
    assert library.embedded == library.notes == []
    assert library.manifest.folders == (str(new), str(new / ".private"))


def test_a_root_that_is_split_among_two_is_moved(tmp_path, library):
    write(tmp_path, "all/1.jpg", "all/2.jpg")
    library.run(tmp_path / "all")
    write(tmp_path, "b/3.jpg")
    (tmp_path / "a").mkdir()
    (tmp_path / "all" / "1.jpg").rename(tmp_path / "a" / "1.jpg")
    (tmp_path / "all" / "2.jpg").rename(tmp_path / "b" / "2.jpg")
    library.run(tmp_path / "a", tmp_path / "b")
    assert library.embedded == ["3.jpg"] and len(library.rows) == 3


def test_copies_and_copies_of_copies_are_embedded_once(tmp_path, library):
    write(tmp_path, "1/a.jpg")
    for name in ("b.jpg", "c.jpg"):
        shutil.copy2(tmp_path / "1" / "a.jpg", tmp_path / "1" / name)
    library.run(tmp_path / "1")
    assert len(library.embedded) == 1
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    shutil.copytree(tmp_path / "2", tmp_path / "1" / "again")
    library.run(tmp_path / "2")
    library.run(tmp_path / "1")
    assert len(library.rows) == 9 and library.embedded == []
    shutil.rmtree(tmp_path / "1" / "again")
    library.run(tmp_path / "1")
    shutil.copytree(tmp_path / "2", tmp_path / "1" / "more")
    library.run(tmp_path / "1")
    assert len(library.rows) == 9 and library.embedded == []


def test_swapped_names_are_not_embedded(tmp_path, library):
    write(tmp_path, "a.jpg", "b.jpg")
    library.run(tmp_path)
    for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
        (tmp_path / f"{old}.jpg").rename(tmp_path / f"{new}.jpg")
    plan = library.run(tmp_path)
    assert len(plan.reencode) == 2 and library.embedded == []
    assert library.run(tmp_path).unchanged == 2


# Times.


def test_touched_and_chmodded_files_are_compared_once(tmp_path, library, monkeypatch):
    write(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    library.run(tmp_path)
    os.utime(tmp_path / "a.jpg", ns=(5, 5))
    (tmp_path / "b.jpg").chmod(0o600)
    plan = library.run(tmp_path)
    assert sorted(os.path.basename(touch.file.path) for touch in plan.touch) == [b"a.jpg", b"b.jpg"]
    assert (plan.rename, plan.reencode, plan.unchanged) == ((), (), 1)
    monkeypatch.setattr(hashlib, "file_digest", None)  # nothing is read
    assert library.run(tmp_path).unchanged == 3


def test_a_file_changed_in_place_with_size_and_time_kept_is_embedded_again(tmp_path, library):
    """As `exiftool -P -overwrite_original_in_place` does."""
    write(tmp_path, "a.jpg", "b.jpg")
    library.run(tmp_path)
    status = (tmp_path / "a.jpg").stat()
    with (tmp_path / "a.jpg").open("r+b") as file:
        file.write(b"A")
    os.utime(tmp_path / "a.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    library.run(tmp_path)
    assert library.embedded == ["a.jpg"]


@pytest.mark.parametrize("seconds", [13_569_465_600, 9_300_000_000, -1, -2_208_988_800, 0])
def test_photos_of_any_century_cost_their_neighbours_nothing(tmp_path, library, seconds):
    write(tmp_path, "a.jpg", "b.jpg")
    os.utime(tmp_path / "a.jpg", ns=(seconds * 10**9, seconds * 10**9))
    library.run(tmp_path)
    assert sorted(library.embedded) == ["a.jpg", "b.jpg"]
    assert library.run(tmp_path).unchanged == 2


# What the collection remembers.


def test_excludes_are_remembered_and_can_be_taken_back(tmp_path, library):
    write(tmp_path, "a.jpg", "b.png", "trash/c.jpg")
    library.run(tmp_path, exclude=("trash",))
    assert library.paths(tmp_path) == ["a.jpg", "b.png"]
    assert library.run(tmp_path).unchanged == 2 and library.manifest.excludes == ("trash",)
    plan = library.run(tmp_path, exclude=("*.png",))
    assert [os.path.basename(gone.path) for gone in plan.remove] == [b"b.png"]
    assert library.manifest.excludes == ("trash", "*.png")
    library.run(tmp_path, no_exclude=("trash",))
    assert library.paths(tmp_path) == ["a.jpg", "trash/c.jpg"] and library.manifest.excludes == ("*.png",)


def test_the_newest_exclude_decides(tmp_path, library):
    write(tmp_path, "a.jpg", "b.jpg")
    library.run(tmp_path, exclude=("a.jpg",))
    library.run(tmp_path, exclude=("!a.jpg",))
    assert library.paths(tmp_path) == ["a.jpg", "b.jpg"]
    library.run(tmp_path, exclude=("a.jpg",))
    assert library.paths(tmp_path) == ["b.jpg"] and library.manifest.excludes == ("!a.jpg", "a.jpg")


def test_what_is_not_remembered_cannot_be_taken_back(tmp_path, library):
    write(tmp_path, "a.jpg")
    with pytest.raises(CrosslookError, match="remembers no exclude 'x' to take back; it remembers none"):
        library.run(tmp_path, no_exclude=("x",))
    library.run(tmp_path, exclude=("b", "c"))
    with pytest.raises(CrosslookError, match="it remembers 'b', 'c'"):
        library.run(tmp_path, no_exclude=("x",))


def test_patterns_that_matched_nothing_are_told_those_remembered_too(tmp_path, library):
    write(tmp_path, "a.jpg", "b.png")
    library.run(tmp_path, exclude=("foo*", "*.png"))
    assert len(library.notes) == 1 and library.notes[0].startswith("--exclude 'foo*' matched nothing")
    library.run(tmp_path)
    assert len(library.notes) == 1 and "matched nothing: `--no-exclude 'foo*'` takes it back" in library.notes[0]


def test_what_is_no_pattern_is_a_clear_error(tmp_path, library):
    write(tmp_path, "a.jpg")
    with pytest.raises(CrosslookError, match="^--exclude '!' is not a gitignore pattern$"):
        library.run(tmp_path, exclude=("!",))


def test_an_image_that_is_left_out_now_leaves_however_that_is_said(tmp_path, library):
    write(tmp_path, "a.jpg", "b/1.jpg", "c/2.jpg", "d/3.jpg", "e/4.jpg", "@eaDir/5.jpg")
    library.run(tmp_path, include_all=True)
    (tmp_path / "b" / ".nomedia").touch()
    (tmp_path / "c" / ".crosslookignore").write_text("*\n")
    (tmp_path / ".crosslookignore").write_text("d/\n")
    plan = library.run(tmp_path, exclude=("e/4.jpg",))
    assert len(plan.remove) == 5 and plan.kept == 0
    assert library.paths(tmp_path) == ["a.jpg"]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [({"exclude": ("*",)}, "every image is excluded"), ({}, "a .nomedia file leaves it out")],
)
def test_a_root_that_is_left_out_altogether_is_told_why(tmp_path, library, rule, reason):
    write(tmp_path, "a.jpg", "sub/b.jpg")
    library.run(tmp_path)
    if not rule:
        (tmp_path / ".nomedia").touch()
    with pytest.raises(CrosslookError, match=f"but 2 were indexed there: {reason}"):
        library.run(tmp_path, **rule)


def test_pictures_that_are_not_read_are_counted_for_each_folder(tmp_path, library):
    write(tmp_path, "one/a.jpg", "one/b.KRA", "two/c.jpg", "two/d.kra", "two/e.xcf")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    library.run(one)
    library.run(two)
    assert library.manifest.passed_over == {one: {".kra": 1}, two: {".kra": 1, ".xcf": 1}}
    (tmp_path / "one" / "b.KRA").unlink()
    library.run(one)
    assert library.manifest.passed_over == {two: {".kra": 1, ".xcf": 1}}
    library.run(tmp_path)
    assert library.manifest.passed_over == {str(tmp_path): {".kra": 1, ".xcf": 1}}


def test_a_folder_with_nothing_that_can_be_read_tells_what_it_holds(tmp_path, library):
    write(tmp_path, "a.kra", "b.kra", "c.xcf")
    with pytest.raises(CrosslookError, match=r"no images in .*; passed over: 2 \.kra, 1 \.xcf$"):
        library.run(tmp_path)


# Roots.


def test_a_folder_that_does_not_exist_is_an_error_unless_it_was_indexed_and_others_are_there(tmp_path):
    (tmp_path / "there").mkdir()
    good, gone = tmp_path / "there", tmp_path / "gone"
    assert find_roots([gone, good], [str(gone)]) == [os.fsencode(good)]
    for folders, indexed in (([gone, good], []), ([gone], [str(gone)]), ([gone / "deeper", good], [str(gone)])):
        with pytest.raises(CrosslookError, match="^no such folder: .*gone"):
            find_roots(folders, indexed)


def test_a_folder_out_of_reach_is_not_called_missing(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CrosslookError, match="^cannot read the folder .*loop: Too many levels of symbolic links"):
        find_roots([tmp_path / "loop"])
    with pytest.raises(CrosslookError, match="^cannot read the folder .*: File name too long"):
        find_roots([tmp_path / ("x" * 300)])


def test_a_stop_is_heard_while_folders_are_listed(tmp_path, library):
    write(tmp_path, *(f"{index}.jpg" for index in range(20)))
    asked = []
    with pytest.raises(Interrupted):
        library.run(tmp_path, stop=lambda: asked.append(True) or len(asked) == 5)
    assert len(asked) == 5


def test_a_plan_is_made_without_a_collection(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg")
    plan = plan_folders([tmp_path], tmp_path / "none", Settings(exclude=("b.*",)))
    assert [os.path.basename(encoding.file.path) for encoding in plan.add] == [b"a.jpg"]


def test_a_root_inside_another_is_indexed_once(tmp_path, library):
    write(tmp_path, "a.jpg", "sub/b.jpg")
    library.run(tmp_path / "sub")
    library.run(tmp_path, tmp_path / "sub")
    assert library.embedded == ["a.jpg"] and library.manifest.folders == (str(tmp_path),)
    assert library.run(tmp_path / "sub", tmp_path).unchanged == 2


def test_a_hidden_root_on_a_drive_that_is_away_stays_covered(tmp_path, library):
    """Its images would be removed when the drive is back, had its name been forgotten."""
    photos = tmp_path / "photos"
    write(photos, "a.jpg")
    with Drive(tmp_path / "drive", photos / "usb") as drive:
        write(drive.store, "1.jpg", ".private/2.jpg")
        drive.attach()
        library.run(photos, photos / "usb" / ".private")
        drive.detach()
        assert library.run(photos).kept == 2
        drive.attach()
        assert library.run(photos).remove == ()
        assert len(library.rows) == 3
