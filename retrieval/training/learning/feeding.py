"""How do batches reach the device, and losses come back, while it computes?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from indexes.on_device.torch_memory import lacks_memory
from retrieval.training.accelerator import Batch, Lane, Reading

if TYPE_CHECKING:
    from torch import Tensor

Drawn = TypeVar("Drawn")
LOADERS = 2  # batches that are loaded at a time; a stage may use more threads for one


def batches(
    draw: Callable[[], Drawn],
    load: Callable[[Drawn], Batch],
    count: int,
    ahead: int = 0,
    spare_memory: Callable[[], bool] = lambda: False,
) -> Generator[Batch]:
    """`load(draw())`, `count` times.

    ahead: how many batches are loaded in advance, by other threads. The order is the same whatever it is: one thread
    draws, one batch after the other. spare_memory: computes with less memory from now on, if it can.

    A batch for which a GPU's memory does not suffice while others are loaded, and learnt from, is loaded again after
    these. Raises what torch raises if it does not suffice then."""
    if not ahead:
        for _ in range(count):
            yield load(draw())
        return
    lane = Lane()
    with ThreadPoolExecutor(1) as drawing, ThreadPoolExecutor(LOADERS) as loading:
        jobs: deque[_Job[Drawn]] = deque()
        try:
            for _ in range(count):
                drawn = drawing.submit(draw)
                jobs.append(_Job(drawn, loading.submit(_load, lane, load, drawn)))
                if len(jobs) > ahead:
                    yield lane.receive(_loaded(lane, load, jobs, spare_memory))
            while jobs:
                yield lane.receive(_loaded(lane, load, jobs, spare_memory))
        finally:
            for job in jobs:
                job.loaded.cancel()


@dataclass(frozen=True)
class _Job(Generic[Drawn]):
    drawn: Future[Drawn]
    loaded: Future[tuple[Batch, Any]]


def _load(lane: Lane, load: Callable[[Drawn], Batch], drawn: Future[Drawn]) -> tuple[Batch, Any]:
    return lane.load(load, drawn.result())


def _loaded(
    lane: Lane, load: Callable[[Drawn], Batch], jobs: deque[_Job[Drawn]], spare_memory: Callable[[], bool]
) -> tuple[Batch, Any]:
    """The first batch, whose job is done with."""
    drawn = jobs[0].drawn
    try:
        return jobs.popleft().loaded.result()
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
    spare_memory()  # from here on the error is gone, and what it held
    wait([job.loaded for job in jobs])
    return lane.load(load, drawn.result())


class Losses:
    """The losses of steps by name, read some steps later."""

    def __init__(self, lag: int = 0) -> None:
        self._lag = lag
        self._readings: deque[tuple[list[str], Reading]] = deque()

    def put(self, losses: dict[str, Tensor]) -> Iterator[dict[str, float]]:
        """Add those of a step. Yields those that are due, in their order."""
        self._readings.append((list(losses), Reading(losses.values())))
        yield from self._read(self._lag)

    def rest(self) -> Iterator[dict[str, float]]:
        """Those that were not read yet."""
        yield from self._read(0)

    def _read(self, left: int) -> Iterator[dict[str, float]]:
        while len(self._readings) > left:
            names, reading = self._readings.popleft()
            yield dict(zip(names, reading.numbers(), strict=True))
