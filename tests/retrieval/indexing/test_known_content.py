"""Known content is never embedded again, unless what is known of it is damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from indexes.collection import Collection
from indexes.errors import DamagedSegmentError
from indexes.verification import verify
from retrieval.indexing import run
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.maintenance import optimize, remove_folder
from tests.retrieval.indexing.contents import embeddings, names
from tests.support import FakeEncoder, write_photo, write_photos

PHOTOS = 6


class TestKnownContent:
    """The same content is never embedded twice."""

    def test_a_copy_is_not_embedded(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        for number in range(3):
            shutil.copy(photos / f"00{number}.png", photos / f"copy{number}.png")
        progress = index_folders([photos], path, encoder)
        assert (progress.copied, progress.new) == (3, 0) and encoder.encoded == 6
        vectors = embeddings(path)
        for number in range(3):
            original = os.fsencode(photos / f"00{number}.png")
            assert vectors[os.fsencode(photos / f"copy{number}.png")] == vectors[original]
        assert index_folders([photos], path, encoder).unchanged == 9

    def test_copies_within_one_first_run_are_embedded_once(self, photos, path, encoder):
        for number in range(20):
            shutil.copy(photos / "001.png", photos / f"copy{number}.png")
        progress = index_folders([photos], path, encoder, Settings(commit_rows=3))
        assert (progress.new, progress.copied, progress.done) == (6, 20, progress.total) and encoder.encoded == 6
        assert len(set(map(tuple, embeddings(path).values()))) == 6 and len(names(path)) == 26
        assert index_folders([photos], path, encoder).unchanged == 26

    def test_a_copy_describes_its_own_file(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        shutil.copy(photos / "001.png", photos / "copy.png")
        os.utime(photos / "copy.png", ns=(5, 5))
        index_folders([photos], path, encoder)
        collection = Collection.open(path)
        rows = {Path(os.fsdecode(row.path)).name: row for row in collection.rows(range(7))}
        assert rows["copy.png"].mtime_ns == 5 and rows["copy.png"].id != rows["001.png"].id
        assert rows["copy.png"].content_hash == rows["001.png"].content_hash
        assert (rows["copy.png"].width, rows["copy.png"].height) == (rows["001.png"].width, rows["001.png"].height)

    def test_what_was_removed_comes_back_without_being_embedded(self, photos, path, encoder, tmp_path):
        index_folders([photos], path, encoder)
        before = embeddings(path)
        shutil.move(photos / "004.png", tmp_path / "away.png")
        assert index_folders([photos], path, encoder).removed == 1
        shutil.move(tmp_path / "away.png", photos / "004.png")
        assert index_folders([photos], path, encoder).copied == 1
        assert embeddings(path) == before and encoder.encoded == 6

    def test_a_removed_folder_comes_back_without_being_embedded_until_optimize(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        remove_folder(path, photos)
        assert names(path) == []
        assert index_folders([photos], path, encoder).copied == 6
        assert encoder.encoded == 6
        remove_folder(path, photos)
        optimize(path)
        assert index_folders([photos], path, encoder).new == 6
        assert encoder.encoded == 12

    def test_an_image_changed_to_the_content_of_another_is_not_embedded(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        (photos / "001.png").write_bytes((photos / "002.png").read_bytes())
        progress = index_folders([photos], path, encoder)
        assert progress.copied == 1 and encoder.encoded == 6
        vectors = embeddings(path)
        assert vectors[os.fsencode(photos / "001.png")] == vectors[os.fsencode(photos / "002.png")]

    def test_two_images_that_changed_places_are_not_embedded(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        before = embeddings(path)
        first, second = photos / "001.png", photos / "002.png"
        first.rename(photos / "x")
        second.rename(first)
        (photos / "x").rename(second)
        index_folders([photos], path, encoder)
        after = embeddings(path)
        assert after[os.fsencode(first)] == before[os.fsencode(second)] and encoder.encoded == 6

    def test_a_renamed_root_is_not_embedded_and_leaves_nothing_behind(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        renamed = photos.rename(photos.with_name("renamed"))
        progress = index_folders([renamed], path, encoder)
        assert progress.moved == 6 and encoder.encoded == 6
        assert Collection.open(path).manifest.folders == (str(renamed),)
        assert all(os.fsencode(renamed) in name for name in embeddings(path))

    def test_a_touched_file_is_touched_once_and_not_moved(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        os.utime(photos / "001.png", ns=(7, 7))
        (photos / "002.png").chmod(0o600)
        progress = index_folders([photos], path, encoder)
        assert (progress.touched, progress.moved, progress.changed) == (2, 0, 0)
        assert index_folders([photos], path, encoder).unchanged == 6

    def test_a_change_in_place_that_keeps_size_and_time_is_seen(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        before, file = embeddings(path), photos / "001.png"
        status, content = file.stat(), bytearray(file.read_bytes())
        replacement = (photos / "002.png").read_bytes()
        content[: len(replacement)] = replacement[: len(content)]
        file.write_bytes(content[: status.st_size].ljust(status.st_size, b"\0"))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert file.stat().st_size == status.st_size and file.stat().st_mtime_ns == status.st_mtime_ns
        progress = index_folders([photos], path, encoder)
        assert progress.changed + progress.copied + progress.failed == 1
        assert embeddings(path) != before


def test_damage_found_while_merging_in_the_middle_of_a_run_ends_it_after_all_is_done(
    photos, path, encoder, monkeypatch
):
    monkeypatch.setattr(run, "MANY_SEGMENTS", 1)
    index_folders([photos], path, encoder, Settings(commit_rows=2))
    segment = min((path / "segments").iterdir())
    damaged = bytearray((segment / "tokens.npy").read_bytes())
    damaged[-3] ^= 1
    (segment / "tokens.npy").write_bytes(damaged)
    write_photos(photos, 6, first=60)
    with pytest.raises(DamagedSegmentError, match=r"tokens\.npy.*--repair"):
        index_folders([photos], path, encoder, Settings(commit_rows=2))
    assert len(names(path)) == 12
    again = FakeEncoder()
    index_folders([photos], path, again, Settings(repair=True))
    assert len(names(path)) == 12 and verify(path).faults == () and 0 < again.encoded < 12


def test_a_collection_of_the_first_format_is_brought_up_to_date_without_embedding(tmp_path):
    """The photos of the golden collection are in another folder now. Their content is known all the same, also that of
    the two that had been removed."""
    golden = Path(__file__).parents[2] / "goldens" / "format-1"
    shutil.copytree(golden / "collection", tmp_path / "c")
    shutil.copytree(golden / "photos", tmp_path / "photos")
    encoder = FakeEncoder()
    progress = index_folders([tmp_path / "photos"], tmp_path / "c", encoder)
    assert encoder.encoded == progress.new == 0 and progress.moved + progress.copied == 80
    assert len(Collection.open(tmp_path / "c")) == 80
    assert verify(tmp_path / "c").faults == ()


class TestDamageIsNotCopied:
    """A row whose vectors are damaged is encoded again, instead of getting a valid checksum in a new file."""

    @pytest.fixture
    def damaged(self, photos, path, encoder):
        """A collection in which the vectors of one row are damaged. Gives the image and its undamaged embedding."""
        index_folders([photos], path, encoder)
        before = embeddings(path)
        file = next((path / "segments").glob("*/embeddings.npy"))
        content = bytearray(file.read_bytes())
        content[-5] ^= 64
        file.write_bytes(content)
        (name,) = [name for name, vector in embeddings(path).items() if vector != before[name]]
        return Path(os.fsdecode(name)), before[name]

    @pytest.mark.parametrize("change", ["move", "copy", "touch"])
    def test_the_image_is_encoded_anew_and_the_damage_told(self, photos, path, encoder, damaged, change):
        image, vector = damaged
        changed = image
        if change == "touch":
            os.utime(image, ns=(9, 9))
        else:
            changed = image.with_name("other.png")
            shutil.copy(image, changed)
        if change == "move":
            image.unlink()
        with pytest.raises(DamagedSegmentError, match="row's checksum is wrong"):
            index_folders([photos], path, encoder)
        assert embeddings(path)[os.fsencode(changed)] == vector
        assert encoder.encoded == 7

    def test_what_is_sound_is_copied_all_the_same(self, photos, path, encoder, damaged):
        image, _ = damaged
        (sound,) = [
            name for name in photos.iterdir() if name.name == ("000.png" if image.name != "000.png" else "001.png")
        ]
        shutil.copy(sound, photos / "copy.png")
        assert index_folders([photos], path, encoder).copied == 1


def test_an_edit_that_is_undone_is_not_embedded_again(photos, path, encoder):
    index_folders([photos], path, encoder)
    before, content = embeddings(path), (photos / "001.png").read_bytes()
    write_photo(photos / "001.png", seed=77)
    assert index_folders([photos], path, encoder).changed == 1
    (photos / "001.png").write_bytes(content)
    assert index_folders([photos], path, encoder).copied == 1
    assert embeddings(path) == before and encoder.encoded == 7


def test_what_is_removed_and_revived_again_and_again_does_not_pile_up(photos, path, encoder):
    index_folders([photos], path, encoder)
    for _ in range(12):
        remove_folder(path, photos)
        index_folders([photos], path, encoder)
    stored = sum(entry.rows for entry in Collection.open(path).manifest.segments)
    assert encoder.encoded == 6 and stored <= 3 * 6
