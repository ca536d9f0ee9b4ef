"""Pictures are told apart by their content where their names, sizes and times are equal."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval.captions import CaptionSet, content_digest, read_captions
from retrieval.captions.images import BLOCK
from retrieval.training.data import contents
from retrieval.training.data.contents import begun_with, contents_of
from tests.retrieval.training.data.made_up_towers import captioned, features_of, means

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[4]


def padded_photos(folder: Path, name: str, first: int) -> CaptionSet:
    """Six pictures whose files have the names, sizes and times of those of any other `first`."""
    captions = captioned(folder, name, first=first)
    for row in range(6):
        path = folder / name / f"{row}.png"
        path.write_bytes(path.read_bytes().ljust(1000, b"\0"))
        os.utime(path, ns=(5, 5))
    return captions


def copied_with_times(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)  # as `cp -a` does


@pytest.fixture
def replaced(tmp_path):
    """A set in the folder `photos`, and a function that puts other pictures of the same stamps there."""
    for name, first in (("a", 0), ("b", 50)):
        captions = padded_photos(tmp_path, name, first)
    copied_with_times(tmp_path / "a", tmp_path / "photos")
    return replace(captions, images_dir=tmp_path / "photos"), lambda: copied_with_times(
        tmp_path / "b", tmp_path / "photos"
    )


def test_a_folder_that_was_replaced_with_its_times_is_computed_again(replaced, towers, cache):
    from retrieval.captions import stamp

    captions, put_others = replaced
    stamps = [stamp(captions, image) for image in captions.images]
    before = features_of(captions, towers, cache)
    put_others()
    assert [stamp(captions, image) for image in captions.images] == stamps
    after = features_of(captions, towers, cache)
    assert (after.key, after.contents) != (before.key, before.contents) and towers.view_count == 24
    np.testing.assert_allclose(after.cells[0, :, 0, 0], means(captions), atol=1e-3)
    assert features_of(captions, towers, cache).contents == after.contents and towers.view_count == 24


def test_a_run_that_goes_on_does_not_train_on_them_either(replaced, towers, cache):
    captions, put_others = replaced
    before = features_of(captions, towers, cache)
    put_others()
    assert features_of(captions, towers, cache, again=False).contents != before.contents


def test_a_shard_that_was_replaced_with_its_times_is_computed_again(tmp_path, towers, cache):
    def shard(first):
        padded_photos(tmp_path, f"p{first}", first)
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            for row in range(3):
                for name, content in (
                    (f"{row}.png", (tmp_path / f"p{first}" / f"{row}.png").read_bytes()),
                    (f"{row}.txt", b"a word"),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        os.utime(tmp_path / "shard.tar", ns=(5, 5))
        return read_captions(tmp_path / "shard.tar")

    first, second = features_of(shard(0), towers, cache), features_of(shard(70), towers, cache)
    assert first.key == second.key, "stamps cannot tell them apart"
    assert first.contents != second.contents and not np.array_equal(first.cells, second.cells)


def test_a_picture_that_cannot_be_read_for_a_while_stays_the_same(pictures, towers, cache, monkeypatch):
    before = features_of(pictures, towers, cache)
    monkeypatch.setattr(contents, "content_digest", lambda captions, image: "")
    assert features_of(pictures, towers, cache).contents == before.contents and towers.view_count == 12


def test_a_caption_that_changes_its_picture_makes_other_features(pictures, towers, cache):
    first, second, *others = pictures.images
    moved = (
        replace(first, captions=first.captions[:1]),
        replace(second, captions=(*first.captions[1:], *second.captions)),
        *others,
    )
    before, after = (features_of(captions, towers, cache) for captions in (pictures, replace(pictures, images=moved)))
    assert before.key == after.key and before.contents != after.contents
    assert before.image_of_text.tolist() != after.image_of_text.tolist()


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The pictures that are read, among files that count as settled at once."""
    names: list[str] = []

    def noted(captions, image):
        names.append(image.image)
        return content_digest(captions, image)

    monkeypatch.setattr(contents, "content_digest", noted)
    monkeypatch.setattr(contents, "SETTLED", -(10**18))
    return names


def test_pictures_are_read_again_only_if_their_files_were_touched(replaced, reads):
    captions, put_others = replaced
    images = [(captions, image) for image in captions.images]
    progress: list[tuple[int, int]] = []
    first = contents_of(images, None, lambda *done: progress.append(done))
    assert sorted(reads) == [image.image for image in captions.images] and progress == [(0, 6), (6, 6)]
    stored = json.loads(json.dumps(first.stored))
    assert contents_of(images, stored, lambda *done: progress.append(done)) == first
    assert len(reads) == 6 and len(progress) == 2
    reads.clear()
    path = captions.images_dir / captions.images[2].image
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    os.utime(path, ns=(5, 5))
    second = contents_of(images, stored)
    assert reads == [captions.images[2].image]
    assert [row for row in range(6) if first.digests[row] != second.digests[row]] == [2]
    put_others()
    assert contents_of(images, second.stored) == contents_of(images) and len(reads) == 13


