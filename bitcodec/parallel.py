"""Several processes that train one codec, each on its part of every minibatch.

Sums over all processes have the gradient of the process's own part, so that the average of the
processes' gradients is the gradient of the whole minibatch, the entropy of its mean included.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from bitcodec.errors import ConfigError


@contextmanager
def joined_processes() -> Iterator[None]:
    """Train together with the other processes that torchrun started, where it started this one.

    Gloo connects processes on CPUs, NCCL those on GPUs, one each.

    Raises:
        ConfigError: there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or n_processes() > 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend, device = "cpu:gloo,cuda:nccl", int(os.environ["LOCAL_RANK"])
        if device >= torch.cuda.device_count():
            raise ConfigError(
                f"process {device} has no GPU of its own, there are {torch.cuda.device_count()}: "
                "start as many processes as GPUs"
            )
        torch.cuda.set_device(device)
    distributed.init_process_group(backend)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def n_processes() -> int:
    """Return how many processes train together; 1 unless torch.distributed was started."""
    started = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if started else 1


def rank() -> int:
    """Return which of the processes this is, from 0."""
    return distributed.get_rank() if n_processes() > 1 else 0


def own_rows(minibatch: torch.Tensor) -> torch.Tensor:
    """Return this process's rows of a minibatch, (b / n_processes, d).

    Raises:
        ConfigError: the rows do not divide evenly.
    """
    n = n_processes()
    if len(minibatch) % n:
        raise ConfigError(
            f"{len(minibatch)} rows of a minibatch do not divide among {n} processes: "
            f"pass a batch_size that is a multiple of {n}"
        )
    return minibatch if n == 1 else minibatch[rank() :: n]


def own_share(batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield this process's batches of those that all processes see alike."""
    for index, batch in enumerate(batches):
        if index % n_processes() == rank():
            yield batch


def mean_over_processes(own: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over the processes, with the gradient of the own part."""
    if n_processes() == 1:
        return own
    total = own.detach().clone()
    distributed.all_reduce(total)
    return (own - own.detach()) + total / n_processes()  # the same number in every process


def gather_rows(own: torch.Tensor) -> torch.Tensor:
    """Return the rows of every process's tensor, one process's after the other's.

    Args:
        own: (n, ...) of whole numbers, without a gradient; every process has as many rows.

    Returns:
        (n n_processes, ...), alike in all processes.
    """
    if n_processes() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(n_processes())]
    distributed.all_gather(parts, own)
    return torch.cat(parts)


def sum_over_processes(*tensors: torch.Tensor) -> None:
    """Replace tensors, which have no gradient, by their sums over the processes."""
    if n_processes() > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)


def any_process(own: bool) -> bool:
    """Say whether something holds in any of the processes, which all ask."""
    count = torch.tensor(float(own))
    sum_over_processes(count)
    return bool(count)


def is_alike(own: int) -> bool:
    """Say whether a number is the same in all processes, which all ask."""
    if n_processes() == 1:
        return True
    bounds = torch.tensor([own, -own])
    distributed.all_reduce(bounds, op=distributed.ReduceOp.MAX)
    return int(bounds.sum()) == 0


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace gradients by their means over the processes."""
    if n_processes() > 1:
        gradients = [weight.grad for weight in parameters if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= n_processes()
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))


def take_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Replace tensors by those of the first process, so that all go on alike."""
    if n_processes() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)
