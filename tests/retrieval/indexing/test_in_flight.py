"""Files that kill the process that decodes them: one run ends, and the next one names them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexes.leftovers import IN_FLIGHT
from retrieval.indexing.in_flight import SLOT, InFlight
from retrieval.indexing.pipeline import index_folders
from tests.retrieval.indexing.contents import failures, names
from tests.retrieval.indexing.killers import KILLER
from tests.support import write_photo, write_photos

PHOTOS = 6
INDEX = """
import sys
from pathlib import Path
from retrieval.indexing.pipeline import index_folders
from tests.support import FakeEncoder
progress = index_folders([sys.argv[1]], Path(sys.argv[2]), FakeEncoder())
print(progress.new, progress.failed, progress.unchanged, progress.still_failing)
"""


@pytest.fixture
def index_with_killers(photos, path, tmp_path):
    """Runs `index_folders` in a process whose PNG decoder kills it with the signal that a file names."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(root)])}

    def index(folder=photos):
        command = [sys.executable, "-c", INDEX, folder, path]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return index


def add_killer(path, number, seed=3):
    write_photo(path, seed=seed)
    with path.open("ab") as file:
        file.write(b"kills %d" % number)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE], ids=lambda number: number.name)
def test_a_file_that_kills_the_process_stops_one_run_and_is_named_by_the_next(photos, path, index_with_killers, number):
    add_killer(photos / "bad.png", number)
    assert index_with_killers().returncode == -number
    assert (path / IN_FLIGHT).exists()
    second = index_with_killers()
    assert second.stdout.split() == ["6", "1", "0", "0"], second.stderr
    assert failures(path) == {"bad.png": f"kills the process that decodes it ({number.name})"}
    assert index_with_killers().stdout.split() == ["0", "0", "6", "1"]
    assert not (path / IN_FLIGHT).exists()


def test_several_files_that_kill_the_process_are_named_one_after_the_other(photos, path, index_with_killers):
    """They lie apart from each other, within the images of one commit."""
    write_photos(photos, 60)
    for name in ("010", "025", "045"):
        add_killer(photos / f"{name}.png", signal.SIGSEGV, seed=int(name))
    runs = [index_with_killers().returncode for _ in range(5)]
    assert runs[-1] == 0 and -signal.SIGSEGV in runs
    assert set(failures(path)) == {"010.png", "025.png", "045.png"} and len(names(path)) == 57


def test_a_run_over_another_folder_forgets_no_suspect(photos, path, index_with_killers, tmp_path):
    add_killer(photos / "bad.png", signal.SIGSEGV)
    write_photos(tmp_path / "others", 3, first=90)
    assert index_with_killers().returncode == -signal.SIGSEGV
    assert index_with_killers(tmp_path / "others").returncode == 0
    assert index_with_killers().returncode == 0
    assert set(failures(path)) == {"bad.png"} and len(names(path)) == 9


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_process_ended_by_others_or_for_memory_is_no_verdict_on_the_file(
    photos, path, index_with_killers, encoder, number
):
    add_killer(photos / "good.png", number)
    (path).mkdir()
    name = os.fsencode(photos / "good.png")
    (path / IN_FLIGHT).write_bytes((len(name).to_bytes(4, "little") + name).ljust(SLOT, b"\0"))
    for _ in range(2):
        assert index_with_killers().returncode == 0
        assert failures(path) == {} and len(names(path)) == 6
    assert index_folders([photos], path, encoder).new == 1  # once nothing kills it
    assert not (path / IN_FLIGHT).exists()


def test_files_in_flight_of_a_run_that_was_killed_from_outside_are_indexed(photos, path, encoder):
    index_folders([photos], path, encoder)
    write_photos(photos, 2, first=30)
    suspects = [os.fsencode(photos / name) for name in ("030.png", "031.png")]
    slots = [len(name).to_bytes(4, "little") + name for name in suspects]
    (path / IN_FLIGHT).write_bytes(b"".join(slot.ljust(SLOT, b"\0") for slot in slots))
    assert InFlight(path, 1).suspects == frozenset(suspects)
    (path / IN_FLIGHT).write_bytes(b"".join(slot.ljust(SLOT, b"\0") for slot in slots))
    assert index_folders([photos], path, encoder).new == 2


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x05\0\0\0ab"], ids=["empty", "large", "short"])
def test_a_damaged_note_of_files_in_flight_is_in_nobodys_way(photos, path, encoder, content):
    index_folders([photos], path, encoder)
    (path / IN_FLIGHT).write_bytes(content)
    write_photos(photos, 1, first=40)
    assert index_folders([photos], path, encoder).new == 1
