"""Training on several processes, each with a part of every batch: what `torchrun` starts. And the device in use."""

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
    """Join the processes that `torchrun` started, if any.

    device: `cpu` or `cuda`; of several GPUs each process takes one. Raises `CrosslookError` if there are fewer GPUs
    than processes."""
    if device == "cuda":
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= gpus:
            raise CrosslookError(f"there are more processes than GPUs: --nproc-per-node {gpus}")
        torch.cuda.set_device(local_rank)
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
    """The device on which training runs: where new tensors are made."""
    return torch.empty(0).device


def on_device(values: NDArray[Any]) -> Tensor:
    """The same values on the device on which training runs."""
    return torch.from_numpy(values).to(current_device())


def rank() -> int:
    """Of this process. The process of rank 0 judges and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over all processes. A parameter that was not used here counts as zero."""
    if world() == 1:
        return
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad /= world()


def copy_first(tensors: Iterable[Tensor]) -> None:
    """Copy the tensors of rank 0 to all processes."""
    if world() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def from_rank_0(value: T) -> T:
    """The value that rank 0 passes, in all processes. Also a barrier: they wait for one another."""
    if world() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]
