"""Several processes that train one model, each on a part of every batch: what `torchrun` starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the processes that `torchrun` started, if it did. device: `cpu` or `cuda`; of several GPUs each process
    takes its own. Raises `CrosslookError` when there are fewer GPUs than processes."""
    if device == "cuda":
        own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= there:
            raise CrosslookError(f"there are more processes than GPUs: --nproc-per-node {there}")
        torch.cuda.set_device(own)
    if not distributed.is_torchelastic_launched():
        yield
        return
    # The others wait while the first computes features and judges, however long that takes.
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def current_device() -> torch.device:
    """Where training runs: where new tensors are made."""
    return torch.empty(0).device


def on_device(values: NDArray[Any]) -> Tensor:
    """A tensor on the device on which training runs."""
    return torch.from_numpy(values).to(current_device())


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
        if not each.requires_grad:
            continue
        if each.grad is None:
            each.grad = torch.zeros_like(each)
        distributed.all_reduce(each.grad)
        each.grad /= world()


def copy_first(tensors: Iterable[Tensor]) -> None:
    """Give all processes the first one's tensors."""
    if world() > 1:
        for each in tensors:
            distributed.broadcast(each, src=0)


def of_first(value: T) -> T:
    """What the process of rank 0 gives, in all of them; also a place where they wait for one another."""
    if world() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]
