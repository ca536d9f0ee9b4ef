"""Runs a script in another process that may open no internet socket, and reports which files it touches.

Sockets: on Linux the kernel (seccomp) kills the process, or a child of it, that asks for one, from any library.
Elsewhere Python's audit events notice what Python code asks for. Files: Python's audit events name what Python code
writes anywhere; for other libraries, folders are compared before and after."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOCKET_CALL = {"x86_64": 41, "aarch64": 198}
CAN_KILL = sys.platform == "linux" and platform.machine() in SOCKET_CALL
ROOT = Path(__file__).parents[1]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
# All that a guarded process inherits: ONNX Runtime, for one, keeps quiet if a variable says that tests run.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_", "LANG", "LC_", "SYSTEMROOT", "VIRTUAL_ENV")
SURROUNDINGS = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")


RUN_COMMANDS = """
import sys
from cli.main import main
for words in commands:
    sys.argv = ["search", *words]
    try:
        main()
    except SystemExit as end:
        if end.code not in (None, 0, 1):
            print(f"search {' '.join(words)}: status {end.code}")
            raise
"""


@dataclass(frozen=True)
class Outcome:
    """status: of the process, negative for a signal. offences: the forbidden things that Python code did, a line for
    one. appeared: files that are now below the home folder and its like, and in the temporary folder. output: both
    streams."""

    status: int
    offences: list[str]
    appeared: list[str]
    output: str

    @property
    def is_clean(self) -> bool:
        """Whether nothing forbidden happened. An empty folder that torch makes in the temporary one does not count."""
        appeared = [name for name in self.appeared if not re.fullmatch(r"temporary/torchinductor_\w+", name)]
        return self.status == 0 and not self.offences and not appeared


def run_guarded(script: str, folder: Path, may_write: list[Path], **environment: str) -> Outcome:
    """Run a script with empty home, cache, data and temporary folders, all below `folder`.

    may_write: folders besides the temporary one. environment: further variables."""
    folders = {name: folder / "surroundings" / name for name in SURROUNDINGS}
    folders["TMPDIR"] = folder / "temporary"
    for path in (*folders.values(), folder / "cwd"):
        path.mkdir(parents=True, exist_ok=True)
    report = folder / "report"
    report.touch()
    kept = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    settings = {name: str(path) for name, path in folders.items()} | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    settings |= {"PYTHONDONTWRITEBYTECODE": "1"} | environment
    allowed = [str(path.resolve()) for path in (*may_write, folders["TMPDIR"])]
    run = subprocess.run(
        [sys.executable, __file__, str(report), json.dumps(allowed), script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=240,
        env=kept | settings,
        cwd=folder / "cwd",
        check=False,
    )
    files = [path for parent in (*folders.values(), folder / "cwd") for path in parent.rglob("*")]
    appeared = [path for path in files if not _is_within(path.resolve(), allowed[:-1])]
    names = sorted(str(path.relative_to(folder)) for path in appeared)
    return Outcome(run.returncode, report.read_text().splitlines(), names, run.stdout)


def run_commands(commands: list[list[object]], folder: Path, may_write: list[Path]) -> Outcome:
    """Run `search` with the words of each command, guarded, in one process. Any status but success and nothing found
    ends it."""
    words = [[str(word) for word in command] for command in commands]
    return run_guarded(f"commands = {words!r}\n{RUN_COMMANDS}", folder, may_write)


def forbid_sockets() -> None:
    """Let the kernel kill this process, or one that it starts, when it asks for an internet socket."""
    load, jump_if_equal, leave = 0x20, 0x15, 0x06
    kill, allow = 0x80000000, 0x7FFF0000
    program = [  # of `struct seccomp_data`: the number of the call at 0, its first argument at 16
        (load, 0, 0, 0),
        (jump_if_equal, 0, 4, SOCKET_CALL[platform.machine()]),
        (load, 0, 0, 16),
        (jump_if_equal, 1, 0, int(socket.AF_INET)),
        (jump_if_equal, 0, 1, int(socket.AF_INET6)),
        (leave, 0, 0, kill),
        (leave, 0, 0, allow),
    ]
    content = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))

    class Program(ctypes.Structure):
        _fields_ = (("lines", ctypes.c_ushort), ("content", ctypes.c_void_p))

    filter_ = Program(len(program), ctypes.addressof(content))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter, mode = 38, 22, 2
    for arguments in ((no_new_privileges, 1, 0, 0, 0), (set_filter, mode, ctypes.byref(filter_), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not filter calls")


def report_offences(report: str, allowed: list[str]) -> None:
    """Write a line into the file `report` for every forbidden thing that Python code does from now on."""
    descriptor = os.open(report, os.O_WRONLY | os.O_APPEND)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith("socket.") and event != "socket.gethostname":
            if not (event == "socket.__new__" and arguments[1] not in (socket.AF_INET, socket.AF_INET6)):
                os.write(descriptor, f"{event} {arguments[1:]!r}\n".encode())
            return
        paths: tuple[object, ...] = ()
        bases: tuple[object, ...] = (-1, -1)  # descriptors of folders from which they lead
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
            paths = arguments[:1]
        elif event in CHANGES:
            paths = arguments[:2]
            bases = arguments[-2:] if event in ("os.rename", "os.link") else (arguments[-1], arguments[-1])
        for path, base in zip(paths, bases, strict=False):
            if isinstance(path, str | bytes | os.PathLike):
                around = f"/proc/self/fd/{base}" if isinstance(base, int) and base >= 0 else ""
                target = os.path.realpath(os.path.join(around, os.fsdecode(path)))
                if not _is_within(Path(target), allowed) and not target.startswith("/dev/"):
                    os.write(descriptor, f"{event} {target}\n".encode("utf-8", "replace"))

    sys.addaudithook(watch)


def was_killed(outcome: Outcome) -> bool:
    return outcome.status == -signal.SIGSYS


def _is_within(path: Path, folders: list[str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    if CAN_KILL:
        forbid_sockets()
    report_offences(sys.argv[1], json.loads(sys.argv[2]))
    exec(compile(sys.argv[3], "script", "exec"), {"__name__": "script"})