def test_a_picture_behind_a_link_that_leads_elsewhere_is_read_again(replaced, reads, tmp_path):
    captions, _ = replaced
    path, stored = captions.images_dir / captions.images[0].image, None
    digests: list[list[str]] = []
    for folder in "ab":
        path.unlink()
        path.symlink_to(tmp_path / folder / path.name)
        read = contents_of([(captions, captions.images[0])], stored)
        stored = read.stored
        digests.append(read.digests)
    assert digests[0] != digests[1] and len(reads) == 2


def test_pictures_that_changed_lately_or_cannot_be_read_are_read_again(replaced, reads, monkeypatch):
    captions, _ = replaced
    images = [(captions, image) for image in captions.images]
    monkeypatch.setattr(contents, "SETTLED", 10**18)
    assert contents_of(images, contents_of(images).stored).stamps == [""] * 6 and len(reads) == 12
    monkeypatch.setattr(contents, "SETTLED", -(10**18))
    path = captions.images_dir / captions.images[0].image
    content = path.read_bytes()
    path.unlink()
    stored = contents_of(images).stored
    assert stored["contents"][0] == ""
    path.write_bytes(content)
    reads.clear()
    assert contents_of(images, stored).digests[0] and reads == [captions.images[0].image]


@pytest.mark.parametrize("stored", [[], {}, {"contents": ["a"]}, {"contents": ["a"] * 5, "stamps": ["a"] * 5}, "a", 3])
def test_what_is_stored_otherwise_costs_reading_alone(replaced, reads, stored):
    captions, _ = replaced
    images = [(captions, image) for image in captions.images]
    assert contents_of(images, stored) == contents_of(images) and len(reads) == 12


def test_features_that_are_there_are_loaded_without_reading_pictures(replaced, towers, cache, reads):
    captions, _ = replaced
    progress: list[tuple[int, int]] = []
    before = features_of(captions, towers, cache, reading=lambda *done: progress.append(done))
    assert len(reads) == 6 and progress == [(0, 6), (6, 6)]
    assert features_of(captions, towers, cache).contents == before.contents and len(reads) == 6
    copied = captions.images_dir.with_name("copied")
    copied_with_times(captions.images_dir, copied)
    copied_with_times(copied, captions.images_dir)
    for count in (12, 12):
        assert features_of(captions, towers, cache).contents == before.contents and len(reads) == count
    assert towers.view_count == 12, "the same pictures in other files"


def test_a_run_that_goes_on_reads_no_picture(replaced, reads, tmp_path):
    captions, put_others = replaced
    images, path = [(captions, image) for image in captions.images], tmp_path / "run" / "pictures.json"
    first = begun_with(path, images, False)
    assert begun_with(path, images, True) == first == contents_of(images).digests and len(reads) == 12
    missing = captions.images_dir / captions.images[0].image
    content = missing.read_bytes()
    missing.unlink()
    assert begun_with(path, images, True) == first
    missing.write_bytes(content)
    os.utime(missing, ns=(5, 5))
    reads.clear()
    for _ in range(2):
        assert begun_with(path, images, True) == first
    assert reads == [captions.images[0].image]
    put_others()
    assert begun_with(path, images, True) == contents_of(images).digests != first
    path.write_text("[")
    assert begun_with(path, images, True) == contents_of(images).digests


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_digest_tells_contents_apart_wherever_a_byte_differs(tmp_path, size):
    (tmp_path / "a.jpg").write_bytes(bytes(size))
    captions = replace(captioned(tmp_path, "photos", 1), images_dir=tmp_path)
    image = replace(captions.images[0], image="a.jpg")
    places = {0, size // 3, size // 2, size - 1} if size else set()
    digests = {content_digest(captions, image)}
    for place in places:
        content = bytearray(size)
        content[place] = 1
        (tmp_path / "a.jpg").write_bytes(content)
        digests.add(content_digest(captions, image))
    (tmp_path / "a.jpg").write_bytes(bytes(size + 1))
    digests.add(content_digest(captions, image))
    assert len(digests) == 2 + len(places)
    assert content_digest(captions, replace(image, image="gone.jpg")) == ""


FULL = """
import resource, sys
from pathlib import Path
from indexes.errors import CrosslookError
from retrieval.captions import read_captions
from tests.retrieval.training.data.made_up_towers import MadeUpTowers, features_of

folder = Path(sys.argv[1])
captions = read_captions(folder / "captions.jsonl", images_dir=folder / "photos")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
try:
    features_of(captions, MadeUpTowers(), folder / "cache")
except CrosslookError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print([path.name for path in (folder / "cache").iterdir()])
print(features_of(captions, MadeUpTowers(), folder / "cache").image_count)
"""


def test_a_limit_on_files_ends_in_one_line_and_leaves_nothing(pictures, tmp_path):
    """In a process of its own, which a signal could end."""
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"cannot write to {tmp_path / 'cache'}: File too large; ")
    assert lines[1:] == ["[]", "6"]
