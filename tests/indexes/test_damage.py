"""Damage is found: every flipped byte of every file is seen by verify, and ends no command in a traceback."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.commits import put_in_force
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.paths import segment_folder
from indexes.recovery import SET_ASIDE
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.contents import contents, manifest_of

STEP = 37  # of the bytes of a file, so many apart are flipped; another bit each time


@pytest.fixture
def dying(collection):
    """With a deletion vector as well."""
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1], removed=[2, 14])
    return collection


def parts(path):
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name not in ("writer.lock",))


def flips(content):
    for offset in range(0, len(content), STEP):
        yield content[:offset] + bytes([content[offset] ^ 1 << offset % 8]) + content[offset + 1 :]


def everything(path):
    """What a reader can see, or None if it is told that something is wrong."""
    try:
        collection = Collection.open(path)
        positions = collection.table(["id"])["position"].to_numpy()
        collection.nearest(np.eye(8, dtype=np.float32), 5)
        return contents(path), collection.rows(positions), collection.failures().to_pylist()
    except CrosslookError as error:
        assert "\n" not in str(error)
        return None


def is_detected(path):
    try:
        return bool(verify(path).faults)
    except CrosslookError as error:
        assert "\n" not in str(error)
        return True


def test_a_whole_collection_has_no_faults(dying):
    verification = verify(dying)
    assert verification.faults == () and verification.unchecked == 0
    assert verification.files == 2 + 3 * 4 + 2
    assert verification.bytes == sum(file.stat().st_size for file in parts(dying))


def test_every_flipped_byte_is_detected_or_harmless(dying):
    before = everything(dying)
    for file in parts(dying):
        content = file.read_bytes()
        for flipped in flips(content):
            file.write_bytes(flipped)
            seen = everything(dying)
            # A reader may be given wrong numbers by damaged embeddings: it does not read all of a file to answer.
            assert seen == before or seen is None or file.suffix in (".npy", ".parquet"), file
            if not is_detected(dying):
                assert everything(dying) == before, file
        file.write_bytes(content)


def test_a_flipped_byte_in_the_header_of_an_array_ends_no_command_in_a_traceback(dying):
    for name in ("embeddings.npy", "tokens.npy"):
        file = segment_folder(dying, 2) / name
        content = file.read_bytes()
        for offset in range(128):
            for bit in range(0, 8, 3):
                file.write_bytes(content[:offset] + bytes([content[offset] ^ 1 << bit]) + content[offset + 1 :])
                everything(dying)
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["embeddings.npy", "tokens.npy", "rows.parquet", "failures.parquet"])
def test_repair_sets_a_segment_with_a_flipped_byte_aside_and_keeps_the_others(dying, name):
    file = segment_folder(dying, 2) / name
    content = bytearray(file.read_bytes())
    content[-20] ^= 4
    file.write_bytes(content)
    with CollectionWriter(dying, BINDING, repair=True) as writer:
        assert writer.dropped == 9
        assert any("segment 2 is damaged" in note and name in note for note in writer.notes)
    assert (dying / SET_ASIDE / "000002" / name).read_bytes() == bytes(content)
    assert len(Collection.open(dying)) == 18 and verify(dying).faults == ()


def test_repair_keeps_the_rows_of_a_segment_whose_deletion_vector_is_damaged(dying):
    """Which of them are dead shows when the folders are compared again; a path that counts twice counts once."""
    (vector,) = segment_folder(dying, 1).glob("dead-*.npy")
    vector.write_bytes(vector.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DamagedSegmentError, match=r"dead-000004\.npy"):
        Collection.open(dying)
    with CollectionWriter(dying, BINDING, repair=True) as writer:
        assert writer.dropped == 0
    assert len(Collection.open(dying)) == 29 and verify(dying).faults == ()


@pytest.mark.parametrize("name", ["embeddings.npy", "tokens.npy", "rows.parquet"])
@pytest.mark.parametrize("everything_merged", [False, True])
def test_a_damaged_segment_is_never_merged_into_a_new_one(tmp_path, name, everything_merged):
    with CollectionWriter(tmp_path, BINDING) as writer:
        for _ in range(4):
            writer.commit(make_batch(writer.manifest.next_id, 10))
        file = segment_folder(tmp_path, 2) / name
        content = bytearray(file.read_bytes())
        content[-20] ^= 1
        file.write_bytes(content)
        before = writer.manifest
        with pytest.raises(DamagedSegmentError, match=name):
            writer.merge(everything=everything_merged)
        assert writer.manifest == before
        writer.commit(make_batch(writer.manifest.next_id, 1))  # and the writer goes on
    assert file.exists() and any(name in fault for fault in verify(tmp_path).faults)


@pytest.mark.parametrize("name", ["embeddings.npy", "rows.parquet", "dead-000004.npy"])
def test_verify_names_what_is_missing(dying, name):
    (segment_folder(dying, 1) / name).unlink()
    assert any(name in fault and "missing" in fault for fault in verify(dying).faults)


def test_verify_finds_ids_and_paths_that_count_twice(collection):
    """No file by itself is wrong: a segment was copied, with a manifest to match."""
    shutil.copytree(segment_folder(collection, 1), segment_folder(collection, 9))
    manifest = manifest_of(collection)
    again = replace(manifest.segments[0], number=9)
    put_in_force(collection, manifest.next(segments=(*manifest.segments, again)))
    faults = " ".join(verify(collection).faults)
    assert "ids are given twice" in faults and "10 paths count more than once" in faults
