"""Kills an action after each of its changes on disk, in scripts that fork before they have threads."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.file_system import intercepted

CHANGES = ("create", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
KEPT: list[Any] = []


def try_every_moment(
    prepare: Callable[[], None], start: Path, tried: Path, act: Callable[[], None], check: Callable[[], None]
) -> None:
    """Make the folder `start`. Then, for moment 1, 2, 3 ...: act on a copy of it, `tried`, in a child process that is
    killed (SIGKILL) at that moment, and check in another child what is left, until an action ends uninterrupted.

    Prints how many moments were tried, or exits with what failed."""
    os.fsync = lambda fd: None  # the power is never cut, and waiting for the disk takes long
    if in_child(prepare, share_imports=True):
        sys.exit("the uninterrupted run failed")

    def act_and_die(step: int) -> None:
        kill_at(step)
        act()

    step = 0
    while True:
        step += 1
        shutil.rmtree(tried, ignore_errors=True)
        shutil.copytree(start, tried)
        status = in_child(partial(act_and_die, step))
        if status == 0:
            break
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"step {step}: the run failed by itself")
        if in_child(check, share_imports=step == 1):
            sys.exit(f"step {step}: see above")
    print(step - 1, "moments")


def in_child(action: Callable[[], None], share_imports: bool = False) -> int:
    """The wait status of a forked process that runs the action.

    share_imports: import here what the action imported there. Later children then inherit it, and need not import it
    again, which takes several times as long as most actions."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        with open(theirs, "w") as names:
            names.write("\n".join(sys.modules) if share_imports else "")
        os._exit(0)
    os.close(theirs)
    with open(ours) as names:
        imported = names.read().splitlines()
    status = os.waitpid(child, 0)[1]
    for name in imported:
        if name not in sys.modules:
            with suppress(ImportError):  # a module that another one has made up
                importlib.import_module(name)
    return status


def kill_at(moment: int) -> None:
    """Die at the given moment from now on: after a call that changed something, and so before the next one. A file that
    was created but not yet written to, one that was written but not synced, one that was synced but not renamed: all of
    these are such moments."""
    moments = 0

    def after(name: str, number: int) -> None:
        nonlocal moments
        moments += name in CHANGES
        if moments == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    # Kept until this process ends: a file system that is put back would kill nothing.
    interception = intercepted(lambda name, number: None, after)
    interception.__enter__()
    KEPT.append(interception)
