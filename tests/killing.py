"""Kill an action at every moment at which it makes something durable. For scripts of their own, which have no thread
when they fork."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def try_every_moment(
    prepare: Callable[[], None], start: Path, tried: Path, act: Callable[[], None], check: Callable[[], None]
) -> None:
    """Make the folder `start`; then, again and again, act on a copy of it, `tried`, in a child process that is killed
    (SIGKILL) before its first, second, third ... step that makes something durable, and check in another child what is
    left, until an action ends. Prints how many moments were tried, or exits with what failed."""
    if in_child(prepare):
        sys.exit("the uninterrupted run failed")

    def act_and_die(step: int) -> None:
        kill_before(step)
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


def kill_before(step: int) -> None:
    """From now on, die before the given call of fsync, replace or unlink."""
    calls = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
