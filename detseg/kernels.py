"""Numba's compiler, with the compiled code kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

_njit: Any = numba.njit  # its types know no options that are passed on


def njit(*signature: str, **options: Any) -> Callable[[Any], Any]:
    """`numba.njit(cache=True)`, or without a cache where numba finds no folder that it may write to.

    In a container with read-only packages and a user without a home, numba refuses to make a function with a cache at
    all, and importing would fail. There each process compiles for itself.
    """

    def decorate(function: Any) -> Any:
        try:
            return _njit(*signature, cache=True, **options)(function)
        except RuntimeError:
            return _njit(*signature, **options)(function)

    return decorate
