"""Batch norms that do something, for tests: fresh ones keep what they are given nearly as it is."""

import torch
from torch import nn


def shake_norms(net: nn.Module) -> int:
    """Give every batch norm statistics and an affine map that matter; returns how many there are."""
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        for tensor, low, high in (
            (norm.running_mean, -0.2, 0.2),
            (norm.running_var, 0.5, 2.0),
            (norm.weight, 0.5, 1.5),
        ):
            tensor.data.uniform_(low, high, generator=generator)
        norm.bias.data.uniform_(-0.2, 0.2, generator=generator)
    return len(norms)
