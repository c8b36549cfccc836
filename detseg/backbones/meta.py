"""Networks without their numbers: names, shapes and counts of any network in a tenth of a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

T = TypeVar("T")
# What initialisation calls; on the meta device each of them goes through many lines of Python to do nothing, and
# elsewhere it makes numbers that nobody asks for.
_FILLS = (torch.Tensor.uniform_, torch.Tensor.normal_, init.uniform_, init.normal_, init.kaiming_uniform_)


class _NoFills(TorchFunctionMode):
    """Leaves tensors that initialisation would fill as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FILLS:
            return args[0] if args else kwargs["tensor"]  # type: ignore[index]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_numbers() -> Iterator[None]:
    """Modules made inside have shapes only: they are on the meta device, and nothing initialises them."""
    with torch.device("meta"), _NoFills():
        yield


def skeleton(build: Callable[[], T]) -> T:
    """The network that `build` makes, for its names and shapes; on the meta device where it can be built there."""
    try:
        with without_numbers():
            return build()
    except (RuntimeError, AssertionError):  # some networks compute while they are built
        with _NoFills():
            return build()
