"""The rules by which `dense_to_conv` rewrites a traced classifier, one call at a time."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from detseg.backbones.measure import pair

_FLATTENING = {torch.flatten, torch.reshape, torch.squeeze}
_FLATTENING_METHODS = {"flatten", "view", "reshape", "squeeze"}
_ADAPTIVE: dict[Any, type[nn.Module]] = {
    F.adaptive_avg_pool2d: nn.AvgPool2d,
    F.adaptive_max_pool2d: nn.MaxPool2d,
    nn.AdaptiveAvgPool2d: nn.AvgPool2d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
}
_POOLS: dict[Any, type[nn.Module]] = {F.avg_pool2d: nn.AvgPool2d, F.max_pool2d: nn.MaxPool2d}
# They do nothing in evaluation, so they may stand where a norm or means are left to the next layer.
_DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Number by number, so the same on (N, C) and (N, C, h, w).
_ELEMENTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.PReLU, *_DROPOUTS,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS = {
    F.relu, F.relu6, F.gelu, F.silu, F.leaky_relu, F.hardswish, F.hardsigmoid, F.elu, F.celu, F.selu, F.mish,
    torch.relu, torch.tanh, torch.sigmoid, F.tanh, F.sigmoid, operator.add, operator.mul, operator.sub,
    operator.truediv, torch.add, torch.mul,
}  # fmt: skip
_SOFTMAXES = {F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax"}
_NORM_FUNCTIONS = {F.group_norm, F.layer_norm, F.rms_norm, F.instance_norm, torch.group_norm, torch.layer_norm}
_ELEMENTWISE_METHODS = {"relu", "tanh", "sigmoid", "contiguous", "clone", "float"}


@dataclass(frozen=True)
class Layout:
    """How the numbers of a flat (N, F) tensor lie in the map it stands for now: F = channels · height · width."""

    channels: int
    height: int
    width: int
    # Neighbours of the original map lie so many cells apart: pooling that was strided takes every place now.
    step: tuple[int, int] = (1, 1)
    # height · width were means over unequal parts of a map of so many rows and columns. It is that map still, and the
    # next layer has to take the means.
    parted: tuple[int, int] | None = None
    # (F,) both: the next layer has to multiply by one and add the other, a batch norm's.
    scale: Tensor | None = None
    shift: Tensor | None = None


class Converter:
    """Rewrites the graph of a traced classifier in place."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.flat: dict[fx.Node, Layout] = {}  # new nodes that stand for flat tensors
        self.steps: dict[fx.Node, tuple[int, int]] = {}  # maps behind a pooling whose stride was taken away
        self.parted: dict[fx.Node, tuple[int, int]] = {}  # maps that a pooling to unequal parts was left out of
        self.report: list[tuple[str, str]] = []
        self.unknown: ValueError | None = None  # about the last map that became neither a map nor flat

    def run(self) -> list[tuple[str, str]]:
        """Rewrite the graph; returns pairs of a layer and what it became."""
        for node in list(self.module.graph.nodes):
            if node.op in ("call_module", "call_function", "call_method"):
                self._visit(node)
        return self.report

    def _visit(self, node: fx.Node) -> None:
        source = next((n for n in node.all_input_nodes if n in self.flat), None)
        if source is not None:
            self._visit_flat(node, self.flat[source])
            return
        before, after = (_shape(n) for n in (_first_input(node), node))
        if before is None or after is None or len(before) != 4:
            return
        layer = self._layer(node)
        parted = self.parted.get(_first_input(node))
        if parted is not None and type(layer) in (*_DROPOUTS, nn.Identity):
            self.parted[node] = parted
            return
        if parted is not None and len(after) != 2:
            raise self._refusal(node, f"a layer between pooling to {before} and the fully connected layers")
        if _is_global_mean(node, before, after):
            self._pool(node, nn.AvgPool2d, before[-2:], (1, 1))
        elif (kind := _ADAPTIVE.get(type(layer)) or _ADAPTIVE.get(node.target)) is not None:
            self._pool(node, kind, before[-2:], after[-2:])
        elif after[-2:] == (1, 1) and before[-2:] != (1, 1) and (pool := _last_pool(node, layer)) is not None:
            kind, kernel = pool
            if kernel != tuple(before[-2:]):
                raise self._refusal(node, f"a pooling that leaves one cell of {before[-2]} x {before[-1]}")
            self._pool(node, kind, before[-2:], (1, 1))
        elif before[-2:] == (1, 1) and _is_norm(layer):
            self._replace(node, self._insert(node, _EachCell(layer, (1, 1)), _first_input(node)))
        elif before[-2:] == (1, 1) and node.target in _NORM_FUNCTIONS:
            raise self._refusal(node, "a norm of the pooled map, called as a function and not as a layer,")
        elif len(after) == 2:
            self._flatten(node, layer, before, after)
        elif len(after) == 3 and self._flattens(node, layer) and self._flattened_on(node):
            self._note(node, "nothing")  # rows and columns first, then all: the second one does both
            self._replace(node, _first_input(node))
        elif (step := self._step_of(node)) is not None:
            self._between(node, layer, step)
        elif len(after) != 4:  # a mistake only if what it leads to is no map again, as with attention
            self.unknown = self._refusal(node, f"what turns a map {before[1:]} into {after[1:]}")

    def _pool(self, node: fx.Node, kind: type[nn.Module], size: tuple[int, ...], cells: tuple[int, ...]) -> None:
        """Adaptive or global pooling from `size` to `cells`: a window at stride 1, or nothing."""
        if size[0] % cells[0] or size[1] % cells[1]:
            self._part(node, kind, size, cells)
            return
        window = (size[0] // cells[0], size[1] // cells[1])
        source = _first_input(node)
        if window == (1, 1):
            new = source
            self._note(node, "nothing: it changes nothing at the training size")
        else:
            new = self._insert(node, kind(window, stride=1), source)
            self.steps[new] = window if cells != (1, 1) else (1, 1)
        if len(_shape(node) or ()) == 2:  # a mean over rows and columns flattens too
            self.flat[new] = Layout(_shape(source)[1], 1, 1)  # type: ignore[index]
        self._replace(node, new)

    def _part(self, node: fx.Node, kind: type[nn.Module], size: tuple[int, ...], cells: tuple[int, ...]) -> None:
        """Pooling to parts that are not alike: the next layer can have the weights of such means in its own."""
        if kind is not nn.AvgPool2d:
            what = f"pooling {size[0]} x {size[1]} cells to {cells[0]} x {cells[1]}, the maxima of unequal parts,"
            raise self._refusal(node, what)
        new = self._left_to_the_next(node, _first_input(node))
        self.parted[new] = (size[0], size[1])
        self._replace(node, new)

    def _step_of(self, node: fx.Node) -> tuple[int, int] | None:
        return next((self.steps[n] for n in node.all_input_nodes if self.steps.get(n, (1, 1)) != (1, 1)), None)

    def _between(self, node: fx.Node, layer: nn.Module | None, step: tuple[int, int]) -> None:
        """A layer between a pooling whose stride was taken away and the flattening."""
        pointwise = isinstance(layer, nn.Conv2d) and pair(layer.kernel_size) == (1, 1)
        if not (pointwise or isinstance(layer, nn.BatchNorm2d) or self._is_elementwise(node, layer)):
            raise self._refusal(node, f"a layer between pooling to {_shape(node)} and the fully connected layers")
        self.steps[node] = step

    def _flattened_on(self, node: fx.Node) -> bool:
        """Whether all that becomes of (N, C, h · w) is (N, C · h · w)."""
        return all(len(_shape(user) or ()) == 2 and self._flattens(user, self._layer(user)) for user in node.users)

    def _flatten(self, node: fx.Node, layer: nn.Module | None, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        if not self._flattens(node, layer) or after[1] != before[1] * before[2] * before[3]:
            raise self._refusal(node, f"what turns a map {before[1:]} into {after[1:]}")
        source = _first_input(node)
        step, parted = self.steps.get(source, (1, 1)), self.parted.get(source)
        self.flat[source] = Layout(before[1], before[2], before[3], step, parted)
        self._note(node, "nothing")
        self._replace(node, source)

    def _visit_flat(self, node: fx.Node, layout: Layout) -> None:
        layer = self._layer(node)
        source = _first_input(node)
        after = _shape(node)
        if isinstance(layer, nn.Linear):
            new = self._insert(node, _convolution(layer, layout), source)
            layout = Layout(layer.out_features, 1, 1)
        elif isinstance(layer, nn.BatchNorm1d) and (layout.height, layout.width) == (1, 1):
            new = self._insert(node, _norm(layer), source)
        elif isinstance(layer, nn.BatchNorm1d):  # other numbers for each cell
            new, layout = self._left_to_the_next(node, source), _with_norm(layout, layer)
        elif isinstance(layer, nn.LayerNorm) and (layout.height, layout.width) == (1, 1):
            new = self._insert(node, _ChannelNorm.of(layer), source)
        elif _is_norm(layer) and (layout.height, layout.width) == (1, 1):
            new = self._insert(node, _EachCell(layer, ()), source)
        elif isinstance(layer, nn.Dropout1d):  # knows no maps
            new = self._insert(node, nn.Dropout(layer.p), source)
        elif isinstance(layer, nn.Softmax | nn.LogSoftmax) and layer.dim in (1, -1):
            new = self._insert(node, type(layer)(1), source)
        elif node.target in _SOFTMAXES and _argument(node, "dim") in (1, -1):
            node.update_arg(1, 1) if len(node.args) > 1 else node.update_kwarg("dim", 1)
            new = node
        elif node.target is F.dropout:  # traced in evaluation mode it would never drop anything again
            new = self._insert(node, nn.Dropout(float(_argument(node, "p", 0.5))), source)
        elif self._is_elementwise(node, layer):
            if isinstance(layer, nn.PReLU) and layer.num_parameters > 1 and (layout.height, layout.width) != (1, 1):
                raise self._refusal(node, "a slope for each number of the flattened map")
            if type(layer) not in (*_DROPOUTS, nn.Identity):
                if layout.parted is not None:
                    raise self._refusal(node, "what comes between the means of unequal parts and the next layer")
                if layout.scale is not None:
                    raise self._refusal(node, "what comes between batch norm of a flattened map and the next layer")
            new = node
        elif node.target is torch.cat:
            layout = self._joined(node)
            new = node
        elif self._flattens(node, layer) and after == _shape(source):
            new = source
            self._note(node, "nothing")
        else:
            raise self._refusal(node, "what comes behind the flattening")
        self.flat[new] = layout
        if new is not node:
            self._replace(node, new)

    def _joined(self, node: fx.Node) -> Layout:
        """Flat tensors side by side: channels one after the other."""
        layouts = [self.flat.get(source) for source in node.all_input_nodes]
        dim = _argument(node, "dim", 0)
        alike = all(x is not None and (x.height, x.width) == (1, 1) for x in layouts)
        if not alike or dim not in (1, -1):
            raise self._refusal(node, "joining a flat tensor with something else")
        node.args, node.kwargs = (node.all_input_nodes, 1), {}  # the last dimension is the columns now
        return Layout(sum(x.channels for x in layouts if x is not None), 1, 1)

    def _flattens(self, node: fx.Node, layer: nn.Module | None) -> bool:
        known = _FLATTENING if node.op == "call_function" else _FLATTENING_METHODS
        return isinstance(layer, nn.Flatten) or node.target in known

    def _is_elementwise(self, node: fx.Node, layer: nn.Module | None) -> bool:
        if layer is not None:
            return type(layer) in _ELEMENTWISE
        if node.op == "call_method":
            return node.target in _ELEMENTWISE_METHODS
        # Sums with another tensor could be meant for the flat form of this one.
        return node.target in _ELEMENTWISE_FUNCTIONS and len(node.all_input_nodes) == 1

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _left_to_the_next(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """What stands for `node` where the next layer does its work: not `source` itself, which others may use too."""
        return self._insert(node, nn.Identity(), source, "a part of the next layer")

    def _insert(self, node: fx.Node, layer: nn.Module, source: fx.Node, what: str | None = None) -> fx.Node:
        """A call before `node` of `layer`, which gets the node's own name where that is a module."""
        name = str(node.target) if node.op == "call_module" else f"converted_{node.name}"
        if node.op == "call_module" and sum(n.target == node.target for n in self.module.graph.nodes) > 1:
            name = f"{name}_{node.name}"  # a layer that is called again, perhaps on something else
        layer.train(self.module.training)
        self.module.add_submodule(name, layer)
        self._note(node, what or repr(layer))
        with self.module.graph.inserting_before(node):
            return self.module.graph.call_module(name, (source,))

    def _replace(self, node: fx.Node, new: fx.Node) -> None:
        new.meta.setdefault("tensor_meta", node.meta["tensor_meta"])
        node.replace_all_uses_with(new)
        self.module.graph.erase_node(node)

    def _note(self, node: fx.Node, what: str) -> None:
        self.report.append((str(node.target) if node.op == "call_module" else node.name, what))

    def _refusal(self, node: fx.Node, what: str) -> ValueError:
        layer = self._layer(node)
        name = f"{node.target} ({layer})" if layer is not None else node.name
        return ValueError(f"{name}: {what} has no convolutional form; change the network, or its input_size")


def _convolution(layer: nn.Linear, layout: Layout) -> nn.Conv2d:
    """The convolution with the numbers of `layer`; its weight shares their memory, but where it does more than that."""
    kernel = layout.parted or (layout.height, layout.width)
    step = tuple(s if k > 1 else 1 for s, k in zip(layout.step, kernel, strict=True))
    with torch.device("meta"):  # its own random numbers would be made for nothing
        result = nn.Conv2d(
            layout.channels, layer.out_features, kernel, dilation=(step[0], step[1]), bias=layer.bias is not None
        )
    weight, bias = layer.weight.detach(), layer.bias
    if layout.scale is not None and layout.shift is not None:
        added = weight @ layout.shift
        bias = nn.Parameter(added if bias is None else bias.detach() + added, requires_grad=layer.weight.requires_grad)
        weight = weight * layout.scale
    weight = weight.view(layer.out_features, layout.channels, layout.height, layout.width)
    if layout.parted is not None:
        # Out of part i comes the sum over its cells y of mean[y, i] · x[y]. So what weighs the parts by w[i] weighs
        # the cells by the sum over all parts of mean[y, i] · w[i]: a part's weight is spread over its cells.
        down, across = (_means(n, parts, weight) for n, parts in zip(kernel, weight.shape[-2:], strict=True))
        weight = torch.einsum("ocij,yi,xj->ocyx", weight, down, across).contiguous()
    result.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    result.bias = bias
    return result


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W), each cell by itself."""

    @classmethod
    def of(cls, layer: nn.LayerNorm) -> _ChannelNorm:
        """With the numbers of a layer norm of (N, C)."""
        result = cls(layer.normalized_shape, layer.eps, elementwise_affine=False)
        result.elementwise_affine, result.weight, result.bias = layer.elementwise_affine, layer.weight, layer.bias
        return result

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _EachCell(nn.Module):
    """A layer made for the single cell of a pooled map, applied to every cell of (N, C, H, W) by itself.

    It gets them as (cells, C, 1, 1), or flat for a `place` of ().
    """

    def __init__(self, layer: nn.Module, place: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.place = layer, place

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        cells = x.movedim(1, -1)
        result: Tensor = self.layer(cells.reshape(-1, x.shape[1], *self.place))
        return result.view(cells.shape).movedim(-1, 1)


def _is_norm(layer: nn.Module | None) -> TypeGuard[nn.Module]:
    """Whether it is a norm of each image by itself; of a single cell it has a form for each cell."""
    return isinstance(layer, nn.GroupNorm) or type(layer) in (nn.LayerNorm, nn.RMSNorm)


def _with_norm(layout: Layout, norm: nn.BatchNorm1d) -> Layout:
    """`layout` with a batch norm of all its numbers, as it is in evaluation."""
    # Without, it would not have run on the one image of the trace.
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.detach())
    shift = (0 if norm.bias is None else norm.bias.detach()) - norm.running_mean * scale
    if layout.scale is not None and layout.shift is not None:  # of a norm before it
        scale, shift = layout.scale * scale, layout.shift * scale + shift
    return replace(layout, scale=scale, shift=shift)


def _means(cells: int, parts: int, like: Tensor) -> Tensor:
    """(cells, parts): how much of each cell adaptive pooling puts into each part; torch's own parts, which overlap."""
    return F.adaptive_avg_pool1d(torch.eye(cells, dtype=like.dtype, device=like.device)[None], parts)[0]


def _norm(layer: nn.BatchNorm1d) -> nn.BatchNorm2d:
    result = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(result, name, getattr(layer, name))
    return result


def _first_input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0] if node.all_input_nodes else node


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return None if shape is None else tuple(shape)


def _argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """What a function or method of a tensor is called with beside the tensor."""
    return node.kwargs.get(name, node.args[1] if len(node.args) > 1 else default)


def _is_global_mean(node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """``x.mean((2, 3))`` of a map."""
    named: Callable[..., Tensor] | str = "mean" if node.op == "call_method" else torch.mean
    if node.op not in ("call_method", "call_function") or node.target != named:
        return False
    dims = _argument(node, "dim", ())
    dims = (dims,) if isinstance(dims, int) else dims
    return sorted(d % 4 for d in dims) == [2, 3] and after[:2] == before[:2]


def _last_pool(node: fx.Node, layer: nn.Module | None) -> tuple[type[nn.Module], tuple[int, int] | None] | None:
    """Kind and kernel of a pooling, as a layer or as a function; a kernel that is computed is None if not known."""
    for kind in (nn.AvgPool2d, nn.MaxPool2d):
        if isinstance(layer, kind):
            return kind, pair(layer.kernel_size)
    if node.op != "call_function" or node.target not in _POOLS:
        return None
    kernel = _argument(node, "kernel_size")
    source = _shape(_first_input(node))
    if isinstance(kernel, fx.Node):  # x.size()[2:], what it was at the training size; any other tensor is not known
        if source is None or "tensor_meta" in kernel.meta:
            return _POOLS[node.target], None
        return _POOLS[node.target], (source[-2], source[-1])
    return _POOLS[node.target], pair(kernel)
