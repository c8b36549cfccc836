"""Networks without their numbers: names, shapes and counts of any network in a tenth of a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# What initialisation calls; on the meta device each of them goes through many lines of Python to do nothing.
_FILLS = (torch.Tensor.uniform_, torch.Tensor.normal_)


class _NoFills(TorchFunctionMode):
    """Leaves tensors that hold no numbers as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FILLS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_numbers() -> Iterator[None]:
    """Modules made inside have shapes only: they are on the meta device, and nothing initialises them."""
    with torch.device("meta"), _NoFills():
        yield
