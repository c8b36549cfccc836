"""The mean of the gradients of several processes, rounded in the same way wherever they lie.

Torch exchanges gradients in buckets that are laid out anew after a process's first step, so those of a resumed run lie
elsewhere than those of one that went on. Where a sum of more than two numbers begins depends on that, on CPUs; here it
is with the first process. Two numbers have but one sum, and kernels of GPUs round as they come anyway.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


def exchange_in_order(model: nn.Module) -> None:
    """Have a prepared model sum the gradients of more than two processes on CPUs in the order of the processes."""
    if not isinstance(model, DistributedDataParallel):
        return
    if distributed.get_backend() == "gloo" and distributed.get_world_size() > 2:
        model.register_comm_hook(None, _mean_of_bucket)


# Torch wants the annotations of a hook to be these classes, not their names.
def _mean_of_bucket(_: Any, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(mean_in_order(bucket.buffer()))
    return future


def mean_in_order(values: Tensor) -> Tensor:
    """(N,) the mean of all processes' `values` (N,), summed from the first process on; the same bits in all.

    Each sums a part, of all, so that no more is sent than by torch's own exchange.
    """
    world = distributed.get_world_size()
    parts = nn.functional.pad(values, (0, -len(values) % world))
    received = torch.empty_like(parts)
    distributed.all_to_all_single(received, parts)
    first, *others = received.view(world, -1)
    for other in others:
        first += other
    distributed.all_gather(list(parts.view(world, -1)), first / world)
    return parts[: len(values)]
