"""Kill an action at every moment at which it changes what is on disk. For scripts of their own, which have no thread
when they fork."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.file_system import intercepted

CHANGES = ("create", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
KEPT: list[Any] = []


def try_every_moment(
    prepare: Callable[[], None], start: Path, tried: Path, act: Callable[[], None], check: Callable[[], None]
) -> None:
    """Make the folder `start`; then, again and again, act on a copy of it, `tried`, in a child process that is killed
    (SIGKILL) at its first, second, third ... moment, and check in another child what is left, until an action ends.
    Prints how many moments were tried, or exits with what failed."""
    os.fsync = lambda descriptor: None  # nobody cuts the power; waiting for the disk takes long
    if in_child(prepare):
        sys.exit("the uninterrupted run failed")

    def act_and_die(step: int) -> None:
        kill_at(step)
        act()

    step = 0
    while True:
        step += 1
        shutil.rmtree(tried, ignore_errors=True)
        shutil.copytree(start, tried)
        status = in_child(lambda step=step: act_and_die(step))
        if status == 0:
            break
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"step {step}: the run failed by itself")
        if in_child(check):
            sys.exit(f"step {step}: see above")
    print(step - 1, "moments")


def in_child(action: Callable[[], None]) -> int:
    """The wait status of a forked process that runs the action."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_at(moment: int) -> None:
    """From now on, die at the given moment: after a call that changed something, and so before the next one. A file
    that was created and not written to yet, one that was written and not synced, one that was synced and not renamed:
    each is such a moment."""
    moments = 0

    def after(name: str, number: int) -> None:
        nonlocal moments
        moments += name in CHANGES
        if moments == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    # Kept for the life of this process: a file system that is put right again would tell nothing.
    interception = intercepted(lambda name, number: None, after)
    interception.__enter__()
    KEPT.append(interception)
