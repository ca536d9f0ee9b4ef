"""A single image or captions file that cannot be read is counted and named, and ends nothing."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil
import tarfile
from pathlib import Path

import pytest

from indexes.errors import CrosslookError
from indexes.recovery import current_binding
from retrieval.captions import (
    CannotRead,
    Skipped,
    absent_images,
    left_out_lines,
    missing_images,
    read_captions,
    read_image_bytes,
    stamp,
)
from retrieval.evaluation.evaluate import evaluate
from tests.support import write_photos

NAME = "002.png"


@pytest.fixture
def photos(tmp_path):
    """Six pictures with sidecars (.txt), and a captions file that lists them."""
    folder = tmp_path / "photos"
    lines = []
    for path in write_photos(folder, 6):
        path.with_suffix(".txt").write_text(f"picture {path.stem}\nmany colours\n")
        lines.append({"image": path.name, "captions": [f"picture {path.stem}", "many colours"]})
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def captions(photos):
    return read_captions(photos.parent / "captions.jsonl", images_dir=photos)


@pytest.fixture
def failing(monkeypatch):
    """Makes opening files of a name fail."""

    def fail(name, error):
        real = pathlib.Path.open

        def open_unless(path, *arguments, **options):
            if path.name == name:
                raise error
            return real(path, *arguments, **options)

        monkeypatch.setattr(pathlib.Path, "open", open_unless)

    return fail


def io_error(code):
    return OSError(code, os.strerror(code))


def in_its_place(path, make):
    """Replaces a file by what `make` makes at its path."""
    path.unlink()
    make(path)


def link_to(target):
    return lambda path: os.symlink(target, path)


HARMS = {
    "missing": (lambda path: path.unlink(), "image is missing"),
    "a folder": (lambda path: in_its_place(path, os.mkdir), "image is a folder, a pipe or a device"),
    "a pipe": (lambda path: in_its_place(path, os.mkfifo), "image is a folder, a pipe or a device"),
    "a device": (lambda path: in_its_place(path, link_to("/dev/zero")), None),
    "a broken link": (
        lambda path: in_its_place(path, link_to("nowhere.png")),
        "image is missing",
    ),
    "a link to itself": (lambda path: in_its_place(path, link_to(path)), None),
    "below a file": (lambda path: in_its_place(path, link_to("001.png/x")), "image is missing"),
    "empty": (lambda path: path.write_bytes(b""), "image is empty"),
    "no picture": (lambda path: path.write_bytes(b"no"), None),
    "half": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), None),
}


@pytest.mark.parametrize(("harm", "why"), HARMS.values(), ids=HARMS)
def test_an_image_that_is_not_there_or_damaged_is_left_out_and_named(captions, encoder, tmp_path, harm, why):
    harm(captions.images_dir / NAME)
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    assert [item.what for item in evaluation.left_out] == [NAME] and len(evaluation.images) == 5
    assert why is None or evaluation.left_out[0].why == why
    assert str(captions.images_dir) not in evaluation.left_out[0].why, "so that reasons can be counted"
    with pytest.raises(CrosslookError, match=rf"^[^\n]*1 left out, first {NAME} [^\n]*$"):
        evaluate(captions, encoder, tmp_path / "w2", strict=True)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ENOENT, errno.EISDIR])
def test_an_image_that_cannot_be_read_is_left_out_and_named(captions, encoder, tmp_path, failing, code):
    failing(NAME, io_error(code))
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    assert evaluation.left_out == (Skipped(NAME, f"image cannot be read ({os.strerror(code)})"),)
    assert len(evaluation.images) == 5 and len(evaluation.texts) == 10
    with pytest.raises(CrosslookError, match=rf"^[^\n]*1 left out, first {NAME} [^\n]*$"):
        evaluate(captions, encoder, tmp_path / "w2", strict=True)


def test_an_image_that_memory_does_not_hold_is_left_out_and_named(captions, encoder, tmp_path, failing):
    failing(NAME, MemoryError())
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    assert evaluation.left_out == (Skipped(NAME, "image needs more memory than is free"),)


def test_an_image_larger_than_any_is_not_even_read(captions, encoder, tmp_path):
    os.truncate(captions.images_dir / NAME, 10**12)  # a file with a hole
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    assert evaluation.left_out == (Skipped(NAME, "image is larger than 500 MB"),)


def test_what_the_pipeline_does_not_speak_of_is_named_as_well(captions, encoder, tmp_path, monkeypatch):
    """An image for which the pipeline made neither a row nor a failure is not lost silently."""
    from retrieval.indexing.pipeline import index_images

    monkeypatch.setattr(
        "retrieval.evaluation.evaluate.index_images",
        lambda names, *arguments, **options: index_images(names[1:], *arguments, **options),
    )
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    assert evaluation.left_out == (Skipped("000.png", "image cannot be read now"),) and len(evaluation.images) == 5


@pytest.mark.parametrize("seconds", [2**33, 20_000_000_000, -1_000_000_000, 0])
def test_dates_far_away_do_not_matter(captions, encoder, tmp_path, seconds):
    try:
        os.utime(captions.images_dir / NAME, (seconds, seconds))
    except (OSError, OverflowError):
        pytest.skip("this file system has no such dates")
    assert evaluate(captions, encoder, tmp_path / "w").left_out == ()
    assert str(captions.images_dir / NAME) in stamp(captions, captions.images[2])


def test_an_image_that_vanishes_from_an_index_is_named(captions, encoder, tmp_path, monkeypatch):
    """It vanishes after it was looked for, and before the collection is compared."""
    from retrieval.indexing.pipeline import index_folders

    index_folders([captions.images_dir], tmp_path / "index", encoder)

    def vanish(path):
        (captions.images_dir / NAME).unlink(missing_ok=True)
        return current_binding(path)

    monkeypatch.setattr("retrieval.evaluation.evaluate.current_binding", vanish)
    evaluation = evaluate(captions, encoder, tmp_path / "w", index=tmp_path / "index")
    assert evaluation.left_out == (Skipped(NAME, f"image cannot be read ({os.strerror(errno.ENOENT)})"),)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG])
def test_an_image_that_cannot_even_be_looked_at_says_why(captions, monkeypatch, code):
    real = os.stat

    def look(path, *arguments, **options):
        if str(path).endswith(NAME):
            raise io_error(code)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", look)
    assert absent_images(captions) == (Skipped(NAME, f"image cannot be looked at ({os.strerror(code)})"),)
    assert missing_images(captions) == (NAME,)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOENT, errno.EISDIR])
def test_a_txt_that_cannot_be_read_is_skipped_with_its_reason(photos, failing, code):
    failing("002.txt", io_error(code))
    caption_set = read_captions(photos)
    assert caption_set.skipped == (Skipped("002.txt", f"captions: cannot be read ({os.strerror(code)})"),)
    assert len(caption_set.images) == 5


def test_a_pipe_in_the_place_of_a_txt_is_not_waited_for(photos):
    (photos / "002.txt").unlink()
    os.mkfifo(photos / "002.txt")
    assert read_captions(photos).skipped == (Skipped("002.txt", "captions: is a pipe or a device"),)


def test_a_broken_link_in_the_place_of_a_txt_is_skipped(photos):
    (photos / "002.txt").unlink()
    (photos / "002.txt").symlink_to("nowhere")
    (item,) = read_captions(photos).skipped
    assert item.what == "002.txt" and item.why.startswith("captions: cannot be read")


def test_a_subfolder_that_cannot_be_listed_is_named_once(photos, monkeypatch):
    (photos / "more").mkdir()
    shutil.copy(photos / "001.png", photos / "more" / "a.png")
    real = os.scandir

    def list_unless(path):
        if str(path).endswith("more"):
            raise OSError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", list_unless)
    caption_set = read_captions(photos)
    assert caption_set.skipped == (Skipped("more/", "folder cannot be listed (Permission denied)"),)
    assert len(caption_set.images) == 6


def test_a_folder_of_captions_that_cannot_be_listed_is_one_line(photos, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(CrosslookError, match=r"^[^\n]*photos: cannot be listed \(Input/output error\)[^\n]*$"):
        read_captions(photos)


@pytest.fixture
def shard(photos):
    path = photos.parent / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(photos.iterdir()):
            tar.add(file, file.name)
    return path


def test_captions_inside_a_tar_that_cannot_be_read_are_skipped(shard, monkeypatch):
    from retrieval.captions import shards

    real = shards.read_member
    where = read_captions(shard).members[NAME].offset

    def read(member, at_most=None):
        if (
            member.offset > where and member.size < 100
        ):  # cuts off the captions after the picture, and all later members
            raise CannotRead(member.shard, "cannot be read (Input/output error)", "make it readable")
        return real(member, at_most)

    monkeypatch.setattr(shards, "read_member", read)
    caption_set = read_captions(shard)
    assert [image.image for image in caption_set.images] == ["000.png", "001.png"]
    assert set(caption_set.skipped) == {
        Skipped(f"00{row}.png", "captions: cannot be read (Input/output error)") for row in range(2, 6)
    }


def test_images_of_a_tar_that_became_shorter_are_left_out(shard, encoder, tmp_path):
    captions = read_captions(shard)
    last = captions.members["005.png"]
    os.truncate(shard, last.offset + 10)
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    assert evaluation.left_out == (Skipped("005.png", "image has become shorter since it was listed"),)
    with pytest.raises(CannotRead, match="shard.tar: has become shorter since it was listed: start again"):
        read_image_bytes(captions, captions.images[5])


def test_a_tar_that_is_gone_leaves_all_its_images_out(shard, encoder, tmp_path):
    captions = read_captions(shard)
    shard.unlink()
    with pytest.raises(CrosslookError, match="none of its images can be read"):
        evaluate(captions, encoder, tmp_path / "w")


def test_stamps_tell_pictures_from_others(captions, shard, photos):
    before = [stamp(captions, image) for image in captions.images]
    assert len(set(before)) == 6 == len({stamp(read_captions(shard), image) for image in captions.images})
    other = shutil.copytree(photos, photos.parent / "other")
    moved = read_captions(photos.parent / "captions.jsonl", images_dir=Path(other))
    assert not set(before) & {stamp(moved, image) for image in moved.images}
    (photos / NAME).unlink()
    assert stamp(captions, captions.images[2]) not in before


def test_lines_count_what_is_left_out_by_reason():
    items = [Skipped(f"{row}.png", "image is missing") for row in range(7)] + [Skipped("x.txt", "captions: none")]
    assert left_out_lines(items) == [
        "left out: 7 x image is missing: 0.png, 1.png, 2.png, 3.png, 4.png, ...",
        "left out: 1 x captions: none: x.txt",
    ]
    assert left_out_lines([]) == []
