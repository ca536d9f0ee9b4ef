"""The progress of an indexing run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import os

import pytest
from rich.console import Console

from cli.show import progress, steps
from retrieval.progress import Progress, Step


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_on(monkeypatch, columns=120, kind="xterm"):
    """A terminal that replaces stderr, and keeps what appears on it."""
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
    with steps.step_display() as observer:
        observer.step(Step("[/] :cat: seen", 1, 1))
    assert "[/] :cat: seen" in shown.getvalue()


@pytest.mark.parametrize("columns", [1, 2, 7, 20])
def test_a_narrow_terminal_ends_nothing(columns, monkeypatch):
    shown = shown_on(monkeypatch, columns)
    with progress.progress_display() as display:
        display.progress(Progress(total=10**6, new=40, failed=10, seconds=5))
        display.failure(b"/photos/bad.jpg", "is damaged")
    with steps.step_display() as observer:
        observer.step(Step("heads, epoch 1 of 1", 1, 2, {"itc": 2.0}))
    assert "skipped /photos/bad.jpg: is damaged" in shown.getvalue(), "a long line is the terminal's to wrap"


@pytest.mark.parametrize("terminal", ["dumb", "unknown"])
def test_a_terminal_without_a_cursor_gets_lines(terminal, monkeypatch):
    shown = shown_on(monkeypatch, kind=terminal)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0)
    with progress.progress_display() as display:
        display.progress(Progress(total=100, new=50, seconds=5))
    assert shown.getvalue() == "50 of 100 images, 10 images/s, 5 s left: 50 new\n"


def test_progress_on_a_pipe_is_lines(monkeypatch):
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0)
    lines: list[str] = []
    monkeypatch.setattr(progress, "note", lines.append)
    with progress.progress_display() as display:
        display.progress(Progress(total=100, new=40, failed=10, seconds=5))
    assert lines == ["50 of 100 images, 10 images/s, 5 s left: 40 new, 10 failed"]


def test_the_bar_shows_where_a_run_is(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr("rich.console.Console", lambda **options: Console(file=shown, force_terminal=True, width=120))
    with progress.progress_display() as display:
        display.progress(Progress(total=100, new=40, failed=10, seconds=5))
        display.failure(b"/photos/bad.jpg", "is damaged")
    assert "50/100" in shown.getvalue() and "10 images/s" in shown.getvalue()
    assert "skipped /photos/bad.jpg: is damaged" in shown.getvalue()
