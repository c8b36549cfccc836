"""Whether something looks on while torch computes, so that nothing may depend on the numbers."""

import torch
from torch._subclasses.fake_tensor import FakeTensor


def is_traced(*tensors: torch.Tensor) -> bool:
    """Whether torch.compile, torch.export, torch.jit.trace (ONNX too) or a fake tensor mode records the computation."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or any(isinstance(t, FakeTensor) for t in tensors)
