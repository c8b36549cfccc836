"""What differs where something looks on while torch computes, and nothing may depend on the numbers."""

import torch
from torch._subclasses.fake_tensor import FakeTensor


def best_first(scores: torch.Tensor) -> torch.Tensor:
    """Places (..., P) of scores (..., P), the highest first, equal ones by rising place."""
    if torch.jit.is_tracing():  # ONNX has no stable sort, but its TopK does so
        return scores.topk(scores.shape[-1]).indices
    return scores.argsort(dim=-1, descending=True, stable=True)


def is_traced(*tensors: torch.Tensor) -> bool:
    """Whether torch.compile, torch.export, torch.jit.trace (ONNX too) or a fake tensor mode records the computation."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or any(isinstance(t, FakeTensor) for t in tensors)
