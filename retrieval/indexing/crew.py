"""Threads that do tasks in the order in which they are given, where a system may refuse to start one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")
_Task = tuple[Future[Any], Callable[[], Any]]


class Crew:
    """A context manager of up to `count` threads, as many as can be started. If there are none, `submit` itself does
    the task. At the end all tasks are waited for; with `cancels`, those that are not begun are cancelled."""

    def __init__(self, count: int, name: str, cancels: bool = False) -> None:
        self._cancels = cancels
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        for number in range(count):
            thread = threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # too many threads and processes
                break
            self._threads.append(thread)

    @property
    def count(self) -> int:
        return len(self._threads)

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        if self._threads:
            self._tasks.put((future, task))
        else:
            _do(future, task)
        return future

    def _work(self) -> None:
        while (item := self._tasks.get()) is not None:
            _do(*item)
            del item  # the result may be large

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Empty):
            while self._cancels and (item := self._tasks.get_nowait()) is not None:
                item[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()


def _do(future: Future[Any], task: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = task()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def can_start_threads(count: int) -> bool:
    """Whether the system lets this process have so many threads more."""
    ends = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=ends.wait, daemon=True)
            thread.start()
            threads.append(thread)
        return True
    except RuntimeError:
        return False
    finally:
        ends.set()
        for thread in threads:
            thread.join()
