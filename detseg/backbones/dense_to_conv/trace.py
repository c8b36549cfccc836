"""A network as a graph of calls in which pieces that map maps to maps stay whole."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from detseg.backbones.measure import first_line
from detseg.backbones.meta import hooked

# Never opened, also where another library derives from them.
_SINGLE = (nn.Linear, nn.BatchNorm1d, nn.GroupNorm)


def trace(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """The graph of `model`, shapes for `example` noted in each node's ``meta["tensor_meta"]``.

    Modules that turn maps into maps of more than one cell are single calls, whatever they do inside. All others are
    opened, but for those that turn maps into one cell and decide by what their input is (the fully connected layers of
    timm's VGGs, which enlarge maps that are too small for them).
    """
    try:
        whole = _whole_modules(model, example)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot run on images of {tuple(example.shape[1:])}: "
            f"{first_line(error)}; give the input_size it was trained with"
        ) from error
    try:
        graph = _Tracer(whole).trace(model)
        graph_module = fx.GraphModule(model, graph)
        with torch.no_grad():
            ShapeProp(graph_module).propagate(example)
    except Exception as error:  # whatever the network's own code raises on being given placeholders
        raise ValueError(
            f"torch.fx cannot trace {type(model).__name__}: {first_line(error)}; "
            "its forward may not decide by what its input is"
        ) from error
    return graph_module


class _Tracer(fx.Tracer):
    def __init__(self, whole: set[nn.Module]) -> None:
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules with one call in the graph."""
        if m in self.whole or isinstance(m, _SINGLE):
            return True
        return super().is_leaf_module(m, module_qualified_name) and not list(m.children())


def _whole_modules(model: nn.Module, example: Tensor) -> set[nn.Module]:
    """The modules with one call in the graph, found by a run: see `trace`."""
    whole: set[nn.Module] = set()
    to_one_cell: set[nn.Module] = set()

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = output if isinstance(output, list | tuple) else [output]
        if all(isinstance(x, Tensor) and x.ndim == 4 for x in (*inputs, *outputs)):
            (whole if all(x.shape[-2:].numel() > 1 for x in outputs) else to_one_cell).add(module)

    # Sequentials are always opened: a final pooling may stand at the end of one.
    candidates = [m for m in model.modules() if m is not model and not isinstance(m, nn.Sequential)]
    with hooked(candidates, note), torch.no_grad():
        output = model(example)
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"a classifier gives (N, K), this one {shape}")
    return whole | {module for module in to_one_cell if not _opens(module, whole)}


def _opens(module: nn.Module, whole: set[nn.Module]) -> bool:
    """Whether torch can trace a module by itself."""
    try:
        _Tracer(whole).trace(module)
    except Exception:  # see `trace`
        return False
    return True
