"""Unreadable images are left out with their captions, and tried again if the reason may pass."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.captions import read_image_bytes
from tests.retrieval.training.data.made_up_towers import features_of

pytestmark = pytest.mark.torch


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        path.unlink()
        make(path)

    return harm


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "damaged": lambda path: path.write_bytes(b"no picture"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a folder": replaced_by(Path.mkdir),
    "a broken link": replaced_by(lambda path: path.symlink_to("nowhere")),
    "a pipe": replaced_by(os.mkfifo),
}


@pytest.mark.parametrize("harm", UNREADABLE.values(), ids=UNREADABLE)
def test_an_image_that_cannot_be_read_is_left_out_with_its_captions(pictures, towers, cache, harm):
    harm(pictures.images_dir / "2.png")
    features = features_of(pictures, towers, cache)
    assert [item.what for item in features.left_out] == ["2.png"] and features.left_out[0].why.startswith("image ")
    others = replace(pictures, images=tuple(image for image in pictures.images if image.image != "2.png"))
    expected = features_of(others, towers, cache)
    assert features.cells.shape[1] == 5 and features.text_count == 10
    np.testing.assert_array_equal(features.global_features[0], expected.global_features[0])
    np.testing.assert_array_equal(features.text_embeddings, expected.text_embeddings)
    np.testing.assert_array_equal(features.image_of_text, expected.image_of_text)


def fail_to_read(monkeypatch, name, error):
    def read(captions, image):
        if image.image == name:
            from retrieval.captions.errors import cannot_read

            raise cannot_read(captions.images_dir / name, error, "mend it")
        return read_image_bytes(captions, image)

    monkeypatch.setattr("retrieval.training.data.photos.read_image_bytes", read)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), "image cannot be read (Input/output error)"),
        (OSError(errno.ESTALE, "Stale file handle"), "image cannot be read (Stale file handle)"),
        (OSError(errno.EMFILE, "Too many open files"), "image cannot be read (Too many open files)"),
        (MemoryError(), "image needs more memory than is free"),
    ],
)
def test_an_image_that_cannot_be_read_for_a_while_is_reported_and_tried_again(
    pictures, towers, cache, monkeypatch, error, reason
):
    with monkeypatch.context() as patched:
        fail_to_read(patched, "2.png", error)
        features = features_of(pictures, towers, cache)
        assert [tuple(item) for item in features.left_out] == [("2.png", reason)] and features.image_count == 5
        view_count = towers.view_count
        assert features_of(pictures, towers, cache).image_count == 5 and towers.view_count == view_count, (
            "it cannot be read yet"
        )
    assert features_of(pictures, towers, cache, again=False).image_count == 5, "a run that goes on keeps what it has"
    complete = features_of(pictures, towers, cache)
    assert complete.image_count == 6 and complete.left_out == ()


def test_what_is_damaged_is_not_read_again_and_again(pictures, towers, cache):
    (pictures.images_dir / "2.png").write_bytes(b"no picture")
    features_of(pictures, towers, cache)
    view_count = towers.view_count
    assert features_of(pictures, towers, cache).image_count == 5 and towers.view_count == view_count


def test_where_no_image_can_be_read_the_first_is_named(pictures, towers, cache):
    for image in pictures.images:
        (pictures.images_dir / image.image).write_bytes(b"no picture")
    with pytest.raises(CrosslookError, match=r"^none of the 6 images [^\n]*0\.png"):
        features_of(pictures, towers, cache)
