"""Training on several processes, each with a part of every batch: what `torchrun` starts. And the device in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import distributed

from indexes.errors import CrosslookError
from retrieval.encoders.torch_start import without_cudnn_attention

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")

BUCKET = 16_000_000  # elements of gradients that travel together


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the processes that `torchrun` started, if any.

    device: `cpu` or `cuda`; of several GPUs each process takes one. Raises `CrosslookError` if there are fewer GPUs
    than processes."""
    if device == "cuda":
        take_gpu()
        without_cudnn_attention(device)
    if not distributed.is_torchelastic_launched():
        yield
        return
    # The others wait while the first computes features and judges, however long that takes.
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def take_gpu() -> None:
    """Makes one GPU the current one of this thread: of several, each process that `torchrun` started takes another.

    Raises `CrosslookError` if there are fewer GPUs than processes."""
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= gpus:
        raise CrosslookError(f"there are more processes than GPUs: --nproc-per-node {gpus}")
    torch.cuda.set_device(local_rank)


def current_device() -> torch.device:
    """The device on which training runs: where new tensors are made."""
    return torch.empty(0).device


def on_device(values: NDArray[Any]) -> Tensor:
    """The same values on the device on which training runs. They travel to a GPU from pinned memory, so that the thread
    does not wait for them."""
    tensor, device = torch.from_numpy(values), current_device()
    if device.type == "cuda" and tensor.numel():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def as_float(values: NDArray[Any]) -> Tensor:
    """float32 of the same shape, on the device on which training runs. float16 travels to a GPU as it is."""
    if current_device().type == "cpu":
        return torch.from_numpy(np.asarray(values, dtype=np.float32))
    return on_device(np.array(values)).float()


def rank() -> int:
    """Of this process. The process of rank 0 judges and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over all processes. A parameter that was not used here counts as zero.

    Gradients travel in buckets: many small messages would each wait for the slowest process. `DistributedDataParallel`
    does not fit here: it follows calls of one module's `forward`, where stages call parts of theirs, and not all of
    them in every epoch."""
    if world() == 1:
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
    sent = [(bucket, torch.cat([gradient.flatten() for gradient in bucket])) for bucket in _buckets(gradients)]
    works = [distributed.all_reduce(flat, async_op=True) for _, flat in sent]
    for (bucket, flat), work in zip(sent, works, strict=True):
        work.wait()
        flat /= world()
        for gradient, mean in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, at most BUCKET elements together unless one is larger."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(item.numel() for item in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


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
