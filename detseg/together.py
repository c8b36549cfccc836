"""The loss of a batch that several processes share, however it is divided among them.

Each has the gradient of its own images, and the mean of these trains the model. Where a loss is a sum over objects
divided by their number, that mean would weigh an object by how many others its process has. Divided by their number in
all processes (of which each takes its part), it is the gradient of the whole batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_world: ContextVar[int] = ContextVar("world", default=1)


@contextmanager
def training_together(world: int) -> Iterator[None]:
    """Inside, `divisor` and `sums` are those of so many processes, all of which must come to each of their calls."""
    before = _world.set(world)
    try:
        yield
    finally:
        _world.reset(before)


def divisor(count: Tensor, least: float = 1.0) -> Tensor:
    """What a process's sums over things are divided by: their `count`, a scalar, or `least` if that is more.

    Of several processes the count in all, divided by the number of processes: the mean over these of the quotients is
    the quotient of the sums.
    """
    return sums(count).clamp(min=least) / _world.get() if _world.get() > 1 else count.clamp(min=least)


def sums(values: Tensor) -> Tensor:
    """Sums over all processes, for losses that are no sum over images.

    The gradient is the one whose mean over the processes is that of the sums.
    """
    world = _world.get()
    if world == 1:
        return values
    import torch.distributed

    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    own = values * world
    return own + (total - own).detach() if values.requires_grad else total
