"""Convolutions that apply the activation behind them: on a CPU one pass over a map where there were two.

oneDNN bounds each number before it writes it. So nothing is left to keep for a gradient: it is done where nothing
learns, in the frozen stages of a training and in prediction, and otherwise convolution and activation follow each other
as before. The weights that rest are converted and laid out for oneDNN once and not at every step. What traces a network
(export, torch.compile, fake tensors, operation counters) and other devices see the plain layers.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from detseg.backbones.meta import evaluating, hooked
from detseg.backbones.padding import pad_zeros, same_padding
from detseg.backbones.watch import Watch

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
# What an activation is called in torch and in oneDNN, with its numbers there.
_POST_OPS: dict[type[nn.Module], tuple[str, str, list[float]]] = {
    nn.ReLU: ("relu", "relu", []),
    nn.ReLU6: ("hardtanh", "hardtanh", [0.0, 6.0]),
    nn.SiLU: ("silu", "swish", []),
    nn.Hardswish: ("hardswish", "hardswish", []),
}


# A head that levels share meets as many shapes of input as there are levels.
SHAPES = 4


class _Resting(NamedTuple):
    """A convolution's weights in the form that is computed with."""

    state: list[tuple[Tensor, int, int]]  # what they were made from: tensors, their memory and version
    weight: Tensor
    bias: Tensor | None


class FusedConv2d(nn.Conv2d):
    """`nn.Conv2d` and maybe the `activation` behind it; see the module."""

    pads_like_tensorflow = False
    _resting: dict[Any, _Resting] | None = None

    @property
    def activation(self) -> nn.Module | None:
        """What is done to the result, if anything."""
        return self._modules.get("activation")

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
        padding: Any = self.padding
        sides = 0, 0
        if self.pads_like_tensorflow:
            around = same_padding(x, self)
            sides = around[0][1] - around[0][0], around[1][1] - around[1][0]
            if self.groups > 1 and max(sides) < 2:
                # A kernel with zeros before it sees the same with as much padding at both ends: without a copy of x.
                padding = tuple(after for _, after in around)
            else:
                x, padding, sides = pad_zeros(x, *around[1], *around[0]), (0, 0), (0, 0)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        weight, bias = self._weights_at_rest(dtype, sides, padding, x.shape)
        _, name, numbers = ("", "none", []) if self.activation is None else _POST_OPS[type(self.activation)]
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x.detach().to(dtype), weight, bias, padding, self.stride, self.dilation, self.groups, name, numbers, ""
        )
        return out

    def _weights_at_rest(
        self, dtype: torch.dtype, sides: Any, padding: Any, shape: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Weight, with `sides` (rows, columns) of zeros before it, and bias in a number format; kept while they rest.

        The weight is laid out as oneDNN has it for inputs of a `shape`: with others it would compute too, but first lay
        it out anew, which can take longer than the convolution.
        """
        state = [(p, p.data_ptr(), p._version) for p in (self.weight, self.bias) if p is not None]
        if self._resting is None:
            self._resting = {}
        key = dtype, sides, padding, shape
        kept = self._resting.get(key)
        if kept is None or not _same(kept.state, state):
            if len(self._resting) >= SHAPES:
                self._resting.pop(next(iter(self._resting)), None)
            with torch.no_grad():
                weight = F.pad(self.weight, (sides[1], 0, sides[0], 0)).to(dtype)
                packed = torch.ops.mkldnn._reorder_convolution_weight(
                    weight, padding, self.stride, self.dilation, self.groups, shape
                )
                bias = None if self.bias is None else self.bias.to(dtype)
            self._resting[key] = kept = _Resting(state, packed, bias)
        return kept.weight, kept.bias

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again."""
        return {name: value for name, value in self.__dict__.items() if name != "_resting"}


def _same(old: list[tuple[Tensor, int, int]], new: list[tuple[Tensor, int, int]]) -> bool:
    return len(old) == len(new) and all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(old, new, strict=True))


def _rests(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether nothing is to be recorded of a convolution of x, on a CPU, outside of any tracing."""
    weight = conv.weight
    watched = torch.jit.is_tracing() or torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
    if not _AVAILABLE or watched or type(x) is not Tensor or x.device.type != "cpu" or weight.is_inference():
        return False
    if x.numel() == 0 or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return dtype in (torch.bfloat16, torch.float32) and (torch.is_autocast_enabled("cpu") or weight.dtype == dtype)


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
        conv._modules["activation"] = activation
        for name in names[activation]:
            net.set_submodule(name, nn.Identity())
    return len(pairs)


def _pairs(net: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Convolutions and the activations that alone take their output, and nothing else; and nothing hooks them."""
    convs = [m for m in net.modules() if type(m) is nn.Conv2d or (isinstance(m, FusedConv2d) and m.activation is None)]
    convs = [m for m in convs if m.padding_mode == "zeros" and not isinstance(m.padding, str) and not m._forward_hooks]
    activations = [m for m in net.modules() if type(m) in _POST_OPS and not (m._forward_hooks or m._forward_pre_hooks)]
    takes: dict[nn.Module, list[Tensor]] = {module: [] for module in activations}
    watch = Watch([conv.weight for conv in convs])
    with evaluating(net), hooked(activations, before=lambda m, inputs: takes[m].append(inputs[0])), watch:
        given = {id(tensor) for tensor in tree_leaves(net(example))}
    activation_of = {id(x): module for module, taken in takes.items() for x in taken}
    pairs = []
    for conv in convs:
        made = watch.calls[id(conv.weight)]
        found = {activation_of.get(id(call.output)) for call in made if "convolution" in call.name}
        activation = found.pop() if len(found) == 1 else None
        if activation is None or len(takes[activation]) != len(made):
            continue
        outputs = [(call.output, watch.calls[id(call.output)]) for call in made]
        first = all(takers[0].name.rstrip("_") == _POST_OPS[type(activation)][0] for _, takers in outputs)
        # In place it may be taken by others too, once it is activated.
        if first and all(t[0].output is x or (len(t) == 1 and id(x) not in given) for x, t in outputs):
            pairs.append((conv, activation))
    return pairs
