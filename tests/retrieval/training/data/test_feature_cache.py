"""Features belong to the pictures they were made of; their cache is whole or not there; what cannot be read is left
out."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.captions import read_captions
from retrieval.encoders.base import TextFeatures
from tests.support import write_photo, write_photos

pytestmark = pytest.mark.torch


class Words:
    dim = 2
    markers = (0,)

    def pieces(self, text):
        return [0, *(len(word) for word in text.split()), 0]


class MadeUpTowers:
    """Towers whose output is the mean of the picture. seen: how many views they were given."""

    fingerprint = "made up"
    cells, whole, texts, image_size = (2, 3), 4, 5, 8
    words = Words()

    def __init__(self):
        self.seen = 0

    def prepare(self, photo):
        return photo.pixels.astype(np.float32)

    def mirrored(self, prepared):
        return prepared[:, ::-1]

    def see(self, prepared):
        self.seen += len(prepared)
        means = np.array([each.mean() / 256 for each in prepared])
        return np.ones((len(means), 2, 3)) * means[:, None, None], np.ones((len(means), 4)) * means[:, None]

    def read(self, texts):
        lengths = np.array([len(Words().pieces(text)) for text in texts])
        mask = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.ones((*mask.shape, 4), np.float32) * lengths[:, None, None]
        embeddings = np.ones((len(texts), 5), np.float32) * lengths[:, None]
        return embeddings, TextFeatures(embeddings, tokens, mask, np.zeros(len(texts), bool))


@pytest.fixture
def towers():
    return MadeUpTowers()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def sample_set(tmp_path):
    """Six pictures with two captions each, in a folder."""
    return captioned(tmp_path, "photos")


def captioned(folder, name, count=6, first=0):
    paths = write_photos(folder / name, count, first=first)
    for row, path in enumerate(paths):
        path.rename(folder / name / f"{row}.png")
    lines = [{"image": f"{row}.png", "captions": [f"word {'so ' * row}", "another one"]} for row in range(count)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(folder / "captions.jsonl", images_dir=folder / name)


def features_of(sets, towers, cache, views=2, **options):
    from retrieval.training.data.features import cached_features

    return cached_features(sets if isinstance(sets, list) else [sets], towers, cache, views, **options)


def means(captions):
    from PIL import Image

    pixels = [np.asarray(Image.open(captions.images_dir / image.image), np.float64) for image in captions.images]
    return np.array([each.mean() / 256 for each in pixels], np.float32)


def test_features_are_those_of_the_pictures_in_their_order(sample_set, towers, cache):
    found = features_of(sample_set, towers, cache, 3)
    assert found.cells.shape == (3, 6, 2, 3) and found.whole.shape == (3, 6, 4) and found.texts.shape == (12, 5)
    np.testing.assert_allclose(found.cells[0, :, 0, 0], means(sample_set), atol=1e-3)
    np.testing.assert_allclose(found.whole[1, :, 3], means(sample_set), atol=1e-3)
    assert found.image_of_text.tolist() == np.repeat(np.arange(6), 2).tolist() and found.left_out == ()
    np.testing.assert_array_equal(found.starts, np.cumsum([0, *found.texts[:, 0].astype(int)]))
    assert found.words.shape == (found.starts[-1], 4) and found.numbers.shape == (found.starts[-1],)


def test_the_second_time_nothing_is_computed(sample_set, towers, cache):
    first = features_of(sample_set, towers, cache)
    seen, again = towers.seen, features_of(sample_set, towers, cache)
    assert towers.seen == seen and again.key == first.key
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
def test_pictures_that_were_edited_are_computed_again(sample_set, towers, cache, edit):
    before = features_of(sample_set, towers, cache)
    edit(sample_set)
    after = features_of(sample_set, towers, cache)
    assert after.key != before.key
    np.testing.assert_allclose(after.cells[0, :, 0, 0], means(sample_set), atol=1e-3)


def test_two_folders_with_equal_names_share_nothing(tmp_path, towers, cache):
    one, other = captioned(tmp_path, "one"), captioned(tmp_path, "other", first=50)
    for row in range(6):  # not even by size and time
        for each in (one, other):
            path = each.images_dir / f"{row}.png"
            path.write_bytes(path.read_bytes().ljust(1000, b"\0"))
            os.utime(path, ns=(5, 5))
    first, second = features_of(one, towers, cache), features_of(other, towers, cache)
    assert first.key != second.key and towers.seen == 24
    np.testing.assert_allclose(second.cells[0, :, 0, 0], means(other), atol=1e-3)


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


UNREADABLE = {
    "damaged": lambda path: path.write_bytes(b"no picture"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a broken link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("harm", UNREADABLE.values(), ids=UNREADABLE)
def test_an_image_that_cannot_be_read_is_left_out_with_its_captions(sample_set, towers, cache, harm):
    harm(sample_set.images_dir / "2.png")
    found = features_of(sample_set, towers, cache)
    assert [item.what for item in found.left_out] == ["2.png"] and found.left_out[0].why.startswith("image ")
    others = replace(sample_set, images=tuple(image for image in sample_set.images if image.image != "2.png"))
    expected = features_of(others, towers, cache)
    assert found.cells.shape[1] == 5 and len(found.texts) == 10
    np.testing.assert_array_equal(found.whole[0], expected.whole[0])
    np.testing.assert_array_equal(found.texts, expected.texts)
    np.testing.assert_array_equal(found.image_of_text, expected.image_of_text)


def fail_to_read(monkeypatch, name, error):
    from retrieval.training.data import views

    real = views.read_image_bytes

    def read(captions, image):
        if image.image == name:
            from retrieval.captions.errors import cannot_read

            raise cannot_read(captions.images_dir / name, error, "mend it")
        return real(captions, image)

    monkeypatch.setattr(views, "read_image_bytes", read)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), "image cannot be read (Input/output error)"),
        (OSError(errno.ESTALE, "Stale file handle"), "image cannot be read (Stale file handle)"),
        (OSError(errno.EMFILE, "Too many open files"), "image cannot be read (Too many open files)"),
        (MemoryError(), "image needs more memory than is free"),
    ],
)
def test_an_image_that_passes_to_be_unreadable_is_told_as_such_and_tried_again(
    sample_set, towers, cache, monkeypatch, error, reason
):
    with monkeypatch.context() as patched:
        fail_to_read(patched, "2.png", error)
        found = features_of(sample_set, towers, cache)
        assert [tuple(item) for item in found.left_out] == [("2.png", reason)] and found.images == 5
        seen = towers.seen
        assert features_of(sample_set, towers, cache).images == 5 and towers.seen == seen, "it cannot be read yet"
    assert features_of(sample_set, towers, cache, again=False).images == 5, "a run that goes on keeps what it has"
    whole = features_of(sample_set, towers, cache)
    assert whole.images == 6 and whole.left_out == ()


def test_what_is_damaged_is_not_read_again_and_again(sample_set, towers, cache):
    (sample_set.images_dir / "2.png").write_bytes(b"no picture")
    features_of(sample_set, towers, cache)
    seen = towers.seen
    assert features_of(sample_set, towers, cache).images == 5 and towers.seen == seen


def test_where_no_image_can_be_read_the_first_is_named(sample_set, towers, cache):
    for image in sample_set.images:
        (sample_set.images_dir / image.image).write_bytes(b"no picture")
    with pytest.raises(CrosslookError, match=r"^none of the 6 images [^\n]*0\.png"):
        features_of(sample_set, towers, cache)


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


DAMAGES = {
    "a truncated array": lambda cache: os.truncate(only(cache, "*/cells.npy"), 200),
    "an array of half a header": lambda cache: os.truncate(only(cache, "*/cells.npy"), 20),
    "an empty array": lambda cache: os.truncate(only(cache, "*/whole.npy"), 0),
    "a damaged header": lambda cache: only(cache, "*/words.npy").write_bytes(b"\x93NUMPY\x01\0\x76\0{(" + b" " * 200),
    "a missing array": lambda cache: only(cache, "*/texts.npy").unlink(),
    "no mark of the end": lambda cache: [path.unlink() for path in cache.glob("*/complete")],
    "an empty mark": lambda cache: [path.write_bytes(b"") for path in cache.glob("*/complete")],
    "a mark that is a list": lambda cache: [path.write_text("[]") for path in cache.glob("*/complete")],
    "a file in the folder's place": lambda cache: [(shutil.rmtree(path), path.touch()) for path in cache.iterdir()],
    "no cache": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_computed_again(sample_set, towers, cache, damage):
    before = np.array(features_of(sample_set, towers, cache).cells)
    damage(cache)
    after = features_of(sample_set, towers, cache)
    np.testing.assert_array_equal(after.cells, before)
    assert after.texts.shape == (12, 5) and {path.name for path in cache.iterdir()} == set(after.key.split("-"))


@pytest.mark.parametrize("written", [0, 100, 128, 1000])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(sample_set, towers, cache, monkeypatch, code, written):
    from retrieval.training.data.cache import RowsWriter

    room, write = [written], RowsWriter._write

    def write_while_there_is_room(self, content):
        room[0] -= len(content)
        if room[0] < 0:
            raise OSError(code, os.strerror(code))
        write(self, content)

    with monkeypatch.context() as patched, pytest.raises(CrosslookError) as raised:
        patched.setattr(RowsWriter, "_write", write_while_there_is_room)
        features_of(sample_set, towers, cache)
    reason = os.strerror(code) if code == errno.EIO else "the disk is full"
    assert str(raised.value).startswith(f"cannot write to {cache}: {reason}; ") and "\n" not in str(raised.value)
    assert all((path / "complete").exists() for path in cache.iterdir())
    assert features_of(sample_set, towers, cache).images == 6


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_rows_are_written_so_that_a_full_disk_is_an_error(tmp_path):
    from retrieval.training.data.cache import RowsWriter

    (tmp_path / "rows.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), RowsWriter(tmp_path / "rows.npy", (3,)) as rows:
        rows.append(np.zeros((1, 3)))


@pytest.mark.parametrize("count", [0, 1, 9, 10, 12345])
def test_rows_are_an_array_of_numpy_whatever_their_number(tmp_path, count):
    from retrieval.training.data.cache import RowsWriter

    expected = np.random.default_rng(0).normal(size=(count, 2, 3)).astype(np.float16)
    with RowsWriter(tmp_path / "rows.npy", (2, 3)) as rows:
        for low in range(0, count, 1000):
            rows.append(expected[low : low + 1000])
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), expected)


def test_a_file_system_that_takes_fewer_bytes_at_once_loses_none(tmp_path):
    from retrieval.training.data.cache import RowsWriter

    expected = np.arange(300, dtype=np.float16).reshape(100, 3)
    with RowsWriter(tmp_path / "rows.npy", (3,)) as rows:
        file = rows._file

        class Slow:
            def write(self, content):
                return file.write(content[:7])

            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return file.__enter__()

            def __exit__(self, *given):
                return file.__exit__(*given)

        rows._file = Slow()
        rows.append(expected)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), expected)


def test_a_kill_while_features_are_computed_leaves_no_entry(sample_set, towers, cache, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(prepared):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(towers, "see", killed)
        features_of(sample_set, towers, cache)
    assert not list(cache.glob("*/complete"))
    assert features_of(sample_set, towers, cache).images == 6


def test_a_cache_that_cannot_be_read_now_is_not_computed_again(sample_set, towers, cache, monkeypatch):
    from retrieval.training.data import cache as module

    features_of(sample_set, towers, cache)
    seen = towers.seen

    def fail(path, **options):
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patched, pytest.raises(CrosslookError, match="cannot read .*: Input/output error"):
        patched.setattr(module.np, "load", fail)
        features_of(sample_set, towers, cache)
    assert features_of(sample_set, towers, cache).images == 6 and towers.seen == seen


def entry(cache, name, *, age, size=1000, complete=True):
    """age: seconds since it was used."""
    import time

    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "cells.npy").write_bytes(bytes(size))
    if complete:
        (folder / "complete").write_text("{}")
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - age,) * 2)


DAY = 24 * 3600


def test_the_least_recently_used_make_room(cache):
    from retrieval.training.data.cache import make_room

    for name, age in (("a", 9), ("b", 5), ("c", 7), ("d", 3)):
        entry(cache, name, age=age * DAY)
    assert make_room(cache, [], limit=2500) <= 2500
    assert sorted(path.name for path in cache.iterdir()) == ["b", "d"]


def test_what_is_in_use_stays_whatever_the_limit(cache):
    from retrieval.training.data.cache import make_room

    entry(cache, "mine", age=9 * DAY)
    entry(cache, "of another run", age=DAY / 2)
    entry(cache, "at work", age=DAY / 2, complete=False)
    entry(cache, "from the future", age=-DAY / 2)
    assert make_room(cache, ["mine"], limit=0) > 4000
    assert len(list(cache.iterdir())) == 4


def test_what_a_kill_left_behind_is_removed_after_a_day(cache):
    from retrieval.training.data.cache import make_room

    entry(cache, "old.abc", age=2 * DAY, complete=False)
    entry(cache, "whole", age=9 * DAY)
    make_room(cache, [])
    assert [path.name for path in cache.iterdir()] == ["whole"]


def test_using_an_entry_makes_it_young(sample_set, towers, cache):
    from retrieval.training.data.features import trim_cache

    found = features_of(sample_set, towers, cache)
    for path in cache.glob("*/complete"):
        os.utime(path, (1, 1))
    again = features_of(sample_set, towers, cache)
    assert all(path.stat().st_mtime > 1 for path in cache.glob("*/complete"))
    assert trim_cache(cache, [again]) > 0 and found.key == again.key


def test_a_cache_that_is_not_there_has_no_bytes(tmp_path):
    from retrieval.training.data.cache import make_room

    assert make_room(tmp_path / "nowhere", []) == 0
