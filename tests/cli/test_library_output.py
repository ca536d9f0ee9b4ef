"""Messages that libraries write to stderr themselves."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

import pytest

from cli.process import streams
from cli.show.output import note
from tests.cli.running import FAKE_MODEL, ROOT, script_command
from tests.support import write_photos

# The folder holds a file that is no image, so that a run prints a line before its end.


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no")
    return tmp_path / "photos"


NOISY = f"""{FAKE_MODEL}
import retrieval.indexing.reading as reading
real = reading.decode
def decode(*arguments):
    os.write(2, b"TIFFReadDirectory: Warning, unknown field\\n")
    print("a library's own line", file=sys.stderr)
    return real(*arguments)
reading.decode = decode
"""


def test_lines_of_libraries_do_not_come_between_those_of_a_run(search_after, photos, tmp_path):
    run = search_after(NOISY, "index", photos, "-i", tmp_path / "c")
    assert run.returncode == 0
    assert "TIFF" not in run.stderr and "library" not in run.stderr
    assert f"skipped {photos}/bad.jpg" in run.stderr and "6 new, 1 failed" in run.stderr


def test_lines_of_libraries_are_shown_to_who_looks_for_a_fault(search_after, photos, tmp_path):
    run = search_after(NOISY, "index", photos, "-i", tmp_path / "c", env={"CROSSLOOK_DEBUG": "1"})
    assert run.returncode == 0
    assert "TIFF" in run.stderr and "library" in run.stderr


def test_a_bar_on_a_terminal_has_chatter_above_it_and_no_lines_of_libraries(photos, tmp_path):
    ours, theirs = os.openpty()
    command = script_command(NOISY, "index", photos, "-i", tmp_path / "c")
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT) as process:
        os.close(theirs)
        text = b"".join(until_closed(ours)).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "TIFF" not in text and "library" not in text
    assert f"skipped {photos}/bad.jpg" in text and "6 new, 1 failed" in text
    assert text.index("\033[?25l") < text.rindex("\033[?25h"), "the cursor is shown again"


def until_closed(terminal):
    with suppress(OSError):  # as Linux tells that the other end is closed
        while content := os.read(terminal, 4096):
            yield content


def test_what_is_dropped_is_so_only_for_a_while(capfd, monkeypatch):
    monkeypatch.setattr("faulthandler.is_enabled", lambda: False)  # pytest enables it
    stream = os.fdopen(os.dup(2), "w")
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(streams, "STDERR", stream.fileno())
    with streams.without_library_output():
        os.write(stream.fileno(), b"dropped\n")
        note("chatter")
    os.write(stream.fileno(), b"kept\n")
    note("more chatter")
    assert capfd.readouterr().err == "chatter\nkept\nmore chatter\n"
