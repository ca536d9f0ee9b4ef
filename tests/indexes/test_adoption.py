"""Segments that another process writes with reserved ids, and one commit publishes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from indexes.checksums import file_checksum
from indexes.collection import Collection
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.manifest import AnnEntry, Manifest, SegmentEntry
from indexes.paths import segment_folder, segments_folder
from indexes.segment_files import Reservation, write_segment
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.contents import contents, removed_rows


def write(folder: Path, reservation: Reservation, rows: int = 8, failures: int = 2) -> SegmentEntry:
    """What another process does: all that it needs is in the reservation."""
    return write_segment(folder, make_batch(reservation.first_id, rows, failures=failures), reservation)


def write_elsewhere(folder: Path, reservations: list[Reservation]) -> list[SegmentEntry]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        return list(processes.map(write, [folder] * len(reservations), reservations))


def segment_names(path: Path) -> list[str]:
    return sorted(path.name for path in segments_folder(path).iterdir())


def failures(path: Path) -> list[dict[str, Any]]:
    return Collection.open(path).failures().to_pylist()


def test_segments_of_other_processes_are_the_same_as_commits(collection: Path, tmp_path: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        before, generation = contents(collection), writer.manifest.generation
        entries = write_elsewhere(collection, [writer.reserve(10), writer.reserve(10)])
        assert contents(collection) == before  # no reader sees them yet
        manifest = writer.adopt(entries, removed=[2], folders=("/photos", "/more"))
        assert manifest.generation == generation + 1 and manifest.folders == ("/photos", "/more")
    for entry in manifest.segments[-2:]:
        for part in entry.parts.values():
            assert (part.bytes, part.checksum) == file_checksum(segment_folder(collection, entry.number) / part.file)
    assert verify(collection).faults == () and verify(collection).unchecked == 0
    assert removed_rows(Collection.open(collection), ["id"])["id"].to_pylist() == [2]

    ordinary = tmp_path / "ordinary"
    with CollectionWriter(ordinary, BINDING) as writer:
        for rows in (10, 10, 10):
            writer.commit(make_batch(writer.manifest.next_id, rows, failures=2))
        for _ in range(2):
            writer.commit(make_batch(writer.manifest.next_id, 8, failures=2))
        writer.commit(removed=[2])
        assert writer.manifest.next_id == manifest.next_id
    assert contents(collection) == contents(ordinary) and failures(collection) == failures(ordinary)
    with CollectionWriter(collection, BINDING) as writer:
        writer.merge(everything=True)
    with CollectionWriter(ordinary, BINDING) as writer:
        writer.merge(everything=True)
    assert contents(collection) == contents(ordinary)


def test_a_reservation_that_is_not_adopted_costs_its_ids_and_leaves_no_trace(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        names, before, first = segment_names(collection), contents(collection), writer.next_id
        reservation = writer.reserve(10)
        assert (reservation.first_id, writer.next_id) == (first, first + 10)
        write(collection, reservation)
        writer.commit(make_batch(writer.next_id, 1))
        assert reservation.number not in {entry.number for entry in writer.manifest.segments}
    with CollectionWriter(collection, BINDING) as writer:
        assert writer.next_id == first + 11
        assert len(segment_names(collection)) == len(names) + 1
        assert f"{reservation.number:06d}" not in segment_names(collection)
    assert contents(collection)[:-1] == before and verify(collection).faults == ()


def test_a_released_reservation_is_removed_by_the_next_clean_up(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        released, kept = writer.reserve(10), writer.reserve(10)
        write(collection, released)
        entry = write(collection, kept)
        writer.release(released)
        with pytest.raises(ValueError, match="adopted or released"):
            writer.merge()
        writer.adopt([entry])
        writer.merge(everything=True)
        assert len(segment_names(collection)) == 1 and len(writer.collection) == 38


def test_what_is_reserved_is_in_nobodys_way(collection: Path) -> None:
    """Commits go on meanwhile; what is adopted later stands where its ids belong."""
    with CollectionWriter(collection, BINDING) as writer:
        reservations = [writer.reserve(10) for _ in range(3)]
        entries = [write(collection, reservation) for reservation in reservations]
        writer.commit(make_batch(writer.next_id, 5), dead=[1])
        writer.drop_ann()  # cleans up, and leaves what is reserved
        writer.adopt([entries[2], entries[0]])
        writer.adopt([entries[1]])
        ids = [row for segment in writer.collection.segments for row in segment.ids.tolist()]
        assert ids == sorted(ids) and len(set(ids)) == len(ids) == 30 + 5 + 24
        assert writer.collection.positions(writer.collection.segments[4].ids).min() >= 0
    assert verify(collection).faults == ()


def test_an_index_and_merges_wait_for_what_is_reserved(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(1)
        for act in (lambda: writer.merge(), lambda: writer.put_ann(lambda file: AnnEntry())):
            with pytest.raises(ValueError, match="adopted or released first"):
                act()
        writer.release(reservation)
        assert writer.merge(everything=True) == 2


def test_a_batch_with_reserved_ids_is_refused(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(10)
        with pytest.raises(ValueError, match="is reserved"):
            writer.commit(make_batch(reservation.first_id, 3))
        writer.commit(make_batch(writer.next_id, 3))


def other_binding(reservation: Reservation) -> Reservation:
    binding = replace(BINDING, fingerprint="0" * 16)
    return replace(reservation, manifest=replace(reservation.manifest, binding=binding))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_binding, "not written for this collection"),
        (lambda reservation: replace(reservation, first_id=1), "has the ids 1 to 10, reserved were"),
        (lambda reservation: replace(reservation, first_id=reservation.first_id + 5), "reserved were"),
        (lambda reservation: replace(reservation, number=99), "segment 99 is not reserved"),
    ],
    ids=["binding", "before", "beyond", "number"],
)
def test_what_was_written_for_something_else_is_not_adopted(collection: Path, change: Any, reason: str) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        manifest = writer.manifest
        entry = write(collection, change(writer.reserve(10)))
        with pytest.raises(ValueError, match=reason):
            writer.adopt([entry])
        assert writer.manifest == manifest
        writer.commit(make_batch(writer.next_id, 1))  # and the writer goes on
    assert len(Collection.open(collection)) == 31


@pytest.mark.parametrize("name", ["embeddings.npy", "tokens.npy", "rows.parquet", "failures.parquet"])
@pytest.mark.parametrize("damage", ["truncated", "longer", "missing"])
def test_a_damaged_segment_is_not_adopted(collection: Path, name: str, damage: str) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        manifest, reservation = writer.manifest, writer.reserve(10)
        entry = write(collection, reservation)
        file = segment_folder(collection, reservation.number) / name
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(content[:-1] if damage == "truncated" else content + b"x")
        with pytest.raises(DamagedSegmentError, match=name):
            writer.adopt([entry])
        assert writer.manifest == manifest
        file.write_bytes(content)
        writer.adopt([entry])
    assert verify(collection).faults == ()


def test_the_files_of_adopted_segments_are_admitted_before_they_are_opened(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        entries = [write(collection, writer.reserve(10)) for _ in range(2)]
        events: list[object] = []

        def refuse(*arguments: object) -> None:
            events.append("opened")
            raise ValueError("far enough")

        with monkeypatch.context() as patch:
            patch.setattr("indexes.writer.admit_segments", events.append)
            patch.setattr("indexes.writer.adoptable", refuse)
            with pytest.raises(ValueError, match="far enough"):
                writer.adopt(entries)
        assert events == [5, "opened"]
        writer.adopt(entries)


def test_a_segment_is_adopted_once(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        entry = write(collection, writer.reserve(10))
        with pytest.raises(ValueError, match="twice"):
            writer.adopt([entry, entry])
        writer.adopt([entry])
        with pytest.raises(ValueError, match="not reserved"):
            writer.adopt([entry])


def test_the_first_commit_can_be_of_adopted_segments(tmp_path: Path) -> None:
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.adopt([write(tmp_path / "c", writer.reserve(10))], folders=("/photos",))
    assert len(Collection.open(tmp_path / "c")) == 8 and verify(tmp_path / "c").faults == ()


def test_nothing_is_reserved_for_less_than_nothing(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer, pytest.raises(ValueError, match="-1"):
        writer.reserve(-1)


def test_a_segment_that_two_writers_write_is_one_of_theirs(collection: Path) -> None:
    """A process that goes on after its writer has ended meets the next one: it fails, and costs nothing."""
    with CollectionWriter(collection, BINDING) as writer:
        late = writer.reserve(10)
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.next_id, 4))
        before = contents(collection)
        with pytest.raises(CrosslookError, match=f"segment {late.number} is written already, .*: reserve anew$"):
            write(collection, late)
    assert contents(collection) == before and verify(collection).faults == ()


def test_a_failed_publication_ends_the_writer_and_loses_nothing(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(collection)
    with CollectionWriter(collection, BINDING) as writer:
        entry = write(collection, writer.reserve(10))

        def fail(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("indexes.writer.put_in_force", fail)
            with pytest.raises(CrosslookError, match="disk is full"):
                writer.adopt([entry])
        with pytest.raises(CrosslookError, match="run again"):
            writer.commit(dead=[1])
    assert contents(collection) == before
    CollectionWriter(collection, BINDING).close()
    assert len(segment_names(collection)) == 3


def test_a_kill_at_any_moment_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_while_adopting.py")
    run = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[0]) > 15, "moments at which the run was killed"


def test_a_reservation_names_its_ids() -> None:
    reservation = Reservation(3, 11, 4, Manifest(BINDING))
    assert list(reservation.ids) == [11, 12, 13, 14]
