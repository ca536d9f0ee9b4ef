"""A reservation is written once, by one process, with its own ids: what else may happen, and what is adopted then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.deletions import Deletions
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.manifest import DEAD, SegmentEntry
from indexes.numbering import RowId
from indexes.paths import segment_folder, segment_number, segments_folder
from indexes.rows import Failure, Row, failures_table, rows_table
from indexes.segment_files import Batch, Reservation, write_own_segment, write_segment
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.contents import contents

WRITTEN_ALREADY = r"^segment 4 is written already, by an earlier try or by another process: reserve anew$"
EYE = np.eye(8, dtype=np.float32)


def segment_names(path: Path) -> list[str]:
    return sorted(place.name for place in segments_folder(path).iterdir())


def batch_of(ids: Sequence[RowId], failure_ids: Sequence[RowId] = ()) -> Batch:
    rows = [Row(row, f"/p/{at}-{row}.jpg".encode(), 1, 1, bytes(16), 4, 3, None) for at, row in enumerate(ids)]
    failures = [Failure(row, f"/p/bad{row}.jpg".encode(), 1, 2, 3, 0, "is damaged") for row in failure_ids]
    regions = np.zeros((len(rows), 2, 3), np.float16)
    return Batch(rows_table(rows), failures_table(failures), [EYE[np.arange(len(rows)) % 8]], [regions])


def test_two_processes_on_one_reservation_never_mix_their_files(collection: Path) -> None:
    """The second one writes from beginning to end while the first is between its embeddings and its regions."""
    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(8)
        batch = batch_of(reservation.ids)
        entries: list[SegmentEntry] = []

        def blocks() -> Iterator[NDArray[Any]]:
            entries.append(write_segment(collection, replace(batch, embeddings=[EYE[::-1]]), reservation))
            yield np.zeros((8, 2, 3))

        with pytest.raises(CrosslookError, match=WRITTEN_ALREADY):
            write_segment(collection, replace(batch, regions=blocks()), reservation)
        assert segment_names(collection) == ["000001", "000002", "000003", "000004"]
        writer.adopt(entries)
    embeddings = Collection.open(collection).segments[-1].embeddings.mapped
    np.testing.assert_array_equal(embeddings, EYE[::-1].astype(np.float16))
    assert verify(collection).faults == ()


def test_a_draft_that_a_killed_process_left_is_in_nobodys_way(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> Iterator[NDArray[Any]]:
        raise RuntimeError
        yield

    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(8)
        batch = batch_of(reservation.ids)
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr("indexes.segment_files.shutil.rmtree", lambda *arguments, **options: None)
            write_segment(collection, replace(batch, regions=killed()), reservation)
        drafts = segment_names(collection)[3:]
        assert [segment_number(name) for name in drafts] == [4] and drafts[0].endswith(".new")
        writer.drop_ann()  # cleans up, and leaves what is reserved
        assert segment_names(collection)[3:] == drafts
        writer.adopt([write_segment(collection, batch, reservation)])
        assert len(segment_names(collection)) == 5
    with CollectionWriter(collection, BINDING):
        assert segment_names(collection) == ["000001", "000002", "000003", "000004"]
    assert verify(collection).faults == ()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("000007", 7),
        ("1234567", 1234567),
        ("000007.new", 7),  # of earlier versions
        ("000007-0123456789abcdef.new", 7),
        ("000007-0123456789abcdef", None),
        ("000007-mine.new", None),
        ("7", None),
        ("000007.old", None),
        ("notes", None),
    ],
)
def test_folders_of_segments_are_known_by_their_names(name: str, number: int | None) -> None:
    assert segment_number(name) == number


def test_drafts_of_earlier_versions_and_of_this_one_are_removed_and_other_names_stay(collection: Path) -> None:
    for name in ("000009.new", "000003-0123456789abcdef.new", "notes.new"):
        (segments_folder(collection) / name).mkdir()
    CollectionWriter(collection, BINDING).close()
    assert segment_names(collection) == ["000001", "000002", "000003", "notes.new"]


def test_a_first_run_that_left_only_a_draft_is_begun_anew(tmp_path: Path) -> None:
    draft = tmp_path / "c" / "segments" / "000001-0123456789abcdef.new"
    draft.mkdir(parents=True)
    (draft / "embeddings.npy").touch()
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(make_batch(1, 3))
    assert segment_names(tmp_path / "c") == ["000001"]


def test_a_retry_says_that_the_segment_is_written_already(collection: Path) -> None:
    """The first answer was lost. What was written stays as it is, and can be adopted."""
    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(8)
        entry = write_segment(collection, batch_of(reservation.ids), reservation)
        unread = iter([EYE])
        with pytest.raises(CrosslookError, match=WRITTEN_ALREADY):
            write_segment(collection, replace(batch_of(reservation.ids), embeddings=unread), reservation)
        assert len(list(unread)) == 1, "it is said before anything is written"
        writer.adopt([entry])
    assert verify(collection).faults == () and len(segment_names(collection)) == 4


@pytest.mark.parametrize("act", ["commit", "merge"])
def test_a_commit_goes_on_over_what_a_process_of_an_ended_writer_left(collection: Path, act: str) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        late = writer.reserve(10)
    with CollectionWriter(collection, BINDING) as writer:
        write_segment(collection, make_batch(late.first_id, 8, seed=9), late)
        before = contents(collection)
        if act == "commit":
            writer.commit(make_batch(writer.next_id, 8))
            assert contents(collection)[:-8] == before
        else:
            writer.merge(everything=True)
            assert contents(collection) == before
        assert f"{late.number:06d}" in segment_names(collection)
        assert not any(name.endswith(".new") for name in segment_names(collection))
        with pytest.raises(CrosslookError, match=WRITTEN_ALREADY):
            write_segment(collection, make_batch(late.first_id, 8, seed=9), late)
    assert verify(collection).faults == ()


def test_a_process_whose_draft_the_next_writer_removed_says_so(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        late = writer.reserve(8)

    def blocks() -> Iterator[NDArray[Any]]:
        CollectionWriter(collection, BINDING).close()
        yield np.zeros((8, 2, 3))

    with pytest.raises(CrosslookError, match="^segment 4 was given up before it was written: reserve anew$"):
        write_segment(collection, replace(batch_of(late.ids), regions=blocks()), late)
    assert segment_names(collection) == ["000001", "000002", "000003"] and verify(collection).faults == ()


WRONG_IDS: dict[str, tuple[Callable[[int], Batch], str]] = {
    "repeated": (lambda first: batch_of([first, first + 3, first + 3, first + 9]), "do not ascend"),
    "descending": (lambda first: batch_of([first, first + 5, first + 3, first + 9]), "do not ascend"),
    "failures": (lambda first: batch_of([first], [first + 3, first + 2]), "do not ascend"),
    "row and failure": (lambda first: batch_of([first, first + 1, first + 2], [first + 1]), "the same id"),
    "one too many": (lambda first: batch_of(range(first, first + 11)), "reserved were 37 to 46"),
    "a failure too many": (lambda first: batch_of(range(first, first + 10), [first + 10]), "has the ids 37 to 47"),
    "one before": (lambda first: batch_of(range(first - 1, first + 3)), "has the ids 36 to 39"),
    "in the middle beyond": (lambda first: batch_of([first, first + 100, first + 5]), "reserved were 37 to 46"),
    "none": (lambda first: batch_of([]), "it is empty"),
}


@pytest.mark.parametrize("case", WRONG_IDS)
def test_ids_that_are_not_those_reserved_are_refused_before_anything_is_written(collection: Path, case: str) -> None:
    make, reason = WRONG_IDS[case]
    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(10)
        with pytest.raises(ValueError, match=f"the batch for segment 4 does not fit: .*{reason}"):
            write_segment(collection, make(reservation.first_id), reservation)
        assert len(segment_names(collection)) == 3
        writer.adopt([write_segment(collection, batch_of(reservation.ids), reservation)])


@pytest.mark.parametrize("case", WRONG_IDS)
def test_a_segment_with_ids_that_are_not_those_reserved_is_not_adopted(collection: Path, case: str) -> None:
    """Written by something that does not check."""
    make, reason = WRONG_IDS[case]
    with CollectionWriter(collection, BINDING) as writer:
        manifest, reservation = writer.manifest, writer.reserve(10)
        entry = write_own_segment(collection, make(reservation.first_id), reservation)
        with pytest.raises(ValueError, match=reason):
            writer.adopt([entry])
        assert writer.manifest == manifest
        writer.commit(make_batch(writer.next_id, 2))


def test_ids_may_have_gaps_and_failures_between_rows(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(10)
        first = reservation.first_id
        batch = batch_of([first, first + 2, first + 9], [first + 1, first + 8])
        writer.adopt([write_segment(collection, batch, reservation)])
    assert verify(collection).faults == ()
    assert Collection.open(collection).segments[-1].ids.tolist() == [first, first + 2, first + 9]


def changed_part(name: str, **changes: Any) -> Callable[[SegmentEntry], SegmentEntry]:
    return lambda entry: replace(entry, parts={**entry.parts, name: replace(entry.parts[name], **changes)})


def without_part(name: str) -> Callable[[SegmentEntry], SegmentEntry]:
    return lambda entry: replace(entry, parts={key: part for key, part in entry.parts.items() if key != name})


@pytest.mark.parametrize("name", ["embeddings", "tokens", "failures", "rows", "dead"])
@pytest.mark.parametrize(
    "change",
    [
        lambda name: changed_part(name, checksum="crc32:00000000"),
        lambda name: changed_part(name, checksum=None),
        lambda name: without_part(name),
    ],
    ids=["another checksum", "no checksum", "no part"],
)
def test_an_entry_that_does_not_describe_its_files_is_not_adopted(
    collection: Path, name: str, change: Callable[[str], Callable[[SegmentEntry], SegmentEntry]]
) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        manifest, reservation = writer.manifest, writer.reserve(10)
        deletions = Deletions(np.array([1, 4]), np.array([True, False]))
        batch = replace(batch_of(reservation.ids[:8], reservation.ids[8:]), deletions=deletions)
        entry = write_segment(collection, batch, reservation)
        assert DEAD in entry.parts
        with pytest.raises(DamagedSegmentError, match=name):
            writer.adopt([change(name)(entry)])
        assert writer.manifest == manifest
        writer.adopt([entry])
        assert len(writer.collection) == 36
    assert verify(collection).faults == ()


@pytest.mark.parametrize("change", [{"failures": 0}, {"dead": 1}, {"removed": 1}, {"dead": 0, "removed": 0}])
def test_an_entry_with_other_counts_is_not_adopted(collection: Path, change: dict[str, Any]) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(10)
        deletions = Deletions(np.array([1, 4]), np.array([True, True]))
        batch = replace(batch_of(reservation.ids[:8], reservation.ids[8:]), deletions=deletions)
        entry = write_segment(collection, batch, reservation)
        with pytest.raises(DamagedSegmentError, match="other counts|deletion vector|does not belong"):
            writer.adopt([replace(entry, **change)])
        writer.adopt([entry])
    assert verify(collection).faults == ()


def test_a_segment_is_known_by_its_own_number(collection: Path) -> None:
    """Written for one reservation and copied to the place of another with the same ids."""
    with CollectionWriter(collection, BINDING) as writer:
        first, second = writer.reserve(10), writer.reserve(10)
        wrong = replace(first, first_id=second.first_id)
        entry = write_segment(collection, batch_of(wrong.ids), wrong)
        segment_folder(collection, first.number).rename(segment_folder(collection, second.number))
        with pytest.raises(ValueError, match="not written for this collection"):
            writer.adopt([replace(entry, number=second.number)])


def test_two_processes_that_write_at_the_same_time_leave_one_segment(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        reservation = writer.reserve(8)
        barrier, entries, errors = threading.Barrier(4), [], []

        def write(reservation: Reservation) -> None:
            def blocks() -> Iterator[NDArray[Any]]:
                barrier.wait()
                yield np.zeros((8, 2, 3))

            try:
                batch = replace(batch_of(reservation.ids), regions=blocks())
                entries.append(write_segment(collection, batch, reservation))
            except CrosslookError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=write, args=(reservation,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(entries) == 1 and len(errors) == 3 and len(set(errors)) == 1
        assert len(segment_names(collection)) == 4
        writer.adopt(entries)
    assert verify(collection).faults == ()
