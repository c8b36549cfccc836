"""Classifiers as convolutional networks, which run on images of any size and answer for every place in them.

A fully connected layer on a flattened map of (C, h, w) and a convolution of kernel (h, w) are the same numbers in the
same order, (O, C·h·w) and (O, C, h, w); layers behind it become 1x1 convolutions (Long et al. 2015, arXiv:1411.4038,
section 3.1; Sermanet et al. 2014, arXiv:1312.6229). What pools the whole map becomes a window of its size.

At the training size the result is one cell, the classifier's answer. On a larger image cell (y, x) is the answer for
the crop of that size whose corner is at (stride · y, stride · x), exactly so for networks that pad nothing inside and
have no layer that looks at its whole map, as squeeze and excitation does (docs/backbones.md).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from detseg.backbones.dense_to_conv.rules import Converter
from detseg.backbones.dense_to_conv.trace import trace


class Convolutional(nn.Module):
    """What `dense_to_conv` returns: (N, C, H, W) to (N, K, h, w).

    Attributes:
        net: the converted network; layers keep their names, fully connected ones hold convolutions now.
        report: pairs of a layer's name and what it became, in the order of the calls.
        input_size: height and width at which one cell comes out.
    """

    def __init__(self, net: fx.GraphModule, report: list[tuple[str, str]], input_size: tuple[int, int]) -> None:
        super().__init__()
        self.net = net
        self.report = tuple(report)
        self.input_size = input_size

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W), normalised as the classifier wants it, to (N, K, h, w); ValueError if below `input_size`."""
        height, width = self.input_size
        if images.ndim != 4 or images.shape[-2] < height or images.shape[-1] < width:
            raise ValueError(f"images must be (N, C, H, W) of at least {height} x {width}, got {tuple(images.shape)}")
        out: Tensor = self.net(images)
        return out


def dense_to_conv(model: nn.Module, input_size: tuple[int, int] = (224, 224)) -> Convolutional:
    """A classifier as a network of convolutions only, with copies of its weights; see the module's text.

    Handled are fully connected layers, flattening, norms, dropout and activations behind it, adaptive and global
    pooling: detseg's, torchvision's and most of timm's classifiers, and detseg's localizers. The result, in evaluation
    mode, is checked: at `input_size` it equals the classifier's, on an image twice as wide there is one row of cells.

    Args:
        model: (N, C, H, W) to (N, K), a network that `torch.fx` can trace; or one with a method `plain` that does the
            same for tracing, as detseg's trained classifiers and localizers have. It is left as it is.
        input_size: height and width of the images it was trained with.

    Raises:
        ValueError: something in the network has no convolutional form, which the message names.
    """
    if not isinstance(input_size, Sequence) or len(input_size) != 2 or min(input_size) < 1:
        raise ValueError(f"input_size must be height and width in pixels, such as (224, 224), got {input_size}")
    model = copy.deepcopy(model).eval()
    kind: Any = type(model)
    if hasattr(kind, "plain"):  # torch.fx traces the `forward` of a class
        model.__class__ = type(kind.__name__, (kind,), {"forward": kind.plain})
    example = _example(model, input_size)
    graph_module = trace(model, example)
    converter = Converter(graph_module)
    report = converter.run()
    graph_module.graph.eliminate_dead_code()
    graph_module.graph.lint()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    result = Convolutional(graph_module, report, (input_size[0], input_size[1])).eval()
    _check_same(model, result, example, converter.unknown)
    return result


def _example(model: nn.Module, input_size: tuple[int, int]) -> Tensor:
    """One image of noise of the size, channels, device and dtype that `model` takes."""
    height, width = input_size
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has neither a convolution nor a fully connected layer to begin with")
    channels = first.in_channels if isinstance(first, nn.Conv2d) else max(first.in_features // (height * width), 1)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, height, width, generator=generator).to(first.weight)


@torch.no_grad()
def _check_same(model: nn.Module, result: Convolutional, example: Tensor, unknown: ValueError | None) -> None:
    """Raise ValueError unless the result is what it should be: `unknown`, if there is one, where it is flat still."""
    refused = f"{type(model).__name__} cannot be converted"
    wide = torch.cat([example, example], -1)
    try:
        expected, found, beside = model(example), result(example), result(wide)
    except RuntimeError as error:
        if unknown is not None:
            raise unknown from error
        told = str(error).strip().split("\n")[0]
        raise ValueError(f"{refused}: a layer of it takes maps of the training size only: {told}") from error
    if unknown is not None and found.shape == expected.shape:
        raise unknown
    if found.shape != (*expected.shape, 1, 1):
        raise ValueError(
            f"{refused}: at its training size the result is {tuple(found.shape)}, not {(*expected.shape, 1, 1)}; "
            f"is input_size {result.input_size} right?"
        )
    if not expected.isfinite().all():
        raise ValueError(f"{refused}: {_not_finite(model)}")
    difference = (found[..., 0, 0] - expected).abs().max()
    if not difference <= 1e-3 * expected.abs().max().clamp(min=1e-3):
        raise ValueError(
            f"{refused}: the result differs by {float(difference):.3g} at its training size; a layer does something "
            "that is not in its graph"
        )
    # Rows and columns that changed places before the flattening show only in images of another shape.
    rows, columns = beside.shape[-2:]
    if rows != 1 or columns < 2:
        raise ValueError(
            f"{refused}: an image twice as wide gives {rows} x {columns} cells, not one row of several; is the map "
            "flattened in another order than channels, rows, columns?"
        )


def _not_finite(model: nn.Module) -> str:
    """Why a network answers noise with NaN or infinity."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if bad := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        return (
            f"its weights hold NaN or infinity, {bad[0]} first ({len(bad)} of {len(weights)} tensors do); take weights "
            "of a training that did not fail"
        )
    dtype = next(iter(weights.values())).dtype
    return f"it answers noise with NaN or infinity, though its weights are finite: something overflows in {dtype}"
