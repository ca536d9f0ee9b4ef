"""The format on disk can grow: earlier collections are read, and what later versions add is kept or refused by name."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexes.checksums import file_checksum
from indexes.collection import Collection
from indexes.commits import put_in_force
from indexes.errors import CrosslookError
from indexes.manifest import DEAD, AnnEntry, Manifest, PartEntry
from indexes.manifest_file import FORMAT, MIGRATIONS, from_bytes, keyed, to_bytes
from indexes.paths import segment_folder
from indexes.segment import Segment
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.contents import manifest_of

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(params=sorted(path.name for path in GOLDENS.iterdir()))
def golden(request, tmp_path):
    """A collection as a released version wrote it, and what it held then."""
    shutil.copytree(GOLDENS / request.param / "collection", tmp_path / "golden")
    return tmp_path / "golden", json.loads((GOLDENS / request.param / "expected.json").read_text())


def content_of(path):
    return json.loads((path / (path / "CURRENT").read_text().strip()).read_text())


def rewrite(path, change):
    """Change the JSON of the manifest in force as a later version could have written it."""
    content = content_of(path)
    content.pop("checksum")
    change(content)
    body = json.dumps(content).encode()[1:]
    name = (path / "CURRENT").read_text().strip()
    (path / name).write_bytes(b'{"checksum": "crc32:%08x", ' % zlib.crc32(body) + body)


def assert_holds(path, expected):
    collection = Collection.open(path)
    assert sorted(map(os.fsdecode, collection.table(["path"])["path"].to_pylist())) == expected["images"]
    assert [os.fsdecode(name) for name in collection.failures()["path"].to_pylist()] == expected["failures"]
    similarities, positions = collection.nearest(np.array(expected["queries"], np.float32), 4, exact=True)
    np.testing.assert_array_equal(similarities, np.array(expected["similarities"], np.float32))
    assert [[row.id for row in collection.rows(nearest)] for nearest in positions] == expected["ids"]


def test_there_is_a_golden_collection_of_every_format():
    assert {int(path.name.removeprefix("format-")) for path in GOLDENS.iterdir()} == {*MIGRATIONS, FORMAT}


def test_a_collection_of_every_released_format_is_read(golden):
    path, expected = golden
    assert_holds(path, expected)
    collection = Collection.open(path)
    for row, values in zip(collection.rows([0, 1, 2]), expected["rows"], strict=True):
        assert (row.id, os.fsdecode(row.path), row.size) == (values["id"], values["path"], values["size"])
        assert (row.mtime_ns, row.content_hash.hex()) == (values["mtime_ns"], values["content_hash"])
    assert collection.open_ann() is not None


def test_the_next_commit_writes_todays_format_and_keeps_everything(golden):
    path, expected = golden
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 2, folder="/new"))
    new = [f"/new/{number}.jpg" for number in range(writer.manifest.next_id - 2, writer.manifest.next_id)]
    assert content_of(path)["format"] == FORMAT
    assert "tombstones" not in content_of(path)
    collection = Collection.open(path)
    paths = sorted(map(os.fsdecode, collection.table(["path"])["path"].to_pylist()))
    assert paths == sorted([*expected["images"], *new])
    assert [os.fsdecode(name) for name in collection.failures()["path"].to_pylist()] == expected["failures"]
    assert verify(path).faults == ()


def test_merging_a_collection_of_an_earlier_format_changes_nothing_that_counts(golden):
    path, expected = golden
    with CollectionWriter(path, BINDING) as writer:
        writer.merge(everything=True)
    assert_holds(path, expected)
    verification = verify(path)
    ann = writer.manifest.ann
    assert verification.faults == () and verification.unchecked == (ann is not None and not ann.checksum)


def test_repair_gives_checksums_to_files_that_had_none(golden):
    path, expected = golden
    assert (verify(path).unchecked > 0) == (content_of(path)["format"] == 1)
    with CollectionWriter(path, BINDING, repair=True) as writer:
        assert writer.dropped == 0 and writer.notes == ()
    assert verify(path).unchecked == 0
    assert_holds(path, expected)


def test_reading_an_earlier_format_writes_nothing(golden):
    path, _ = golden
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    Collection.open(path).failures()
    verify(path)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_manifest_says_the_same_after_writing_and_reading():
    manifest = Manifest(
        BINDING,
        generation=7,
        folders=("/a", "/\udcff"),
        devices={"/a": ((1, "fsid 7"), (90, "")), "/\udcff": ((3, "?3"),)},
        passed_over={"/a": {".cr2": 3}},
        excludes=("*.tmp",),
    )
    assert from_bytes(to_bytes(manifest), Path("m")) == manifest


@pytest.mark.parametrize("devices", [None, [], 3, {"/a": 3}, {"/a": [3]}, {"/a": [[1]]}, {"/a": [["x", "y"]]}])
def test_devices_that_make_no_sense_tell_nothing_and_cost_nothing(collection, devices):
    def change(content):
        content["devices"] = {"/b": [[2, "x"]], **devices} if isinstance(devices, dict) else devices

    rewrite(collection, change)
    known = {"/b": ((2, "x"),)} if isinstance(devices, dict) else {}
    assert Collection.open(collection).manifest.devices == known


def test_devices_are_kept_by_commits_merges_and_readers(collection):
    devices = {"/a": ((1, "fsid 7"), (90, ""))}
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 1), devices=devices)
        writer.commit(make_batch(writer.manifest.next_id, 1))
        writer.merge(everything=True)
    assert Collection.open(collection).manifest.devices == devices


def test_keys_of_a_later_version_are_kept_by_the_next_commit(collection):
    def add(content):
        content["later"] = {"a": [1, 2]}
        content["binding"]["later"] = "b"
        content["segments"][1]["later"] = "s"
        content["segments"][1]["parts"]["rows"]["later"] = "p"

    rewrite(collection, add)
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 1))
    content = content_of(collection)
    assert content["later"] == {"a": [1, 2]} and content["binding"]["later"] == "b"
    assert content["segments"][1]["later"] == "s" and content["segments"][1]["parts"]["rows"]["later"] == "p"


def test_an_optional_feature_of_a_later_version_is_kept(collection):
    rewrite(collection, lambda content: content["features"]["optional"].append("sparkle"))
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 1))
    assert content_of(collection)["features"]["optional"] == ["sparkle"]


@pytest.mark.parametrize("use", [Collection.open, lambda path: CollectionWriter(path, BINDING, repair=True)])
def test_a_required_feature_of_a_later_version_is_refused_by_name(collection, use):
    rewrite(collection, lambda content: content["features"]["required"].append("sparkle"))
    before = content_of(collection)
    with pytest.raises(CrosslookError, match=r"needs sparkle, .* upgrade crosslook"):
        use(collection)
    assert content_of(collection) == before


@pytest.mark.parametrize("part", ["rows", "failures", "embeddings", "tokens", "dead"])
def test_a_part_of_a_later_format_is_refused_by_name(collection, part):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1])
    rewrite(collection, lambda content: content["segments"][0]["parts"][part].update(format=2))
    with pytest.raises(CrosslookError, match=f"format 2 of {part}, .* upgrade crosslook"):
        Collection.open(collection)


def add_part(path, number, name, content):
    """Give a segment a part of a later version."""
    folder = segment_folder(path, number)
    (folder / name).write_bytes(content)
    manifest = manifest_of(path)
    count, checksum = file_checksum(folder / name)
    part = PartEntry(name, bytes=count, checksum=checksum)
    entries = tuple(
        replace(entry, parts={**entry.parts, "words": part}) if entry.number == number else entry
        for entry in manifest.segments
    )
    put_in_force(path, manifest.next(segments=entries))


def test_a_part_of_a_later_version_survives_commits_and_merges(collection):
    add_part(collection, 2, "words.bin", b"what it says")
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[int(writer.collection.segments[1].ids[0])])
        writer.merge(everything=True)
    assert (segment_folder(collection, 2) / "words.bin").read_bytes() == b"what it says"
    assert content_of(collection)["segments"][1]["parts"]["words"]["file"] == "words.bin"
    assert len(Collection.open(collection)) == 29
    assert verify(collection).faults == ()


def test_a_damaged_part_of_a_later_version_is_found(collection):
    add_part(collection, 2, "words.bin", b"what it says")
    (segment_folder(collection, 2) / "words.bin").write_bytes(b"what it sayt")
    assert any("words.bin" in fault for fault in verify(collection).faults)


def with_table(path, number, change):
    """Write the rows of a segment anew, as another version would have."""
    file = segment_folder(path, number) / "rows.parquet"
    pq.write_table(change(pq.read_table(file)), file, row_group_size=1024)
    count, checksum = file_checksum(file)
    manifest = manifest_of(path)
    entries = tuple(
        replace(entry, parts={**entry.parts, "rows": replace(entry.parts["rows"], bytes=count, checksum=checksum)})
        if entry.number == number
        else entry
        for entry in manifest.segments
    )
    put_in_force(path, manifest.next(segments=entries))


def test_columns_of_a_later_version_survive_a_merge(collection):
    with_table(collection, 2, lambda table: table.append_column("stars", pa.array(range(len(table)), pa.int32())))
    with CollectionWriter(collection, BINDING) as writer:
        writer.merge(everything=True)
    (segment,) = Collection.open(collection).segments
    assert segment.table()["stars"].to_pylist() == [*[None] * 10, *range(10), *[None] * 10]
    assert Collection.open(collection).row(12).path == b"/photos/15.jpg"


def test_columns_that_an_earlier_version_did_not_have_take_their_defaults(collection):
    with_table(collection, 2, lambda table: table.drop_columns(["ctime_ns", "note"]))
    opened = Collection.open(collection)
    assert opened.row(12).ctime_ns == 0 and opened.row(12).note == ""
    assert opened.table(["ctime_ns"])["ctime_ns"].to_pylist() == [0] * 30
    with CollectionWriter(collection, BINDING) as writer:
        writer.merge(everything=True)
    assert Collection.open(collection).row(12).note == ""


def test_the_deletion_vector_is_a_part_with_a_checksum(collection):
    with CollectionWriter(collection, BINDING) as writer:
        manifest = writer.commit(dead=[2], removed=[4, 5])
    entry = manifest.segments[0]
    assert (entry.dead, entry.removed) == (3, 2)
    folder = segment_folder(collection, entry.number)
    assert (entry.parts[DEAD].bytes, entry.parts[DEAD].checksum) == file_checksum(folder / entry.parts[DEAD].file)
    segment = Segment(folder, entry, BINDING)
    assert segment.deletions.entries.tolist() == [1, 3, 4]
    assert segment.deletions.removed.tolist() == [False, True, True]


def test_a_commit_costs_no_more_for_a_million_that_died_before(collection):
    """The manifest is read by every query: what is dead must not be in it."""
    size = len(json.dumps(content_of(collection)))
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=range(1, 30))
    assert len(json.dumps(content_of(collection))) < size + 3 * 200


def test_a_key_on_disk_stays_where_a_field_has_another_name():
    ann = AnnEntry(number=3, nprobe=7, extra={"later": 1})
    content = json.loads(to_bytes(Manifest(BINDING, ann=ann)))["ann"]
    assert content["probes"] == 7 and content["later"] == 1 and "nprobe" not in content
    assert from_bytes(to_bytes(Manifest(BINDING, ann=ann)), Path("m")).ann == ann
    assert keyed(ann)["probes"] == 7 and keyed(ann)["extra"] == {"later": 1}
