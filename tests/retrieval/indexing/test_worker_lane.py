"""A run goes on by threads where worker processes cannot be started, or are of no use."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import pytest

from retrieval.indexing.files import File
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.reading import reader_of_files
from retrieval.indexing.worker_lane import Lane
from retrieval.progress import Observer
from tests.retrieval.indexing.workers import workers
from tests.support import PixelEncoder

PHOTOS = 40


@pytest.fixture
def encoder() -> PixelEncoder:
    return PixelEncoder()


@pytest.fixture(autouse=True)
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.indexing.workers.worker_count", lambda *arguments: 2)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")
def test_workers_that_end_whenever_they_answer_are_not_asked_for_ever(photos, path, encoder, monkeypatch):
    chunks: list[Any] = []

    class EndsAnswering(Connection):
        def recv(self) -> Any:
            answers = super().recv()
            if not isinstance(answers, int):  # the first message is the worker's process id
                chunks.append(answers)
                assert len(chunks) < 100
                raise EOFError
            return answers

    monkeypatch.setattr("retrieval.indexing.worker_lane.Connection", EndsAnswering)
    notes: list[str] = []
    progress = index_folders([photos], path, encoder, observer=Observer(note=notes.append))
    assert progress.new == 40 and not workers() and len(chunks) > 1
    assert len(notes) == 1 and notes[0].endswith("ended without a reason; threads read instead")


def test_a_path_that_is_no_text_stops_no_worker(photos, path, encoder, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    notes: list[str] = []
    assert index_folders([photos], path, encoder, observer=Observer(note=notes.append)).new == 40
    assert notes == []


@pytest.mark.parametrize("name", ["executable", "frozen", "path"])
def test_threads_read_and_say_so_where_no_interpreter_can_be_started(photos, path, encoder, monkeypatch, name):
    if name == "path":
        monkeypatch.setattr("subprocess.Popen", lambda *arguments, **options: 1 / 0)
    else:
        monkeypatch.setattr(sys, name, None if name == "executable" else True, raising=False)
    notes: list[str] = []
    assert index_folders([photos], path, encoder, observer=Observer(note=notes.append)).new == 40
    assert len(notes) == 1 and notes[0].startswith("threads decode, which is slower than worker processes: ")


@pytest.mark.parametrize("allowed", [0, 1, 5, 9, 11, 14])
def test_where_threads_are_limited_the_run_goes_on(photos, path, encoder, monkeypatch, allowed):
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if threading.active_count() > allowed:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert index_folders([photos], path, encoder).new == 40 and not workers()


def test_an_interrupt_while_workers_start_leaves_none(photos, path, encoder, monkeypatch):
    real = Lane.start
    started: list[Lane] = []

    def start(lane: Lane) -> None:
        if started:
            raise KeyboardInterrupt
        real(lane)
        started.append(lane)

    monkeypatch.setattr(Lane, "start", start)
    with pytest.raises(KeyboardInterrupt):
        index_folders([photos], path, encoder)
    assert len(started) == 1 and not workers()


def test_the_reading_of_a_large_file_is_told_piece_by_piece(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 10_000)
    pieces: list[int] = []
    file = File(os.fsencode(path), 0, 0, 0)
    assert reader_of_files(10**6, pieces.append)(file) == reader_of_files(10**6)(file)
    assert pieces == [0, 1, 2, 3]


SLOW = """
import builtins, time
real = builtins.open
class Slow:
    def __init__(self, file):
        self._file = file
    def read(self, size=-1):
        time.sleep({wait} if size == 1_000_000 else 0)
        return self._file.read(size)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self._file.close()
    def __getattr__(self, name):
        return getattr(self._file, name)
def slow(file, *arguments, **options):
    opened = real(file, *arguments, **options)
    return Slow(opened) if isinstance(file, bytes) and file.endswith(b"slow.png") else opened
builtins.open = slow
"""


@pytest.mark.parametrize(("wait", "outcome"), [(1.2, []), (60, ["cannot be read now: nothing arrived for 4 s"])])
def test_a_file_that_arrives_slowly_ends_no_worker(photos, path, encoder, monkeypatch, tmp_path, wait, outcome):
    """The file has four pieces and an end. A worker hangs if nothing changes for four seconds."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLOW.format(wait=wait))
    with (photos / "017.png").open("ab") as file:
        file.write(bytes(3_500_000))
    (photos / "017.png").rename(photos / "017 slow.png")
    monkeypatch.setattr("retrieval.indexing.worker_lane.SECONDS", 4.0)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    reasons: list[str] = []
    observer = Observer(failure=lambda path, reason: reasons.append(reason))
    assert index_folders([photos], path, encoder, observer=observer).new == 40 - len(outcome)
    assert reasons == outcome
