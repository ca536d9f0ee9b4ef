"""Exit statuses, and the one line on stderr, whatever goes wrong."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

# Replaces all commands in another process, which then starts fast.
COMMAND = """
import types
def command():
    {body}
def app(standalone_mode):
    return command()
sys.modules["cli.commands"] = types.SimpleNamespace(app=app)
"""


def command(body: str) -> str:
    return COMMAND.format(body=body.replace("\n", "\n    "))


def run_text(text: str) -> dict[str, Any]:
    """The names that a program defines; in its tracebacks the file is <string>."""
    names: dict[str, Any] = {"os": os, "sys": sys}
    exec(compile(text, "<string>", "exec"), names)
    return names


@pytest.fixture
def end(search, monkeypatch):
    """Run `search` with all of its commands replaced by a function with the given body."""

    def run(body, env=None):
        function = run_text("def command():\n    " + body.replace("\n", "\n    "))["command"]
        app = SimpleNamespace(app=lambda standalone_mode: function())
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "cli.commands", app)
            return search(env=env)

    return run


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("[].pop(1)", "IndexError"),
        ("None.name", "AttributeError"),
        ("int('x')", "ValueError"),
        ("assert False, 'two\\nlines'", "AssertionError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("raise ExceptionGroup('several', [ValueError(1)])", "ExceptionGroup"),
        ("import json; json.loads('{')", "JSONDecodeError"),
        ("raise type('Odd', (BaseException,), {})()", "Odd"),
        ("raise GeneratorExit", "GeneratorExit"),
    ],
)
def test_what_nobody_foresaw_is_one_line_to_report_and_status_70(end, body, kind):
    run = end(body)
    assert (run.returncode, run.stdout) == (70, "")
    assert len(run.stderr.splitlines()) == 1 and run.stderr.startswith(f"search: unexpected error, {kind} at ")
    assert "CROSSLOOK_DEBUG=1" in run.stderr and "report" in run.stderr


def test_the_line_says_where_it_arose_and_who_of_us_called(search, monkeypatch):
    status = run_text("def status(path):\n    return path.no_such_thing")["status"]
    monkeypatch.setattr("retrieval.maintenance.status", status)
    line = search("status").stderr
    assert "AttributeError at <string>:" in line and "called from cli/status.py:" in line
    assert "no_such_thing" in line


def test_the_traceback_is_printed_to_who_looks_for_a_fault(end):
    run = end("[].pop(1)", env={"CROSSLOOK_DEBUG": "1"})
    assert run.returncode == 70 and "Traceback" in run.stderr and run.stderr.splitlines()[-1].startswith("search: ")


@pytest.mark.parametrize("body", ["sys.exit(1)", "sys.exit('no GPU')", "sys.exit(3)", "sys.exit(True)"])
def test_a_library_that_ends_the_process_does_not_say_that_nothing_was_found(end, body):
    run = end(body)
    assert run.returncode == 70 and "SystemExit" in run.stderr and len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise MemoryError", "not enough memory"),
        ("bytearray(1 << 62)", "not enough memory"),
        ("raise RuntimeError('[ONNXRuntimeError] : 6 : std::bad_alloc')", "not enough memory"),
        ("raise Exception('Failed to allocate memory for requested buffer of size 9')", "not enough memory"),
        ("(f := lambda: f())()", "nested too deeply"),
        ("import json; json.loads('[' * 100000)", "nested too deeply"),
        ("open('/no/such/file')", "/no/such/file: No such file or directory"),
        ("open(b'/no/such/\\xff')", "/no/such/\\udcff: No such file or directory"),
        ("raise OSError(28, 'No space left on device')", "No space left on device"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_2(end, body, message):
    run = end(body)
    assert (run.returncode, len(run.stderr.splitlines())) == (2, 1), run.stderr
    assert message in run.stderr


@pytest.mark.parametrize(("body", "status"), [("return None", 0), ("return 1", 1), ("return 'text'", 0)])
def test_a_command_that_ends_well_says_nothing(end, body, status):
    run = end(body)
    assert (run.returncode, run.stdout, run.stderr) == (status, "", "")


def test_an_error_in_a_thread_is_one_line_and_status_70(end):
    body = "from threading import Thread\nthread = Thread(target=[].pop)\nthread.start()\nthread.join()"
    run = end(body)
    assert (run.returncode, len(run.stderr.splitlines())) == (70, 1)
    assert run.stderr.startswith("search: in a thread: unexpected error, IndexError at ")


def test_an_error_in_a_finaliser_is_one_line(end):
    run = end("class Odd:\n    def __del__(self): [].pop()\nOdd()")
    assert (run.returncode, len(run.stderr.splitlines())) == (0, 1)
    assert run.stderr.startswith("search: ignored: unexpected error, IndexError at ")


@pytest.mark.parametrize(
    "body",
    [
        "class Pipe:\n    def __del__(self): raise BrokenPipeError\nPipe()",
        "import atexit\ndef late(): raise BrokenPipeError\natexit.register(late)",
        "ours, theirs = os.pipe()\nos.close(ours)\nglobal file\nfile = open(theirs, 'w')\nfile.write('x')",
    ],
)
def test_a_pipe_that_breaks_at_the_end_is_no_news(search_after, body):
    run = search_after(command(body))
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("words", [("--nonsense",), ("status", "-k"), ("index",), ("a cat", "-k", "many"), ("-q", "a")])
def test_words_that_make_no_sense_are_one_line_and_status_2(search, words):
    run = search(*words)
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1 and run.stderr.startswith("search: ")


def test_a_damaged_installation_is_one_line(search_after):
    run = search_after("sys.modules['cli.process.streams'] = None")
    assert (run.returncode, len(run.stderr.splitlines())) == (70, 1)
    assert "ModuleNotFoundError" in run.stderr and "reinstall" in run.stderr
    run = search_after("sys.modules['typer'] = None")
    assert (run.returncode, len(run.stderr.splitlines())) == (70, 1)


# Messages of libraries.

NOISE = """import logging, warnings
warnings.warn("Corrupt EXIF data")
warnings.warn("old", DeprecationWarning)
logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
logging.getLogger("some.library").warning("slow")
logging.getLogger("huggingface_hub").info("checking")"""


def test_warnings_of_libraries_do_not_appear(end):
    run = end(NOISE)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_errors_that_a_library_logs_are_a_line_with_its_name(end):
    run = end("import logging\nlogging.getLogger('some.library').error('no %s\\nleft', 'GPU')")
    assert run.stderr == "some.library: no GPU\\nleft\n"


def test_a_log_record_that_cannot_be_formatted_leaves_no_traceback(end):
    run = end("import logging\nlogging.getLogger('some.library').error('%d', 'x')")
    assert run.returncode == 0 and len(run.stderr.splitlines()) == 1 and "some.library" in run.stderr


def test_warnings_appear_where_the_user_asks_for_them_a_line_each(search_after):
    run = search_after(command(NOISE), env={"PYTHONWARNINGS": "always"})
    lines = run.stderr.splitlines()
    assert len(lines) == 2 and lines[0].startswith("UserWarning of <string>:") and "Corrupt EXIF data" in lines[0]


def test_warnings_are_errors_where_the_user_asks_for_that(search_after):
    run = search_after(command(NOISE), env={"PYTHONWARNINGS": "error"})
    assert run.returncode == 70 and "UserWarning" in run.stderr and len(run.stderr.splitlines()) == 1
