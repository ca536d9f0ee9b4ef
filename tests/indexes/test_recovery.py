"""Repair and recovery lose nothing, also where they are interrupted, and give no id twice."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from indexes import manifest_file
from indexes.collection import Collection
from indexes.commits import CURRENT, current_name, put_in_force
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.manifest import Features
from indexes.opening import SKIPPED_IDS
from indexes.paths import ann_folder, segment_folder
from indexes.recovery import SET_ASIDE, current_binding, rebuild
from indexes.segment import Segment
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.contents import contents, manifest_of
from tests.indexes.damage import flip, lose_manifest

GOLDEN = Path(__file__).parents[1] / "goldens" / "format-1" / "collection"


def test_a_file_system_without_second_names_keeps_copies_aside(collection, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    flip(segment_folder(collection, 2) / "tokens.npy")
    monkeypatch.setattr(os, "link", refuse)
    CollectionWriter(collection, BINDING, repair=True).close()
    assert (collection / SET_ASIDE / "000002" / "tokens.npy").exists() and len(Collection.open(collection)) == 20


def test_repair_sets_a_damaged_ann_index_aside(with_ann):
    flip(ann_folder(with_ann) / "000001.faiss", 3)
    assert any("000001.faiss" in fault and "optimize" in fault for fault in verify(with_ann).faults)
    with CollectionWriter(with_ann, BINDING, repair=True) as writer:
        assert writer.manifest.ann is None and any("optimize" in note for note in writer.notes)
    assert (with_ann / SET_ASIDE / "000001.faiss").exists() and verify(with_ann).faults == ()


def test_an_older_backup_copied_over_a_collection_costs_nothing(collection, tmp_path):
    shutil.copytree(collection, tmp_path / "backup")
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 5, folder="/newer"), dead=[3])
    newer = contents(collection)
    shutil.copytree(tmp_path / "backup", collection, dirs_exist_ok=True)
    with CollectionWriter(collection, BINDING) as writer:
        assert any("older commit" in note for note in writer.notes)
    assert contents(collection) == newer and verify(collection).faults == ()


def test_a_manifest_in_force_that_is_not_whole_is_not_replaced_by_an_older_one(collection):
    older = (collection / current_name(collection)).read_bytes()
    name = current_name(collection)
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 5, folder="/newer"))
        next_id = writer.manifest.next_id
    newer = contents(collection)
    (collection / name).write_bytes(older)
    flip(collection / current_name(collection))
    with pytest.raises(CrosslookError, match="--repair"):
        CollectionWriter(collection, BINDING)
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        assert writer.manifest.next_id >= next_id + SKIPPED_IDS - 1
    assert contents(collection) == newer


def test_no_id_is_given_twice_after_a_fallback_or_a_rebuild(collection):
    (collection / CURRENT).unlink()
    with CollectionWriter(collection, BINDING) as writer:
        assert writer.manifest.next_id >= 37 + SKIPPED_IDS
        lose_manifest(collection)
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        assert writer.manifest.next_id >= 37 + SKIPPED_IDS


def test_a_rebuilt_manifest_has_the_newest_deletions(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1])
        writer.commit(dead=[2])
    assert len(list(segment_folder(collection, 1).glob("dead-*.npy"))) == 2
    (collection / current_name(collection)).write_bytes(b"")
    CollectionWriter(collection, BINDING, repair=True).close()
    assert len(Collection.open(collection)) == 28


def test_deletions_that_no_commit_named_do_not_count(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1])
    (vector,) = segment_folder(collection, 1).glob("dead-*.npy")
    np.save(vector.with_name("dead-000099.npy"), np.array([[0, 0], [1, 0], [2, 0]], np.uint32))
    (collection / current_name(collection)).write_bytes(b"")
    CollectionWriter(collection, BINDING, repair=True).close()
    assert len(Collection.open(collection)) == 29


@pytest.mark.parametrize("name", ["embeddings.npy", "tokens.npy"])
def test_an_interrupted_first_run_takes_no_damage_over(tmp_path, name):
    path = tmp_path / "c"
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(make_batch(1, 3))
    lose_manifest(path)
    (path / CURRENT).unlink()
    flip(segment_folder(path, 1) / name)
    with CollectionWriter(path, BINDING) as writer:
        assert len(writer.collection) == 0
    assert (path / SET_ASIDE / "000001" / name).exists()


def test_a_flipped_byte_among_the_values_of_a_table_is_seen_when_it_is_read(tmp_path):
    with CollectionWriter(tmp_path, BINDING) as writer:
        writer.commit(make_batch(1, 1000))
    file = segment_folder(tmp_path, 1) / "rows.parquet"
    flip(file, pq.read_metadata(file).row_group(0).column(1).data_page_offset + 100)
    with pytest.raises(DamagedSegmentError):
        Collection.open(tmp_path).table(["path"])


def test_segments_of_the_first_format_are_rebuilt_beside_newer_ones(tmp_path):
    path = tmp_path / "c"
    shutil.copytree(GOLDEN, path)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 2, folder="/new"))
    before = contents(path)
    lose_manifest(path)
    with CollectionWriter(path, BINDING, repair=True) as writer:
        assert writer.dropped == 0
    assert contents(path) == before and verify(path).faults == ()


@pytest.mark.parametrize("left", [200, 300, 400])
def test_the_beginning_of_a_manifest_of_the_first_format_is_enough(tmp_path, left):
    path = tmp_path / "c"
    shutil.copytree(GOLDEN, path)
    before = contents(path)
    manifest = path / current_name(path)
    manifest.write_bytes(manifest.read_bytes()[:left])
    assert current_binding(path) == BINDING
    with CollectionWriter(path, BINDING, repair=True) as writer:
        assert len(writer.manifest.segments) == 2
    ids = [row[0] for row in contents(path)]
    assert set(ids) >= {row[0] for row in before}  # what was dead was in the manifest, and comes back


def test_folders_and_excludes_are_found_in_the_segments_and_the_note_says_so(tmp_path):
    path = tmp_path / "c"
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(folders=("/photos",), excludes=("private/",))
        writer.commit(make_batch(1, 3))
    (path / current_name(path)).write_bytes(b"")
    with CollectionWriter(path, BINDING, repair=True) as writer:
        assert writer.manifest.folders == ("/photos",) and writer.manifest.excludes == ("private/",)
        assert any("private/" in note and "status" in note for note in writer.notes)


@pytest.mark.parametrize("also_manifest", [False, True])
def test_what_was_removed_with_its_folder_stays_removed_though_its_deletions_are_lost(tmp_path, also_manifest):
    path = tmp_path / "c"
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(folders=("/photos", "/others"))
        writer.commit(make_batch(1, 4, folder="/photos"))
        writer.commit(make_batch(5, 4, folder="/others"))
        writer.commit(removed=[5, 6, 7, 8], folders=("/photos",))
        writer.commit(make_batch(9, 1, folder="/photos"))
    for vector in path.glob("segments/*/dead-*.npy"):
        vector.write_bytes(b"rubbish")
    if also_manifest:
        (path / current_name(path)).write_bytes(b"")
    with CollectionWriter(path, BINDING, repair=True) as writer:
        assert len(writer.collection) == 5
        assert writer.notes


def test_a_required_feature_is_not_lost_with_the_manifest(collection, monkeypatch):
    manifest = manifest_of(collection)
    put_in_force(collection, replace(manifest.next(), features=Features(required=("sparkle",))))
    with monkeypatch.context() as patch:
        patch.setattr(manifest_file, "FEATURES", frozenset({"sparkle"}))
        with CollectionWriter(collection, BINDING) as writer:
            writer.commit(make_batch(writer.manifest.next_id, 1))
    lose_manifest(collection)
    with pytest.raises(CrosslookError, match=r"needs sparkle, .* upgrade"):
        CollectionWriter(collection, BINDING, repair=True)


def test_a_feature_that_writers_must_know_is_no_hindrance_to_readers(collection):
    manifest = manifest_of(collection)
    put_in_force(collection, replace(manifest.next(), features=Features(required_to_write=("sparkle",))))
    assert len(Collection.open(collection)) == 30
    flip(segment_folder(collection, 2) / "tokens.npy")
    before = (collection / CURRENT).read_bytes()
    for repair in (False, True):
        with pytest.raises(CrosslookError, match=r"needs sparkle, .* upgrade"):
            CollectionWriter(collection, BINDING, repair=repair)
    assert (collection / CURRENT).read_bytes() == before and not (collection / SET_ASIDE).exists()


def test_features_of_a_kind_that_is_not_known_are_kept(collection):
    manifest = manifest_of(collection)
    later = Features(optional=("a",), extra={"recommended": ["b"]})
    put_in_force(collection, replace(manifest.next(), features=later))
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1])
    content = json.loads((collection / current_name(collection)).read_text())
    assert content["features"]["recommended"] == ["b"] and content["features"]["optional"] == ["a"]


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "segments/.nfs0001", "notes.txt"])
def test_a_collection_without_its_pointer_is_one_whatever_lies_in_it(collection, name):
    (collection / name).write_bytes(b"x")
    (collection / CURRENT).unlink()
    before = contents(collection)
    CollectionWriter(collection, BINDING).close()
    assert contents(collection) == before and (collection / name).exists()


@pytest.mark.parametrize("version", ["[]", "{}", "null", "2.5", '"2"', "true", "-1"])
def test_a_format_that_is_no_number_is_one_clear_line(collection, version):
    (collection / current_name(collection)).write_text(f'{{"format": {version}}}')
    with pytest.raises(CrosslookError, match=r"^[^\n]+$"):
        Collection.open(collection)


def test_verify_says_that_the_pointer_is_missing(collection):
    (collection / CURRENT).unlink()
    (fault,) = verify(collection).faults
    assert "CURRENT" in fault and "missing" in fault


def test_a_segment_is_opened_for_no_less_than_it_holds(collection):
    """What is rebuilt is compared with the files themselves."""
    rebuilt = rebuild(collection)
    assert rebuilt is not None and rebuilt.useless == ()
    for entry in rebuilt.manifest.segments:
        segment = Segment(segment_folder(collection, entry.number), entry, BINDING)
        assert len(segment.table()) == entry.rows and len(segment.failures()) == entry.failures
