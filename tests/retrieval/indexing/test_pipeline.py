"""The pipeline as a user meets it: run, change files, run again."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures
from retrieval.images import decode
from retrieval.indexing import roots
from retrieval.indexing.listing import list_images
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.indexing.survey import plan_folders
from retrieval.progress import Observer
from tests.retrieval.indexing.contents import counts, stored
from tests.support import FakeEncoder, write_photo, write_photos


def test_every_image_has_the_embedding_that_the_encoder_gives_it_alone(photos, path, encoder):
    index_folders([photos], path, encoder)
    for name, (_, embedding) in stored(path).items():
        alone = encoder.encode_images([encoder.prepare(decode((photos / name).read_bytes()))])
        np.testing.assert_array_equal(embedding, alone.embeddings[0].astype(np.float16))


def test_rows_hold_what_the_files_are(photos, path, encoder):
    index_folders([photos], path, encoder)
    row = Collection.open(path).row(0)
    status = (photos / "000.png").stat()
    assert (row.path, row.size, row.mtime_ns) == (os.fsencode(photos / "000.png"), status.st_size, status.st_mtime_ns)
    assert (row.width, row.height) == (9, 6)


def test_a_second_run_encodes_nothing(photos, path, encoder):
    assert counts(index_folders([photos], path, encoder)) == {"new": 10}
    again = FakeEncoder()
    generation = Collection.open(path).manifest.generation
    assert counts(index_folders([photos], path, again)) == {"unchanged": 10}
    assert again.encoded == 0
    assert Collection.open(path).manifest.generation == generation


def test_only_what_changed_is_encoded(photos, path, encoder):
    index_folders([photos], path, encoder)
    before = stored(path)
    write_photo(photos / "003.png", seed=99)
    os.utime(photos / "003.png", ns=(1, 1))
    write_photo(photos / "new.png", seed=50)
    (photos / "004.png").unlink()
    (photos / "005.png").rename(photos / "renamed.png")
    again = FakeEncoder()
    progress = index_folders([photos], path, again)
    assert counts(progress) == {"new": 1, "changed": 1, "moved": 1, "removed": 1, "unchanged": 7}
    assert again.encoded == 2
    after = stored(path)
    assert set(after) == set(before) - {"004.png", "005.png"} | {"new.png", "renamed.png"}
    assert after["renamed.png"][1] == before["005.png"][1]
    assert after["003.png"][1] != before["003.png"][1]
    assert after["000.png"] == before["000.png"]


def test_the_tokens_of_a_moved_image_move_with_it(photos, path, encoder):
    index_folders([photos], path, encoder)
    before = Collection.open(path)
    regions = before.regions([5])
    (photos / "sub").mkdir()
    (photos / "005.png").rename(photos / "sub" / "005.png")
    index_folders([photos], path, FakeEncoder())
    after = Collection.open(path)
    moved = os.fsencode(photos / "sub" / "005.png")
    positions = {row["path"]: row["position"] for row in after.table(["path"]).to_pylist()}
    np.testing.assert_array_equal(after.regions([positions[moved]]), regions)


def test_an_unreadable_file_is_told_once_and_stops_nothing(photos, path, encoder):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff garbage")
    (photos / "empty.png").write_bytes(b"")
    failures = []
    observer = Observer(failure=lambda file, reason: failures.append((Path(os.fsdecode(file)).name, reason)))
    assert counts(index_folders([photos], path, encoder, observer=observer)) == {"new": 10, "failed": 2}
    assert sorted(name for name, _ in failures) == ["broken.jpg", "empty.png"]
    assert all(reason.startswith("is ") and "\n" not in reason for _, reason in failures)
    assert Collection.open(path).failures()["error"].to_pylist() == [reason for _, reason in failures]
    failures.clear()
    assert counts(index_folders([photos], path, encoder, observer=observer)) == {"unchanged": 10, "still_failing": 2}
    assert failures == []


def test_a_mended_file_is_indexed_and_its_failure_forgotten(photos, path, encoder):
    (photos / "broken.png").write_bytes(b"no")
    index_folders([photos], path, encoder)
    write_photo(photos / "broken.png", seed=77)
    assert counts(index_folders([photos], path, encoder)) == {"new": 1, "unchanged": 10}
    assert len(Collection.open(path).failures()) == 0


def test_an_image_that_breaks_leaves_the_results(photos, path, encoder):
    index_folders([photos], path, encoder)
    (photos / "003.png").write_bytes(b"no longer")
    assert counts(index_folders([photos], path, encoder)) == {"failed": 1, "unchanged": 9}
    assert "003.png" not in stored(path)


def test_a_broken_link_is_a_failure(photos, path, encoder):
    (photos / "link.jpg").symlink_to(photos / "nowhere.jpg")
    assert counts(index_folders([photos], path, encoder)) == {"new": 10, "failed": 1}
    assert Collection.open(path).failures()["error"].to_pylist() == ["is a broken link"]


def test_a_file_that_vanishes_while_running_is_neither_new_nor_failed(photos, path, encoder, monkeypatch):
    real = encoder.prepare

    def prepare(photo):
        (photos / "009.png").unlink(missing_ok=True)
        return real(photo)

    monkeypatch.setattr(encoder, "prepare", prepare)
    monkeypatch.setattr("retrieval.indexing.pipeline.usable_cores", lambda: 1)
    assert counts(index_folders([photos], path, encoder)) == {"new": 9}


def test_too_large_an_image_is_indexed_once_the_limit_is_raised(photos, path, encoder):
    assert counts(index_folders([photos], path, encoder, Settings(max_pixels=50))) == {"failed": 10}
    assert counts(index_folders([photos], path, encoder, Settings(max_pixels=54))) == {"new": 10}


def test_several_folders_live_in_one_collection(photos, path, encoder, tmp_path):
    write_photos(tmp_path / "more", 3, first=100)
    index_folders([photos], path, encoder)
    assert counts(index_folders([tmp_path / "more"], path, encoder)) == {"new": 3}
    assert len(Collection.open(path)) == 13
    assert Collection.open(path).manifest.folders == (str(tmp_path / "more"), str(photos))


def test_folders_inside_one_another_count_once(photos, path, encoder):
    write_photos(photos / "sub", 3, first=100)
    assert counts(index_folders([photos / "sub", photos], path, encoder)) == {"new": 13}
    assert Collection.open(path).manifest.folders == (str(photos),)


def test_a_relative_folder_is_remembered_absolute(photos, path, encoder, monkeypatch):
    monkeypatch.chdir(photos.parent)
    index_folders(["photos"], path, encoder)
    assert Collection.open(path).row(0).path == os.fsencode(photos / "000.png")


def test_names_of_any_bytes_are_indexed(photos, path, encoder):
    for index, name in enumerate((b"new\nline.png", "häuschen 🏠.png".encode(), b"\xff\xfe.png")):
        write_photo(os.path.join(os.fsencode(photos), name), seed=60 + index)
    assert counts(index_folders([photos], path, encoder)) == {"new": 13}


@pytest.mark.parametrize(
    ("folder", "message"),
    [("none", "no such folder"), ("file.txt", "not a folder"), ("empty", "no images in")],
)
def test_a_folder_without_images_is_a_clear_error_and_makes_nothing(tmp_path, path, encoder, folder, message):
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrosslookError, match=rf"^{message}[^\n]*{folder}"):
        index_folders([tmp_path / folder], path, encoder)
    assert not (path / "CURRENT").exists()


def test_a_folder_without_permission_is_a_clear_error(photos, path, encoder, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CrosslookError, match="cannot read the folder .*photos: Permission denied"):
        index_folders([photos], path, encoder)


def test_an_unmounted_drive_loses_nothing(photos, path, encoder):
    index_folders([photos], path, encoder)
    shutil.move(photos, photos.parent / "away")
    photos.mkdir()
    with pytest.raises(CrosslookError, match="mount it"):
        index_folders([photos], path, encoder)
    assert len(Collection.open(path)) == 10


def test_another_model_is_refused_before_anything_is_encoded(photos, path, encoder):
    index_folders([photos], path, encoder)
    stranger = FakeEncoder("other", "0" * 16)
    with pytest.raises(CrosslookError, match="model fake, not other"):
        index_folders([photos], path, stranger)
    assert stranger.encoded == 0


@pytest.mark.parametrize("bad", [[3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_an_image_whose_embedding_is_no_number_is_a_failure(photos, path, encoder, monkeypatch, bad):
    real, names = encoder.encode_images, sorted(file.name for file in photos.iterdir())

    def overflow(prepared: Any) -> ImageFeatures:
        features = real(prepared)
        rows = np.arange(encoder.encoded - len(prepared), encoder.encoded)
        features.embeddings[np.isin(rows, bad), 0] = np.nan
        return features

    monkeypatch.setattr(encoder, "encode_images", overflow)
    failed = []
    observer = Observer(failure=lambda file, reason: failed.append(Path(os.fsdecode(file)).name))
    outcome = counts(index_folders([photos], path, encoder, observer=observer))
    assert outcome == {name: count for name, count in (("new", 10 - len(bad)), ("failed", len(bad))) if count}
    assert failed == [names[index] for index in bad]
    assert stored(path).keys() == {*names} - {*failed}
    for name, (_, embedding) in stored(path).items():
        photo = decode((photos / name).read_bytes(), encoder.image_size)
        alone = real([encoder.prepare(photo)]).embeddings[0].astype(np.float16)
        np.testing.assert_array_equal(np.array(embedding, np.float16), alone)


def test_a_plan_changes_nothing(photos, path, encoder):
    assert len(plan_folders([photos], path).add) == 10
    assert not path.exists()


def test_images_behind_a_link_to_an_unmounted_drive_are_kept_and_told(photos, path, encoder, tmp_path):
    write_photos(tmp_path / "drive", 3, first=100)
    (photos / "drive").symlink_to(tmp_path / "drive")
    (photos / "linked.png").symlink_to(tmp_path / "drive" / "100.png")
    index_folders([photos], path, encoder)
    shutil.move(tmp_path / "drive", tmp_path / "away")
    failures = []
    progress = index_folders(
        [photos], path, encoder, observer=Observer(failure=lambda *failure: failures.append(failure))
    )
    assert progress.removed == 0 and len(Collection.open(path)) == 14
    assert [path for path, _ in failures] == [os.fsencode(photos / "drive")]


def test_a_hidden_folder_indexed_by_name_stays_when_its_parent_is_indexed(photos, path, encoder):
    write_photos(photos / ".private", 3, first=100)
    index_folders([photos / ".private"], path, encoder)
    assert counts(index_folders([photos], path, encoder)) == {"new": 10}
    assert counts(index_folders([photos], path, encoder)) == {"unchanged": 10}
    assert len(Collection.open(path)) == 13
    assert str(photos / ".private") in Collection.open(path).manifest.folders


def test_a_link_takes_nothing_over_from_the_folder_it_points_to(photos, path, encoder):
    write_photos(photos / "z", 2, first=100)
    index_folders([photos], path, encoder)
    (photos / "a").symlink_to(photos / "z")
    assert counts(index_folders([photos], path, encoder)) == {"unchanged": 12}


def test_a_folder_and_a_link_to_it_are_one(photos, path, encoder, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    index_folders([tmp_path / "link"], path, encoder)
    assert counts(index_folders([photos, tmp_path / "link"], path, encoder)) == {"unchanged": 10}


def test_a_huge_file_is_not_read(photos, path, encoder):
    with (photos / "huge.tif").open("wb") as file:
        file.truncate(65_000_000)
    reasons = []
    observer = Observer(failure=lambda file, reason: reasons.append(reason))
    settings = Settings(max_pixels=1_000_000)
    assert counts(index_folders([photos], path, encoder, settings, observer)) == {"new": 10, "failed": 1}
    assert "65 MB" in reasons[0] and "--max-pixels 27" in reasons[0]
    assert counts(index_folders([photos], path, encoder, settings)) == {"unchanged": 10, "still_failing": 1}
    assert (
        index_folders([photos], path, encoder, Settings(max_pixels=27_000_000)).failed == 1
    )  # it is read now, and is no image


def test_a_row_describes_the_file_as_it_was_read(photos, path, encoder, monkeypatch):
    """The file may have changed after it was listed."""

    def stale(*arguments):
        listing = list_images(*arguments)
        return replace(listing, files=tuple(replace(file, size=1, mtime_ns=1) for file in listing.files))

    monkeypatch.setattr(roots, "list_images", stale)
    index_folders([photos], path, encoder)
    row = Collection.open(path).row(0)
    status = (photos / "000.png").stat()
    assert (row.size, row.mtime_ns) == (status.st_size, status.st_mtime_ns)
