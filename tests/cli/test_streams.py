"""Standard streams that are closed or full, or whose other end is closed."""

from __future__ import annotations

import errno
import io

import pytest

from cli.show import progress, steps
from cli.show.output import note, write_file, write_line
from cli.show.page import write_results_page
from indexes.errors import CrosslookError
from retrieval.progress import Epoch, Progress, Step
from tests.cli.running import FAKE_MODEL
from tests.support import write_photos


class Broken(io.StringIO):
    """A terminal that cannot be written to."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.tries = 0

    def isatty(self):
        return True

    def write(self, text):
        self.tries += 1
        raise self.error


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {
    "nobody reads it": lambda: Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")),
    "it is full": lambda: Broken(OSError(errno.ENOSPC, "No space left on device")),
    "its terminal is gone": lambda: Broken(OSError(errno.EIO, "Input/output error")),
    "it would block": lambda: Broken(BlockingIOError(errno.EAGAIN, "busy")),
    "it is closed": closed,
    "there is none": lambda: None,
}
broken_streams = pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS.keys())


@broken_streams
def test_a_note_that_nobody_can_read_is_dropped(make, monkeypatch):
    monkeypatch.setattr("sys.stderr", make())
    note("a line")


def test_without_stderr_a_note_does_not_go_to_stdout(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)
    note("a line")
    assert capsys.readouterr().out == ""


@broken_streams
def test_a_progress_display_that_nobody_sees_ends_nothing(make, monkeypatch):
    monkeypatch.setattr("sys.stderr", make())
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0)
    with progress.progress_display() as display:
        display.progress(Progress(total=100, new=40, failed=10, seconds=5))
        display.failure(b"/photos/bad.jpg", "is damaged")
        display.progress(Progress(total=100, new=90, failed=10, seconds=9))


@broken_streams
def test_a_step_display_that_nobody_sees_ends_nothing(make, monkeypatch):
    monkeypatch.setattr("sys.stderr", make())
    monkeypatch.setattr(steps, "EVERY_SECONDS", 0)
    with steps.step_display() as observer:
        observer.note("training on 80 images")
        for done in (1, 2):
            observer.step(Step("heads, epoch 1 of 1", done, 2, {"itc": 2.0}))
        observer.step(Step("dev images through the towers", 1, 2))
        observer.epoch(Epoch("heads", 0, {"itc": 2.0}, {"text -> image": 0.1}))


def test_the_bar_is_written_to_the_stream_that_is_allowed_to_fail(monkeypatch):
    """Otherwise the tests above would show nothing."""
    stream = STREAMS["it is full"]()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress_display() as display:
        display.failure(b"/photos/bad.jpg", "is damaged")
    assert stream.tries > 0


def test_a_note_of_characters_that_stderr_does_not_know_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stderr", stream)
    note("日 is here")
    assert stream.buffer.getvalue() == b"\\u65e5 is here\n"


# Chatter of real runs. The folder holds a file that is no image, so that a run prints a line before its end.


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no")
    return tmp_path / "photos"


@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full", "<&- >&- 2>&-", "2>&1 | true; exit ${PIPESTATUS[0]}"])
def test_an_index_run_whose_stderr_takes_nothing_goes_on_to_its_end(search_after, photos, tmp_path, shell):
    run = search_after(FAKE_MODEL, "index", photos, "-i", tmp_path / "c", shell=shell)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    from retrieval.maintenance import status

    assert (status(tmp_path / "c").images, status(tmp_path / "c").failures) == (6, 1)


def test_an_index_run_goes_on_when_the_terminal_goes_that_showed_its_bar(search_after, photos, tmp_path):
    script = f"""{FAKE_MODEL}
import retrieval.indexing.reading as reading
ours, theirs = os.openpty()
os.dup2(theirs, 2)
os.close(theirs)
real = reading.decode
terminals = [ours]
def decode(*arguments):
    try:
        os.close(terminals.pop())
    except IndexError:  # several threads decode: the first has closed it
        pass
    return real(*arguments)
reading.decode = decode
"""
    run = search_after(script, "index", photos, "-i", tmp_path / "c", env={"TERM": "xterm"})
    assert (run.returncode, run.stdout) == (0, "")
    from retrieval.maintenance import status

    assert status(tmp_path / "c").images == 6


def test_a_closed_stream_is_not_given_to_a_file_into_which_libraries_would_print(search_after):
    """The first file that is opened gets the lowest descriptor that is free."""
    script = """
from cli.process.streams import open_standard_streams
open_standard_streams()
numbers = []
for _ in range(3):
    numbers.append(os.open("/dev/null", os.O_RDWR))
os._exit(0 if min(numbers) > 2 else 3)
"""
    assert search_after(script, shell="<&- >&- 2>&-").returncode == 0


# Standard output.


@pytest.mark.parametrize("words", [("status",), ("models",), ("--version",), ("--help",), ("status", "--help")])
@pytest.mark.parametrize("shell", [">&-", ">/dev/full"])
def test_output_that_is_lost_is_one_line_and_status_2(search_after, collection, words, shell):
    run = search_after("", *words, shell=shell, env={"CROSSLOOK_INDEX": str(collection)})
    assert run.returncode == 2, run.stderr
    assert len(run.stderr.splitlines()) == 1 and "cannot write to standard output" in run.stderr


def test_answers_that_are_lost_are_one_line_and_status_2(search, search_after, fake_model, photos, tmp_path):
    (tmp_path / "queries").write_text("a cat\na dog\n")
    search("index", photos, "-i", tmp_path / "c")
    for words in (["a cat"], ["a cat", "--json"], ["a cat", "-0"], ["--batch", tmp_path / "queries"]):
        run = search_after(FAKE_MODEL, *words, "-i", tmp_path / "c", shell=">/dev/full")
        assert (run.returncode, len(run.stderr.splitlines())) == (2, 1), run.stderr


@pytest.mark.parametrize("words", [("status",), ("status", "--failures"), ("models", "--json"), ("--help",)])
def test_a_reader_that_has_gone_is_no_error_of_any_command(search_after, collection, words):
    shell = "| true; exit ${PIPESTATUS[0]}"
    run = search_after("", *words, shell=shell, env={"CROSSLOOK_INDEX": str(collection)})
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("words", [(), ("-k", "3"), ("no-such-command", "--nonsense"), ("status",)])
@pytest.mark.parametrize("shell", ["2>/dev/full", "2>&-"])
def test_an_error_that_nobody_can_read_keeps_its_status(search_after, tmp_path, words, shell):
    for environment in ({}, {"CROSSLOOK_DEBUG": "1"}):
        run = search_after("", *words, shell=shell, env=environment | {"CROSSLOOK_INDEX": str(tmp_path / "none")})
        assert (run.returncode, run.stdout, run.stderr) == (2, "", "")


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_file_on_a_full_disk_is_named(tmp_path, kind):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(CrosslookError, match=f"cannot write {tmp_path}/full: No space left on device"):
        if kind == "json":
            write_file(tmp_path / "full", "{}")
        else:
            write_results_page(tmp_path / "full", [])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("closed file")])
def test_a_line_that_cannot_be_written_is_an_error(monkeypatch, error):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(RawBroken(error))))
    with pytest.raises(CrosslookError, match="cannot write to standard output"):
        write_line("a line")


class RawBroken(io.RawIOBase):
    def __init__(self, error):
        self.error = error

    def writable(self):
        return True

    def write(self, content):
        error, self.error = self.error, None  # once, since it is flushed again when it is thrown away
        if error is not None:
            raise error
        return len(content)
