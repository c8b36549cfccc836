"""Depthwise max-pooling: the strongest of neighbouring maps instead of neighbouring places."""

from __future__ import annotations

from torch import Tensor, nn


class DepthwiseMaxPool(nn.Module):
    """Each output map is, place by place, the maximum of `size` maps in a row.

    Learnt filters that look for the same thing turned, thicker or brighter become one map that finds it in any form:
    the network learns to be invariant to it.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C / size, H, W).

        Raises:
            ValueError: C is no multiple of `size`.
        """
        if x.shape[1] % self.size:
            raise ValueError(
                f"{x.shape[1]} maps cannot be pooled {self.size} by {self.size}; "
                f"use a size that divides them, or convolutions with a multiple of {self.size} maps"
            )
        return x.unflatten(1, (-1, self.size)).amax(2)

    def extra_repr(self) -> str:
        """The size."""
        return f"size={self.size}"
