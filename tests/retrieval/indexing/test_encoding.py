"""`encode_files`: files to a segment's content, in one pure call that the pipeline agrees with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.manifest import SegmentEntry
from indexes.segment_files import Reservation, write_segment
from indexes.verification import verify
from indexes.writer import CollectionWriter
from retrieval.encoders.base import ImageFeatures
from retrieval.images import decode
from retrieval.indexing.encoding import EncodedFiles, EncodeSettings, encode_files
from retrieval.indexing.files import File
from retrieval.indexing.listing import list_images
from retrieval.indexing.pipeline import binding_of, index_folders
from tests.indexes.contents import contents
from tests.retrieval.indexing.contents import embeddings, failures
from tests.support import FakeEncoder, PixelEncoder, write_photos


@pytest.fixture
def files(tmp_path: Path) -> Sequence[File]:
    """Twelve photos, of which the fourth is broken and the seventh has vanished since it was listed."""
    paths = write_photos(tmp_path / "photos", 12)
    paths[3].write_bytes(b"no image")
    files = list_images([os.fsencode(tmp_path / "photos")]).files
    paths[6].unlink()
    return files


def same(first: EncodedFiles, second: EncodedFiles) -> bool:
    arrays = [(first.embeddings, second.embeddings), (first.regions, second.regions)]
    others = [(item.rows, item.failures, item.postponed) for item in (first, second)]
    return others[0] == others[1] and all(np.array_equal(*pair) and pair[0].dtype == pair[1].dtype for pair in arrays)


def test_rows_embeddings_and_tokens_are_those_of_the_images_and_the_rest_is_beside(
    files: Sequence[File], encoder: FakeEncoder
) -> None:
    encoded = encode_files(files, encoder)
    names = [Path(os.fsdecode(row.path)).name for row in encoded.rows]
    assert names == [f"{number:03d}.png" for number in range(12) if number not in (3, 6)]
    assert encoded.embeddings.shape == (10, encoder.dim) and encoded.embeddings.dtype == np.float16
    assert encoded.regions.shape == (10, *encoder.region_shape)
    assert encoded.regions.dtype == np.dtype(encoder.region_dtype)
    assert [Path(os.fsdecode(failure.path)).name for failure in encoded.failures] == ["003.png"]
    assert [(Path(os.fsdecode(path)).name, why) for path, why in encoded.postponed] == [
        ("006.png", "is gone since the folder was listed")
    ]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_result_is_the_same_with_any_number_of_threads(files: Sequence[File], threads: int) -> None:
    alone = encode_files(files, FakeEncoder())
    assert same(alone, encode_files(files, FakeEncoder(), EncodeSettings(threads=threads)))


def test_the_result_does_not_depend_on_earlier_calls(files: Sequence[File], encoder: FakeEncoder) -> None:
    first = encode_files(files, encoder)
    encode_files(files[:5], encoder, EncodeSettings(threads=2))
    assert same(first, encode_files(files, encoder))


def write_reserved(folder: Path, files: Sequence[File], reservation: Reservation) -> SegmentEntry:
    """What a process does that makes a segment."""
    return write_segment(folder, encode_files(files, FakeEncoder()).batch(reservation.first_id), reservation)


def test_a_collection_of_reserved_segments_is_that_of_the_pipeline(
    files: Sequence[File], encoder: FakeEncoder, tmp_path: Path
) -> None:
    index_folders([tmp_path / "photos"], tmp_path / "expected", encoder)
    with CollectionWriter(tmp_path / "c", binding_of(encoder)) as writer:
        writer.adopt([write_reserved(tmp_path / "c", files, writer.reserve(len(files)))])
    assert contents(tmp_path / "c") == contents(tmp_path / "expected")
    assert failures(tmp_path / "c") == failures(tmp_path / "expected")
    assert verify(tmp_path / "c").faults == ()


def test_other_processes_make_whole_segments(files: Sequence[File], encoder: FakeEncoder, tmp_path: Path) -> None:
    index_folders([tmp_path / "photos"], tmp_path / "expected", encoder)
    halves = [files[:5], files[5:]]
    with (
        CollectionWriter(tmp_path / "c", binding_of(encoder)) as writer,
        ProcessPoolExecutor(1, get_context("spawn")) as processes,
    ):
        reservations = [writer.reserve(len(half)) for half in halves]
        entries = list(processes.map(write_reserved, [tmp_path / "c"] * 2, halves, reservations))
        writer.adopt(entries)
    rows, expected = embeddings(tmp_path / "c"), embeddings(tmp_path / "expected")
    assert list(rows) == list(expected) and rows == expected
    assert verify(tmp_path / "c").faults == ()


def test_ids_begin_where_they_are_told_to_and_failures_come_last(files: Sequence[File], encoder: FakeEncoder) -> None:
    batch = encode_files(files, encoder).batch(first_id=100)
    assert batch.rows["id"].to_pylist() == list(range(100, 110)) and batch.failures["id"].to_pylist() == [110]
    assert all(batch.rows["checksum"].to_pylist())


def test_an_embedding_that_is_not_finite_is_a_failure(files: Sequence[File], encoder: FakeEncoder) -> None:
    class Overflowing(FakeEncoder):
        def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
            features = super().encode_images(prepared)
            features.embeddings[0, 0] = np.inf
            return features

    encoded = encode_files(files, Overflowing())
    assert len(encoded.rows) == len(encoded.embeddings) == len(encoded.regions) == 7
    assert len(encoded.failures) == 4  # the broken file, and the first image of each of three batches


def test_no_file_gives_nothing(encoder: FakeEncoder) -> None:
    encoded = encode_files([], encoder)
    assert (encoded.rows, encoded.failures, encoded.postponed) == ((), (), ())
    assert encoded.embeddings.shape == (0, encoder.dim) and encoded.regions.shape == (0, *encoder.region_shape)


def test_a_first_run_lists_the_folders_once(
    files: Sequence[File], encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Any] = []
    real = os.scandir

    def scandir(folder: Any) -> Any:
        listed.append(folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    index_folders([tmp_path / "photos"], tmp_path / "collection", encoder)
    assert listed.count(os.fsencode(tmp_path / "photos")) == 1


@pytest.mark.parametrize("pixels", [False, True])
def test_an_image_that_lacks_memory_to_be_encoded_is_postponed_and_costs_no_other(tmp_path: Path, pixels: bool) -> None:
    class Lacks(PixelEncoder if pixels else FakeEncoder):  # type: ignore[misc]
        def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
            if any(image.mean() == dark.mean() for image in prepared):
                raise MemoryError
            return super().encode_images(prepared)

    paths = write_photos(tmp_path / "photos", 12)
    encoder = Lacks()
    dark = encoder.prepare(decode(paths[5].read_bytes()))
    progress = index_folders([tmp_path / "photos"], tmp_path / "collection", encoder)
    assert (progress.new, progress.failed, progress.postponed) == (11, 0, 1)
    assert failures(tmp_path / "collection") == {}
    assert index_folders([tmp_path / "photos"], tmp_path / "collection", FakeEncoder()).new == 1
