"""Standard streams that are closed, full, or whose other end has gone."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
from contextlib import suppress

import pytest
from rich.console import Console

from cli import streams
from cli.show import progress, steps
from cli.show.output import encoded, note, write_file, write_line
from cli.show.page import write_results_page
from indexes.errors import CrosslookError
from retrieval.progress import Progress, Step
from retrieval.training.watching import Epoch
from tests.cli.conftest import FAKE_MODEL, ROOT, script_command
from tests.support import write_photo, write_photos


class Broken(io.StringIO):
    """A terminal that takes nothing."""

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
    with steps.step_display() as watcher:
        watcher.note("training on 80 images")
        for done in (1, 2):
            watcher.step(Step("heads, epoch 1 of 1", done, 2, {"itc": 2.0}))
        watcher.step(Step("dev seen by the towers", 1, 2))
        watcher.epoch(Epoch("heads", 0, {"itc": 2.0}, {"text -> image": 0.1}))


def test_the_bar_is_written_to_the_stream_that_is_allowed_to_fail(monkeypatch):
    """Else the tests above show nothing."""
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


# Chatter of real runs. The folder holds a file that is no image, so that there is something to tell while it goes on.


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
def decode(*arguments):
    global ours
    if ours is not None:
        os.close(ours)
        ours = None
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
from cli.streams import open_standard_streams
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


def test_answers_that_are_lost_are_one_line_and_status_2(search_after, photos, tmp_path):
    (tmp_path / "queries").write_text("a cat\na dog\n")
    search_after(FAKE_MODEL, "index", photos, "-i", tmp_path / "c")
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


# What libraries write to stderr themselves.


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


# Names and encodings.


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_on(monkeypatch, columns=120, kind="xterm"):
    """What appears on a terminal, which stderr is from now on."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setattr(
        "rich.console.Console", lambda **options: Console(**options, force_terminal=True, width=columns)
    )
    return terminal


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("[red]x[/red].jpg", "[red]x[/red].jpg"),
        ("[/].jpg", "[/].jpg"),
        ("[link=file:x]a.jpg", "[link=file:x]a.jpg"),
        (":cat:.jpg", ":cat:.jpg"),
        ("back\\slash.jpg", "back\\\\slash.jpg"),
        ("new\nline.jpg", "new\\nline.jpg"),
        ("\x1b[2J.jpg", "\\x1b[2J.jpg"),
        ("\udcff.jpg", "\\udcff.jpg"),
        ("{task.total}.jpg", "{task.total}.jpg"),
    ],
)
def test_odd_names_are_the_same_above_a_bar_and_on_a_pipe(name, printed, monkeypatch, capsys):
    shown = shown_on(monkeypatch)
    with progress.progress_display() as display:
        display.failure(os.fsencode(f"/p/{name}"), "is [bold]damaged")
    assert f"skipped /p/{printed}: is [bold]damaged\n" in shown.getvalue()
    monkeypatch.undo()
    with progress.progress_display() as display:
        display.failure(os.fsencode(f"/p/{name}"), "is [bold]damaged")
    assert capsys.readouterr().err == f"skipped /p/{printed}: is [bold]damaged\n"


def test_a_step_of_an_odd_name_is_shown_as_it_is(monkeypatch):
    shown = shown_on(monkeypatch)
    with steps.step_display() as watcher:
        watcher.step(Step("[/] :cat: seen", 1, 1))
    assert "[/] :cat: seen" in shown.getvalue()


@pytest.mark.parametrize("columns", [1, 2, 7, 20])
def test_a_narrow_terminal_ends_nothing(columns, monkeypatch):
    shown = shown_on(monkeypatch, columns)
    with progress.progress_display() as display:
        display.progress(Progress(total=10**6, new=40, failed=10, seconds=5))
        display.failure(b"/photos/bad.jpg", "is damaged")
    with steps.step_display() as watcher:
        watcher.step(Step("heads, epoch 1 of 1", 1, 2, {"itc": 2.0}))
    assert "skipped /photos/bad.jpg: is damaged" in shown.getvalue(), "a long line is the terminal's to wrap"


@pytest.mark.parametrize("terminal", ["dumb", "unknown"])
def test_a_terminal_without_a_cursor_gets_lines(terminal, monkeypatch):
    shown = shown_on(monkeypatch, kind=terminal)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0)
    with progress.progress_display() as display:
        display.progress(Progress(total=100, new=50, seconds=5))
    assert shown.getvalue() == "50 of 100 images, 10 images/s, 5 s left: 50 new\n"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("plain", b"plain"),
        ("日本", "日本".encode()),
        ("\udcff.jpg", b"\xff.jpg"),
        ("\ud800 日 \udcff", b"\\ud800 \xe6\x97\xa5 \xff"),
    ],
)
def test_any_text_can_be_printed(text, content):
    assert encoded(text) == content


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}


@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "ascii"}], ids=["no locale", "ascii streams"])
def test_no_command_stumbles_over_the_terminals_encoding(search_after, tmp_path, environment):
    """All of them in one process, over names that the encoding does not have."""
    folder = os.fsencode(tmp_path) + "/日本".encode()
    os.mkdir(folder)
    for index, name in enumerate(("häuschen 🏠.png".encode(), b"\xff.png")):
        write_photo(os.path.join(folder, name), seed=index)
    with open(os.path.join(folder, "schlecht ü.jpg".encode()), "wb") as file:
        file.write(b"no")
    queries = os.path.join(folder, "fragen ü".encode())
    with open(queries, "wb") as file:
        file.write("ein süßer hund\n日本\n".encode())
    script = ascii(f"""{FAKE_MODEL}
from cli.commands import app
folder, queries = os.fsdecode({folder!r}), os.fsdecode({queries!r})
for words in (
    ["index", "--dry-run", folder],
    ["index", folder],
    ["süß"],
    ["süß", "--json"],
    ["süß", "--paths"],
    ["--batch", queries],
    ["status"],
    ["status", "--json"],
    ["status", "--failures"],
    ["models"],
    ["optimize"],
    ["remove", folder],
):
    sys.argv[1:] = words
    assert app(standalone_mode=False) in (None, 0), words
sys.argv[1:] = ["--version"]
""")
    run = search_after(f"exec({script})", env=environment | {"CROSSLOOK_INDEX": str(tmp_path / "c")})
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(".png") == 12
    answers = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"query"')]
    assert [answer["query"] for answer in answers] == ["ein süßer hund", "日本"]


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
