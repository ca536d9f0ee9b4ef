"""Several processes that train one model, each on a part of every batch: what `torchrun` starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the processes that `torchrun` started, if it did, and train on `device`, which is `cpu` or `cuda`; of
    several GPUs each process takes its own."""
    started = "WORLD_SIZE" in os.environ and not distributed.is_initialized()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if started:
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        with torch.device(device):
            yield
    finally:
        if started:
            distributed.destroy_process_group()


def on_device(values: NDArray[Any]) -> Tensor:
    """A tensor on the device on which training runs."""
    return torch.from_numpy(values).to(torch.get_default_device())


def rank() -> int:
    """Of this process; that of rank 0 judges and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Make every gradient the mean of all processes'; of a parameter that was not used here it counts as zero."""
    if world() == 1:
        return
    for each in parameters:
        if each.grad is None:
            each.grad = torch.zeros_like(each)
        distributed.all_reduce(each.grad)
        each.grad /= world()


def of_first(value: T) -> T:
    """What the process of rank 0 gives, in all of them; also a place where they wait for one another."""
    if world() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]
