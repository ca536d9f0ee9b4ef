"""Whatever ends worker processes, or keeps them from starting, costs no run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexes.errors import CrosslookError
from indexes.leftovers import IN_FLIGHT
from indexes.writer import CollectionWriter
from retrieval.indexing import pipeline
from retrieval.indexing.in_flight import InFlight
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.progress import Observer, Progress
from tests.retrieval.indexing.contents import failures, names
from tests.retrieval.indexing.killers import KILLER
from tests.retrieval.indexing.workers import workers
from tests.support import PixelEncoder, write_photo, write_photos

PHOTOS = 40
ROOT = Path(__file__).parents[3]


@pytest.fixture
def encoder() -> PixelEncoder:
    return PixelEncoder()


@pytest.fixture(autouse=True)
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.indexing.workers.worker_count", lambda *arguments: 2)


INDEX = """
import sys
from pathlib import Path
import retrieval.indexing.workers as indexing_workers
from retrieval.indexing import worker_lane
from retrieval.indexing.pipeline import index_folders
from retrieval.progress import Observer
from tests.retrieval.indexing.killers import KILLER
from tests.retrieval.indexing.workers import workers
from tests.support import PixelEncoder
indexing_workers.worker_count = lambda *arguments: 2
worker_lane.SECONDS = float(sys.argv[3])
tell = Observer(failure=lambda path, reason: print(path.decode().rpartition("/")[2], reason))
progress = index_folders([sys.argv[1]], Path(sys.argv[2]), PixelEncoder(), observer=tell)
print(progress.new, progress.failed, progress.postponed)
"""


@pytest.fixture
def index_with_killers(photos: Path, path: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs `index_folders` in a process of whose children the PNG decoder ends them with the signal that a file
    names. Returns the lines that it prints."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}

    def index(seconds: float = 60) -> list[str]:
        command = [sys.executable, "-c", INDEX, str(photos), str(path), str(seconds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.splitlines()

    return index


def add(path: Path, ending: bytes, seed: int = 3) -> None:
    write_photo(path, seed=seed)
    with path.open("ab") as file:
        file.write(ending)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
def test_a_file_that_kills_workers_is_a_failure_and_costs_no_other(photos, path, index_with_killers, number):
    add(photos / "017 bad.png", b"kills %d" % number)
    add(photos / "018 bad.png", b"kills %d" % number, seed=4)
    reason = f"kills the process that decodes it ({number.name})"
    assert index_with_killers() == [f"017 bad.png {reason}", f"018 bad.png {reason}", "40 2 0"]
    assert failures(path) == {"017 bad.png": reason, "018 bad.png": reason} and len(names(path)) == 40
    assert not (path / IN_FLIGHT).exists()


def test_a_worker_that_is_killed_for_memory_is_no_verdict_on_the_file(photos, path, index_with_killers):
    add(photos / "017 good.png", b"kills %d" % signal.SIGKILL)
    reason = "is killed while it is decoded, perhaps for want of memory"
    assert index_with_killers() == [f"017 good.png {reason}", "40 0 1"]
    assert failures(path) == {} and len(names(path)) == 40
    assert not (path / IN_FLIGHT).exists()


def test_a_worker_that_hangs_is_ended_and_the_file_is_tried_again_later(photos, path, index_with_killers):
    add(photos / "017 slow.png", b"hangs")
    assert index_with_killers(seconds=2) == ["017 slow.png takes longer than 2 s to decode", "40 0 1"]
    assert len(names(path)) == 40


class KillsWorkers(PixelEncoder):
    """Ends all workers in the middle of the run."""

    def encode_images(self, prepared: Any) -> Any:
        if self.encoded == 8:
            for pid in workers():
                os.kill(pid, signal.SIGKILL)
        return super().encode_images(prepared)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")
def test_workers_that_others_kill_are_replaced(photos, path):
    write_photos(photos, 200, first=100)
    progress = index_folders([photos], path, KillsWorkers())
    assert progress.new + progress.postponed == 240 and progress.failed == 0
    assert progress.postponed <= 2 and len(names(path)) == progress.new and not workers()


KILLED = """
import os, signal, sys
from pathlib import Path
import retrieval.indexing.workers as indexing_workers
from retrieval.indexing.pipeline import index_folders
from tests.retrieval.indexing.killers import KILLER
from tests.retrieval.indexing.workers import workers
from tests.retrieval.indexing.killers import KILLER
from tests.retrieval.indexing.workers import workers
from tests.support import PixelEncoder
indexing_workers.worker_count = lambda *arguments: 2
class Dies(PixelEncoder):
    def encode_images(self, prepared):
        if self.encoded >= 8:
            print(*workers(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_images(prepared)
index_folders([sys.argv[1]], Path(sys.argv[2]), Dies())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")
def test_a_run_that_is_killed_leaves_no_process_and_the_next_one_goes_on(photos, path, encoder):
    command = [sys.executable, "-c", KILLED, photos, path]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    pids = [int(pid) for pid in killed.stdout.split()[:2]]
    assert len(pids) == 2
    for pid in pids:
        wait_for_end(pid)
    assert index_folders([photos], path, encoder).failed == 0
    assert len(names(path)) == 40 and not (path / IN_FLIGHT).exists()


def wait_for_end(pid: int) -> None:
    while Path(f"/proc/{pid}").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":  # ended; whoever inherited it has not taken note yet
            return


def test_what_workers_decode_is_noted_in_case_the_run_is_killed(photos, path, encoder):
    path.mkdir()
    with InFlight(path, 1, 2) as in_flight:
        slot = in_flight.slot_of_worker(1)
        with slot.decoding(b"/a/photo.jpg"), InFlight(path, 1, 2) as later:
            assert later.suspects == {b"/a/photo.jpg"}


def test_a_suspect_is_not_given_to_a_worker(photos, path, index_with_killers):
    add(photos / "017 bad.png", b"kills %d" % signal.SIGSEGV)
    path.mkdir()
    with InFlight(path, 1) as in_flight, in_flight.decoding(os.fsencode(photos / "017 bad.png")):
        shutil.copy(path / IN_FLIGHT, path / "kept")
    shutil.move(path / "kept", path / IN_FLIGHT)
    assert index_with_killers()[-1] == "40 1 0"
    assert not (path / IN_FLIGHT).exists()


def refused(*arguments: Any, **options: Any) -> None:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_threads_read_where_no_process_can_be_started(photos, path, encoder, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", refused)
    assert index_folders([photos], path, encoder).new == 40


def test_one_worker_is_enough_where_no_second_can_be_started(photos, path, encoder, monkeypatch):
    real = subprocess.Popen
    started: list[Any] = []

    def popen(*arguments: Any, **options: Any) -> Any:
        if started:
            refused()
        started.append(real(*arguments, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)
    assert index_folders([photos], path, encoder).new == 40 and len(started) == 1


def test_threads_read_where_memory_cannot_be_shared(photos, path, encoder, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(subprocess, "Popen", refused)
    assert index_folders([photos], path, encoder).new == 40


def test_workers_that_cannot_work_leave_all_to_the_run(photos, path, encoder, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert index_folders([photos], path, encoder).new == 40


def test_names_that_are_no_files_are_read_by_threads(path, encoder, photos):
    images = [b"one", b"two", b"three", b"four", b"five"]
    contents = dict(zip(images, (file.read_bytes() for file in sorted(photos.iterdir())), strict=False))
    assert pipeline.index_images(images, contents.__getitem__, path, encoder).new == 5


def test_a_stop_commits_what_was_begun_and_leaves_no_process(photos, path):
    write_photos(photos, 200, first=100)
    seen: list[Progress] = []
    observer = Observer(progress=seen.append, should_stop=lambda: bool(seen) and seen[-1].new >= 8)
    stopped = index_folders([photos], path, PixelEncoder(), observer=observer)
    assert stopped.interrupted and 8 <= stopped.new < 240 and not workers()
    assert len(names(path)) == stopped.new
    assert index_folders([photos], path, PixelEncoder()).new == 240 - stopped.new


def test_an_error_of_the_encoder_ends_the_run_and_the_workers(photos, path):
    class Fails(PixelEncoder):
        def encode_images(self, prepared: Any) -> Any:
            if self.encoded >= 8:
                raise ValueError("no more")
            return super().encode_images(prepared)

    with pytest.raises(ValueError, match="no more"):
        index_folders([photos], path, Fails())
    assert not workers()


def test_a_full_disk_ends_the_run_and_the_workers(photos, path, encoder, monkeypatch):
    def commit(*arguments: Any, **options: Any) -> None:
        if len(arguments) > 1 and arguments[1] is not None:
            raise CrosslookError("the disk is full")

    monkeypatch.setattr(CollectionWriter, "commit", commit)
    with pytest.raises(CrosslookError, match="disk is full"):
        index_folders([photos], path, encoder, Settings(commit_rows=4))
    assert not workers()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Path]:
    """A program that has no guard around what it does."""
    path = tmp_path / "script.py"
    path.write_text("print('run')\n" + INDEX.replace("Observer(failure", "Observer(note=print, failure"))
    yield path


def test_a_script_without_a_guard_runs_once(script, photos, path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, photos, path, "60"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["run", "40 0 0"] and done.stderr == ""


def test_a_worker_imports_neither_torch_nor_a_runtime():
    program = "import sys, retrieval.indexing.worker; print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
