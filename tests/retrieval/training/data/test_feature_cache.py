"""Features belong to the pictures they were made of; cache entries are complete or absent."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.captions import read_captions
from tests.retrieval.training.data.made_up_towers import captioned, features_of, means
from tests.support import write_photo, write_photos

pytestmark = pytest.mark.torch


def test_features_are_those_of_the_pictures_in_their_order(pictures, towers, cache):
    features = features_of(pictures, towers, cache, 3)
    assert features.cells.shape == (3, 6, 2, 3) and features.global_features.shape == (3, 6, 4)
    assert features.text_embeddings.shape == (12, 5)
    np.testing.assert_allclose(features.cells[0, :, 0, 0], means(pictures), atol=1e-3)
    np.testing.assert_allclose(features.global_features[1, :, 3], means(pictures), atol=1e-3)
    assert features.image_of_text.tolist() == np.repeat(np.arange(6), 2).tolist() and features.left_out == ()
    np.testing.assert_array_equal(features.starts, np.cumsum([0, *features.text_embeddings[:, 0].astype(int)]))
    count = features.starts[-1]
    assert features.tokens.shape == (count, 4) and features.vocabulary_ids.shape == (count,)


def test_the_second_time_nothing_is_computed(pictures, towers, cache):
    first = features_of(pictures, towers, cache)
    view_count, again = towers.view_count, features_of(pictures, towers, cache)
    assert towers.view_count == view_count and again.key == first.key
    np.testing.assert_array_equal(again.cells, first.cells)


def rewritten(captions):
    write_photo(captions.images_dir / "3.png", seed=99)


def rewritten_within_the_same_size(captions):
    path = captions.images_dir / "3.png"
    content = (captions.images_dir / "4.png").read_bytes()
    path.write_bytes(content[: path.stat().st_size].ljust(path.stat().st_size, b"\0"))
    os.utime(path, ns=(1, 1))


def swapped(captions):
    folder = captions.images_dir
    (folder / "1.png").rename(folder / "x")
    (folder / "2.png").rename(folder / "1.png")
    (folder / "x").rename(folder / "2.png")


@pytest.mark.parametrize("edit", [rewritten, rewritten_within_the_same_size, swapped])
def test_pictures_that_were_edited_are_computed_again(pictures, towers, cache, edit):
    before = features_of(pictures, towers, cache)
    edit(pictures)
    after = features_of(pictures, towers, cache)
    assert after.key != before.key
    np.testing.assert_allclose(after.cells[0, :, 0, 0], means(pictures), atol=1e-3)


def test_two_folders_with_equal_names_share_nothing(tmp_path, towers, cache):
    photos, namesakes = captioned(tmp_path, "photos"), captioned(tmp_path, "namesakes", first=50)
    for row in range(6):  # not even by size and time
        for captions in (photos, namesakes):
            assert captions.images_dir is not None
            path = captions.images_dir / f"{row}.png"
            path.write_bytes(path.read_bytes().ljust(1000, b"\0"))
            os.utime(path, ns=(5, 5))
    first, second = features_of(photos, towers, cache), features_of(namesakes, towers, cache)
    assert first.key != second.key and towers.view_count == 24
    np.testing.assert_allclose(second.cells[0, :, 0, 0], means(namesakes), atol=1e-3)


def test_pictures_of_a_shard_that_was_written_again_are_computed_again(tmp_path, towers, cache):
    def shard(first):
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            for row, path in enumerate(write_photos(tmp_path / f"p{first}", 3, first=first)):
                for name, content in ((f"{row}.png", path.read_bytes()), (f"{row}.txt", b"a word")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return read_captions(tmp_path / "shard.tar")

    first = features_of(shard(0), towers, cache)
    os.utime(tmp_path / "shard.tar", ns=(5, 5))
    second = features_of(shard(70), towers, cache)
    assert first.key != second.key and not np.array_equal(first.cells, second.cells)


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def of_all(pattern: str, harm: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        for path in list(cache.glob(pattern)):
            harm(path)

    return damage


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a truncated array": lambda cache: os.truncate(only(cache, "*/cells.npy"), 200),
    "an array of half a header": lambda cache: os.truncate(only(cache, "*/cells.npy"), 20),
    "an empty array": lambda cache: os.truncate(only(cache, "*/whole.npy"), 0),
    "a damaged header": lambda cache: only(cache, "*/words.npy").write_bytes(b"\x93NUMPY\x01\0\x76\0{(" + b" " * 200),
    "a missing array": lambda cache: only(cache, "*/texts.npy").unlink(),
    "not marked as complete": of_all("*/complete", Path.unlink),
    "an empty mark": of_all("*/complete", lambda path: path.write_bytes(b"")),
    "a mark that is a list": of_all("*/complete", lambda path: path.write_text("[]")),
    "a file in the folder's place": of_all("*", replace_by_a_file),
    "no cache": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_computed_again(pictures, towers, cache, damage):
    before = np.array(features_of(pictures, towers, cache).cells)
    damage(cache)
    after = features_of(pictures, towers, cache)
    np.testing.assert_array_equal(after.cells, before)
    assert after.text_embeddings.shape == (12, 5) and {path.name for path in cache.iterdir()} == set(
        after.key.split("-")
    )


@pytest.mark.parametrize("written", [0, 100, 128, 1000])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(pictures, towers, cache, monkeypatch, code, written):
    from retrieval.training.data.cache import RowsWriter

    room, write_all = [written], RowsWriter.write_all

    def write_while_there_is_room(self, content):
        room[0] -= len(content)
        if room[0] < 0:
            raise OSError(code, os.strerror(code))
        write_all(self, content)

    with monkeypatch.context() as patched, pytest.raises(CrosslookError) as raised:
        patched.setattr(RowsWriter, "write_all", write_while_there_is_room)
        features_of(pictures, towers, cache)
    reason = os.strerror(code) if code == errno.EIO else "the disk is full"
    assert str(raised.value).startswith(f"cannot write to {cache}: {reason}; ") and "\n" not in str(raised.value)
    assert all((path / "complete").exists() for path in cache.iterdir())
    assert features_of(pictures, towers, cache).image_count == 6


def test_a_kill_while_features_are_computed_leaves_no_entry(pictures, towers, cache, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(prepared):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(towers, "encode_images", killed)
        features_of(pictures, towers, cache)
    assert not list(cache.glob("*/complete"))
    assert features_of(pictures, towers, cache).image_count == 6


def test_a_cache_that_cannot_be_read_now_is_not_computed_again(pictures, towers, cache, monkeypatch):
    features_of(pictures, towers, cache)
    view_count = towers.view_count

    def fail(path, **options):
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patched, pytest.raises(CrosslookError, match="cannot read .*: Input/output error"):
        patched.setattr(np, "load", fail)
        features_of(pictures, towers, cache)
    assert features_of(pictures, towers, cache).image_count == 6 and towers.view_count == view_count


def test_using_an_entry_makes_it_young(pictures, towers, cache):
    from retrieval.training.data.features import trim_cache

    features = features_of(pictures, towers, cache)
    for path in cache.glob("*/complete"):
        os.utime(path, (1, 1))
    again = features_of(pictures, towers, cache)
    assert all(path.stat().st_mtime > 1 for path in cache.glob("*/complete"))
    assert trim_cache(cache, [again]) > 0 and features.key == again.key
