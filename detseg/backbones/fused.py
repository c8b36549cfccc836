"""Convolutions that apply the activation behind them: on a CPU one pass over a map where there were two.

oneDNN bounds each number before it writes it. So nothing is left to keep for a gradient: it is done where nothing
learns, in the frozen stages of a training and in prediction, and otherwise convolution and activation follow each other
as before. Under autocast the weights that rest are converted once and not at every step. What traces a network (export,
torch.compile, fake tensors, operation counters) and other devices see the plain layers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from detseg.backbones.meta import evaluating, hooked
from detseg.backbones.padding import pad_zeros, same_padding
from detseg.backbones.watch import Watch, only_call

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
# oneDNN's name and numbers of what an activation does.
_POST_OPS: dict[type[nn.Module], Callable[[Any], tuple[str, list[float]]]] = {
    nn.ReLU: lambda _: ("relu", []),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: lambda _: ("swish", []),
    nn.Hardswish: lambda _: ("hardswish", []),
}


class FusedConv2d(nn.Conv2d):
    """`nn.Conv2d` and maybe the `activation` behind it; see the module."""

    activation: nn.Module | None = None
    pads_like_tensorflow = False
    _resting: tuple[Any, Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        if _rests(x, self):
            return self._forward_at_rest(x)
        out = self.convolve(x)
        return out if self.activation is None else self.activation(out)

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution alone, where something may learn."""
        return super().forward(x)

    def _forward_at_rest(self, x: Tensor) -> Tensor:
        padding, sides = self.padding, (0, 0)
        if self.pads_like_tensorflow:
            around = same_padding(x, self)
            sides = tuple(after - before for before, after in around)
            if self.groups > 1 and max(sides) < 2:
                # A kernel with zeros before it sees the same with as much padding at both ends: without a copy of x.
                padding = tuple(after for _, after in around)
            else:
                x, padding, sides = pad_zeros(x, *around[1], *around[0]), (0, 0), (0, 0)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        weight, bias = self._weights_at_rest(dtype, sides)
        name, numbers = ("none", []) if self.activation is None else _POST_OPS[type(self.activation)](self.activation)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x.detach().to(dtype), weight, bias, padding, self.stride, self.dilation, self.groups, name, numbers, ""
        )
        return out

    def _weights_at_rest(self, dtype: torch.dtype, sides: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Weight, with `sides` (rows, columns) of zeros before it, and bias in a number format; kept while they rest."""
        key = (dtype, sides, *(None if p is None else (p.data_ptr(), p._version) for p in (self.weight, self.bias)))
        if self._resting is None or self._resting[0] != key:
            with torch.no_grad():
                weight = (
                    F.pad(self.weight.to(dtype), (sides[1], 0, sides[0], 0)) if any(sides) else self.weight.to(dtype)
                )
                self._resting = key, weight, None if self.bias is None else self.bias.to(dtype)
        return self._resting[1:]

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again."""
        return {name: value for name, value in self.__dict__.items() if name != "_resting"}


def _rests(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether nothing is to be recorded of a convolution of x, on a CPU, outside of any tracing."""
    weight = conv.weight
    if not _AVAILABLE or x.device.type != "cpu" or weight.is_inference() or x.numel() == 0 or type(x) is not Tensor:
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return False
    half = torch.is_autocast_enabled("cpu")
    if half or x.dtype == torch.bfloat16:
        fits = torch.ops.mkldnn._is_mkldnn_bf16_supported() and (half or weight.dtype == x.dtype)
        fits = fits and (not half or torch.get_autocast_dtype("cpu") == torch.bfloat16)
    else:
        fits = x.dtype == weight.dtype == torch.float32
    watched = torch.jit.is_tracing() or torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
    return fits and not watched


@torch.no_grad()
def fuse_activations(net: nn.Module, example: Tensor) -> int:
    """Let every convolution do the activation that alone takes what it gives, in place; returns how many there were.

    Names and shapes of the weights stay. `example`, an input, is run once to see what follows what.
    """
    pairs = _pairs(net, example)
    names: dict[nn.Module, list[str]] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for conv, activation in pairs:
        if not isinstance(conv, FusedConv2d):
            conv.__class__ = FusedConv2d
        conv.activation = activation
        for name in names[activation]:
            net.set_submodule(name, nn.Identity())
    return len(pairs)


def _pairs(net: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Convolutions and the activations that alone take their output; both run exactly once, and nothing hooks them."""
    convs = [m for m in net.modules() if type(m) is nn.Conv2d or (isinstance(m, FusedConv2d) and m.activation is None)]
    convs = [m for m in convs if m.padding_mode == "zeros" and not isinstance(m.padding, str) and not m._forward_hooks]
    activations = [m for m in net.modules() if type(m) in _POST_OPS and not (m._forward_hooks or m._forward_pre_hooks)]
    takes: dict[nn.Module, list[Tensor]] = {module: [] for module in activations}
    watch = Watch([conv.weight for conv in convs])
    with evaluating(net), hooked(activations, before=lambda m, inputs: takes[m].append(inputs[0])), watch:
        given = {id(tensor) for tensor in tree_leaves(net(example))}
    activation_of = {id(taken[0]): module for module, taken in takes.items() if len(taken) == 1}
    pairs = []
    for conv in convs:
        made = only_call(watch.calls[id(conv.weight)], "convolution")
        if made is None or (activation := activation_of.get(id(made.output))) is None:
            continue
        takers = watch.calls[id(made.output)]
        # In place it may be taken by others too, once it is activated.
        alone = len(takers) == 1 and id(made.output) not in given
        if takers[0].output is made.output or alone:
            pairs.append((conv, activation))
    return pairs
