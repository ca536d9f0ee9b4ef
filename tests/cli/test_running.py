"""Runs in this process are as those in another one, and leave nothing behind."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest

from cli.process.interruption import SIGNALS


@pytest.fixture
def run_function(search, monkeypatch):
    """Run `search` with all of its commands replaced by a function."""

    def run(function):
        monkeypatch.setitem(sys.modules, "cli.commands", SimpleNamespace(app=lambda standalone_mode: function()))
        return search("a cat", env={"NAME": "value"})

    return run


def state():
    """What a process has besides memory."""
    return (
        dict(os.environ),
        os.getcwd(),
        list(sys.argv),
        [os.fstat(number).st_ino for number in range(3)],
        (sys.stdin, sys.stdout, sys.stderr, sys.unraisablehook, threading.excepthook),
        [signal.getsignal(number) for number in SIGNALS],
        (list(warnings.filters), warnings.showwarning),
        (logging.lastResort, logging.raiseExceptions, list(logging.root.handlers)),
    )


def test_everything_is_restored(run_function):
    def change():
        os.environ["HOME"] = os.environ["ANOTHER"] = "/"
        os.chdir("/")
        sys.argv.append("more")
        sys.stdout = sys.stderr
        warnings.simplefilter("error")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.close(1)

    before = state()
    run_function(change)
    assert state() == before


def test_all_ways_of_writing_are_seen_in_their_order(run_function):
    def write():
        print("by print", flush=True)
        os.write(1, b"by the descriptor\n")
        os.write(2, b"chatter by the descriptor\n")
        print("chatter", file=sys.stderr)
        os.write(1, b"\xff not UTF-8\n")
        print(sys.argv, os.environ["NAME"], sys.stdin.read() == "")

    run = run_function(write)
    assert run.stdout == "by print\nby the descriptor\n\udcff not UTF-8\n['search', 'a cat'] value True\n"
    assert (run.returncode, run.stderr) == (0, "chatter by the descriptor\nchatter\n")


def test_a_signal_before_does_not_count_in_the_next_run(run_function):
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(2):
        run = run_function(interrupt)
        assert (run.returncode, run.stderr) == (130, "interrupted\n")
    assert run_function(lambda: None).returncode == 0


def test_an_error_in_a_thread_before_does_not_count_in_the_next_run(run_function):
    def fail():
        thread = threading.Thread(target=[].pop)
        thread.start()
        thread.join()

    assert run_function(fail).returncode == 70
    assert run_function(lambda: None).returncode == 0
