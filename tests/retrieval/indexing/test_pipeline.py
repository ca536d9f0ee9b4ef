"""The pipeline as a user meets it: run, change files, run again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures
from retrieval.images import decode
from retrieval.indexing import pipeline as indexing
from retrieval.indexing import survey as planning
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.survey import Settings, plan_folders
from retrieval.progress import Observer
from tests.support import FakeEncoder, write_photo, write_photos


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 10)
    return tmp_path / "photos"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "collection"


def stored(path):
    """Name -> (id, embedding) of what counts."""
    collection = Collection.open(path)
    table = collection.table(["id", "path"])
    embeddings = collection.embeddings(table["position"].to_numpy())
    names = [Path(os.fsdecode(name)).name for name in table["path"].to_pylist()]
    return dict(zip(names, zip(table["id"].to_pylist(), embeddings.tolist(), strict=True), strict=True))


def counts(progress):
    names = ("new", "changed", "moved", "removed", "failed", "unchanged", "still_failing")
    return {name: getattr(progress, name) for name in names if getattr(progress, name)}


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
    tokens = before.tokens([5])
    (photos / "sub").mkdir()
    (photos / "005.png").rename(photos / "sub" / "005.png")
    index_folders([photos], path, FakeEncoder())
    after = Collection.open(path)
    moved = os.fsencode(photos / "sub" / "005.png")
    positions = {row["path"]: row["position"] for row in after.table(["path"]).to_pylist()}
    np.testing.assert_array_equal(after.tokens([positions[moved]]), tokens)


def test_an_unreadable_file_is_told_once_and_stops_nothing(photos, path, encoder):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff garbage")
    (photos / "empty.png").write_bytes(b"")
    told = []
    observer = Observer(failure=lambda file, reason: told.append((Path(os.fsdecode(file)).name, reason)))
    assert counts(index_folders([photos], path, encoder, observer=observer)) == {"new": 10, "failed": 2}
    assert sorted(name for name, _ in told) == ["broken.jpg", "empty.png"]
    assert all(reason.startswith("is ") and "\n" not in reason for _, reason in told)
    assert Collection.open(path).failures()["error"].to_pylist() == [reason for _, reason in told]
    told.clear()
    assert counts(index_folders([photos], path, encoder, observer=observer)) == {"unchanged": 10, "still_failing": 2}
    assert told == []


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
    other = FakeEncoder("other", "0" * 16)
    with pytest.raises(CrosslookError, match="model fake, not other"):
        index_folders([photos], path, other)
    assert other.encoded == 0


def test_an_early_stop_keeps_what_is_encoded_and_the_next_run_goes_on(photos, path, encoder):
    seen = []
    observer = Observer(progress=seen.append, should_stop=lambda: bool(seen) and seen[-1].new >= 4)
    stopped = index_folders([photos], path, encoder, Settings(commit_rows=100), observer)
    assert stopped.interrupted and 0 < stopped.new < 10
    assert len(Collection.open(path)) == stopped.new
    again = FakeEncoder()
    index_folders([photos], path, again)
    assert again.encoded == 10 - stopped.new
    assert len(Collection.open(path)) == 10


def test_a_commit_is_made_when_the_time_has_come(photos, path, encoder):
    generations = []
    observer = Observer(
        progress=lambda progress: generations.append(
            Collection.open(path).manifest.generation if (path / "CURRENT").exists() else 0
        )
    )
    index_folders([photos], path, encoder, Settings(commit_seconds=0), observer)
    assert max(generations) >= 2


def test_progress_counts_up_to_the_total(photos, path, encoder):
    seen = []
    index_folders([photos], path, encoder, observer=Observer(progress=seen.append))
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == seen[-1].total == 10


@pytest.mark.parametrize("bad", [[3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_an_image_whose_embedding_is_no_number_is_a_failure(photos, path, encoder, monkeypatch, bad):
    real, names = encoder.encode_images, sorted(file.name for file in photos.iterdir())

    def overflow(prepared) -> ImageFeatures:
        found = real(prepared)
        rows = np.arange(encoder.encoded - len(prepared), encoder.encoded)
        found.embeddings[np.isin(rows, bad), 0] = np.nan
        return found

    monkeypatch.setattr(encoder, "encode_images", overflow)
    told = []
    observer = Observer(failure=lambda file, reason: told.append(Path(os.fsdecode(file)).name))
    found = counts(index_folders([photos], path, encoder, observer=observer))
    assert found == {name: count for name, count in (("new", 10 - len(bad)), ("failed", len(bad))) if count}
    assert told == [names[index] for index in bad]
    assert stored(path).keys() == {*names} - {*told}
    for name, (_, embedding) in stored(path).items():
        photo = decode((photos / name).read_bytes(), encoder.image_size)
        alone = real([encoder.prepare(photo)]).embeddings[0].astype(np.float16)
        np.testing.assert_array_equal(np.array(embedding, np.float16), alone)


def test_an_encoder_that_fails_loses_nothing_that_was_committed(photos, path, encoder, monkeypatch):
    real = encoder.encode_images

    def fail_later(prepared) -> ImageFeatures:
        if encoder.encoded >= 8:
            raise RuntimeError("out of memory")
        return real(prepared)

    monkeypatch.setattr(encoder, "encode_images", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        index_folders([photos], path, encoder, Settings(commit_rows=4))
    assert len(Collection.open(path)) >= 4
    assert counts(index_folders([photos], path, FakeEncoder()))["new"] <= 6


def test_a_plan_changes_nothing(photos, path, encoder):
    assert len(plan_folders([photos], path).add) == 10
    assert not path.exists()


def test_repair_embeds_the_images_of_a_damaged_segment_again(photos, path, encoder):
    index_folders([photos], path, encoder)
    before = stored(path)
    damaged = next((path / "segments").glob("*/embeddings.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(CrosslookError, match="--repair"):
        index_folders([photos], path, encoder)
    assert counts(index_folders([photos], path, encoder, Settings(repair=True))) == {"new": 10}
    assert {name: embedding for name, (_, embedding) in stored(path).items()} == {
        name: embedding for name, (_, embedding) in before.items()
    }


@pytest.mark.parametrize("scenario", ["nothing", "change", "optimize"])
def test_a_kill_at_any_moment_loses_nothing_committed_and_the_next_run_ends_as_if_uninterrupted(tmp_path, scenario):
    script = Path(__file__).with_name("kill_at_every_write.py")
    run = subprocess.run([sys.executable, script, tmp_path, scenario], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[0]) > 20, "moments at which the run was killed"


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Twelve times the images, each with 200 kB of tokens: kept ones would show as 220 MB more."""

    def peak_megabytes(count):
        write_photos(tmp_path / f"{count}", count)
        script = """
import resource, sys
from pathlib import Path
import numpy as np
from retrieval.indexing import pipeline as indexing
from retrieval.indexing import survey as planning
from retrieval.encoders.base import ImageFeatures
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.survey import Settings
from tests.support import FakeEncoder

narrow = FakeEncoder()

class Wide(FakeEncoder):
    def __init__(self):
        super().__init__()
        self.token_shape = (100, 1000)

    def encode_images(self, prepared):
        found = narrow.encode_images(prepared)
        return ImageFeatures(found.embeddings, np.ones((len(prepared), 100, 1000), np.float16))

index_folders([sys.argv[1]], Path(sys.argv[2]), Wide(), Settings(commit_rows=32))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
        command = [sys.executable, "-c", script, tmp_path / f"{count}", tmp_path / f"c{count}"]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
        return int(run.stdout)

    assert peak_megabytes(1200) - peak_megabytes(100) < 60


def test_small_commits_of_a_run_end_as_one_segment(photos, path, encoder):
    index_folders([photos], path, encoder, Settings(commit_rows=2))
    assert len(Collection.open(path).manifest.segments) == 1


def test_a_commit_is_made_whenever_enough_rows_are_ready(photos, path, encoder):
    sizes = []
    observer = Observer(
        progress=lambda now: sizes.append(len(Collection.open(path)) if (path / "CURRENT").exists() else 0)
    )
    write_photos(photos, 30)
    index_folders([photos], path, encoder, Settings(commit_rows=8), observer)
    assert any(0 < size < 30 for size in sizes)


def test_repair_brings_back_the_images_of_all_folders(photos, path, encoder, tmp_path):
    write_photos(tmp_path / "more", 3, first=100)
    index_folders([photos], path, encoder)
    index_folders([tmp_path / "more"], path, encoder)
    before = {name: embedding for name, (_, embedding) in stored(path).items()}
    for damaged in (path / "segments").glob("*/embeddings.npy"):
        damaged.write_bytes(damaged.read_bytes()[:-5])
    progress = index_folders([photos], path, encoder, Settings(repair=True))
    assert progress.dropped == 13 and progress.new == 13
    assert {name: embedding for name, (_, embedding) in stored(path).items()} == before


def test_images_behind_a_link_to_an_unmounted_drive_are_kept_and_told(photos, path, encoder, tmp_path):
    write_photos(tmp_path / "drive", 3, first=100)
    (photos / "drive").symlink_to(tmp_path / "drive")
    (photos / "linked.png").symlink_to(tmp_path / "drive" / "100.png")
    index_folders([photos], path, encoder)
    shutil.move(tmp_path / "drive", tmp_path / "away")
    told = []
    progress = index_folders([photos], path, encoder, observer=Observer(failure=lambda *each: told.append(each)))
    assert progress.removed == 0 and len(Collection.open(path)) == 14
    assert [place for place, _ in told] == [os.fsencode(photos / "drive")]


def test_a_hidden_folder_indexed_by_name_stays_when_its_parent_is_indexed(photos, path, encoder):
    write_photos(photos / ".private", 3, first=100)
    index_folders([photos / ".private"], path, encoder)
    assert counts(index_folders([photos], path, encoder)) == {"new": 10}
    assert counts(index_folders([photos], path, encoder)) == {"unchanged": 10}
    assert len(Collection.open(path)) == 13
    assert str(photos / ".private") in Collection.open(path).manifest.folders


def test_what_another_run_adds_while_this_one_waits_is_not_taken_for_gone(photos, path, encoder, monkeypatch):
    index_folders([photos], path, encoder)
    real = indexing.CollectionWriter

    def late(*arguments):
        monkeypatch.setattr(indexing, "CollectionWriter", real)
        write_photos(photos / "sub", 3, first=100)
        index_folders([photos / "sub"], path, FakeEncoder())
        return real(*arguments)

    monkeypatch.setattr(indexing, "CollectionWriter", late)
    assert counts(index_folders([photos], path, encoder)) == {"unchanged": 13}


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
    told = []
    observer = Observer(failure=lambda file, reason: told.append(reason))
    settings = Settings(max_pixels=1_000_000)
    assert counts(index_folders([photos], path, encoder, settings, observer)) == {"new": 10, "failed": 1}
    assert "65 MB" in told[0] and "--max-pixels 27" in told[0]
    assert counts(index_folders([photos], path, encoder, settings)) == {"unchanged": 10, "still_failing": 1}
    assert index_folders([photos], path, encoder, Settings(max_pixels=27_000_000)).failed == 1  # read, and no image


def test_a_stop_while_files_are_compared_changes_nothing(photos, path, encoder):
    index_folders([photos], path, encoder)
    generation = Collection.open(path).manifest.generation
    for photo in photos.iterdir():
        os.utime(photo, ns=(1, 1))
    stopped = index_folders([photos], path, encoder, observer=Observer(should_stop=lambda: True))
    assert stopped.interrupted
    assert Collection.open(path).manifest.generation == generation


def test_a_row_describes_the_file_as_it_was_read(photos, path, encoder, monkeypatch):
    """It may have changed after it was listed."""
    real = planning.list_images

    def stale(*arguments):
        listing = real(*arguments)
        return replace(listing, files=tuple(replace(file, size=1, mtime_ns=1) for file in listing.files))

    monkeypatch.setattr(planning, "list_images", stale)
    index_folders([photos], path, encoder)
    row = Collection.open(path).row(0)
    status = (photos / "000.png").stat()
    assert (row.size, row.mtime_ns) == (status.st_size, status.st_mtime_ns)
