"""Runs `search` with some words, in this process or, as users do, in another one.

Both give its status and the text on stdout and stderr, including what libraries write to the descriptors."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from cli.main import main
from cli.process.interruption import SIGNALS

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
FAKE_MODEL = """
import retrieval.encoders, retrieval.engine
from tests.support import FakeEncoder
retrieval.encoders.load_encoder = retrieval.engine.load_encoder = lambda *arguments, **options: FakeEncoder()
"""


def run_here(*words: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the entry point in this process and restore what it changed. env: further variables of the environment."""
    arguments = [_text(word) for word in words]
    with ExitStack() as stack:
        stack.enter_context(_process_state())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", ["search", *arguments])
        for name, value in env.items():
            patch.setenv(name, value)
        out, err = stack.enter_context(_captured_descriptors())
        status = 0
        try:
            main()
        except SystemExit as error:
            assert isinstance(error.code, int), error.code
            status = error.code
        sys.stdout.flush()
        sys.stderr.flush()
        contents = [_content(out), _content(err)]
    return subprocess.CompletedProcess(arguments, status, *contents)


@contextmanager
def _process_state() -> Iterator[None]:
    """Restore the state of the process: environment, working folder, signals, hooks, warnings and logging."""
    environment, folder = dict(os.environ), os.getcwd()
    actions = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for owner, name in (
            (sys, "stdin"),
            (sys, "stdout"),
            (sys, "stderr"),
            (sys, "unraisablehook"),
            (threading, "excepthook"),
            (logging, "lastResort"),
            (logging, "raiseExceptions"),
        ):
            patch.setattr(owner, name, getattr(owner, name))
        patch.setattr(logging.root, "handlers", [])  # as outside of tests
        patch.setattr(faulthandler, "is_enabled", lambda: False)
        try:
            yield
        finally:
            for number, action in actions.items():
                signal.signal(number, action)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)


@contextmanager
def _captured_descriptors() -> Iterator[tuple[int, int]]:
    """Replace the standard descriptors, and Python's streams on them, as in a new process: stdin is empty, stdout and
    stderr are files, whose descriptors are yielded."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        null = stack.enter_context(open(os.devnull, "rb"))
        saved = [os.dup(number) for number in range(3)]
        try:
            for number, file in enumerate((null, *files)):
                os.dup2(file.fileno(), number)
            with (
                open(0, encoding="utf-8", closefd=False) as sys.stdin,
                open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as sys.stdout,
                open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False) as sys.stderr,
            ):
                yield files[0].fileno(), files[1].fileno()
        finally:
            for number, descriptor in enumerate(saved):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _content(descriptor: int) -> str:
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    return content.decode("utf-8", "surrogateescape")


def run_process(
    *words: object, env: Mapping[str, str], script: str = "", shell: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `search` in another process. script: see `script_command`. shell: its redirections in bash."""
    command = script_command(script, *words)
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *command] if shell else command,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        stdin=subprocess.DEVNULL,
        timeout=120,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT), **env},
        cwd=ROOT,
        check=False,
    )


class Started:
    """A process that has begun, with pipes for its three streams."""

    def __init__(self, command: Sequence[str], *, text: bool) -> None:
        pipe = subprocess.PIPE
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=text, cwd=ROOT, bufsize=-1 if text else 0
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin: IO[Any] = self.process.stdin
        self.stdout: IO[Any] = self.process.stdout
        self.stderr: IO[Any] = self.process.stderr

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for its end."""
        with self.process:
            pass


def script_command(script: str, *words: object) -> list[str]:
    """The command that runs a script and then `search` with some words. The script may begin with FAKE_MODEL, which
    starts faster than a real model."""
    beginning = f"import os, signal, sys\n{script}\n" if script else ""
    return [sys.executable, "-c", f"{beginning}from cli.main import main\nmain()", *map(_text, words)]


def _text(word: object) -> str:
    return os.fsdecode(word) if isinstance(word, bytes | Path) else str(word)
