"""What a classifier looks at: the feature maps of its stages, and Grad-CAM.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) weighs each channel of the last feature map by how much a class's
score would rise with it. For a network that ends in global average pooling and one linear layer this is, but for a
factor, the class activation map of Zhou et al. (2016, arXiv:1512.04150).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detseg.backbones.meta import hooked


class Recording(NamedTuple):
    """What `record` saw."""

    logits: Tensor  # (N, K), with their graph
    maps: dict[int, Tensor]  # stride -> (N, C, h, w), the last map at it, the finest stride first
    filters: Tensor  # (O, 3, kh, kw), the kernels that look at the image itself
    extent: tuple[int, int]  # height and width that the maps span: more than the images' where a backbone pads them

    @property
    def deepest(self) -> Tensor:
        """The map that Grad-CAM looks at."""
        return self.maps[max(self.maps)]


def grad_cam(scores: Tensor, maps: Tensor) -> Tensor:
    """Grad-CAM of each score: the places that raise it, before it is enlarged to the image.

    Args:
        scores: (N, T) of T classes, before the softmax, computed from `maps`; row n from image n alone.
        maps: (N, C, h, w).

    Returns:
        (N, T, h, w), at least 0: ``relu(sum over c of mean over places of d score / d maps[c] * maps[c])``.
    """
    if scores.ndim != 2 or maps.ndim != 4 or len(scores) != len(maps):
        raise ValueError(f"scores must be (N, T) and maps (N, C, h, w), got {tuple(scores.shape)}, {tuple(maps.shape)}")
    if not (scores.requires_grad and maps.requires_grad):
        raise ValueError("the scores do not depend on the maps: compute both with gradients switched on")
    found = [maps.new_empty(len(maps), 0, *maps.shape[2:])]
    for column in scores.sum(0):
        (gradient,) = torch.autograd.grad(column, maps, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError("the scores do not depend on these maps; give maps that the network goes on from")
        weights = gradient.mean((2, 3), keepdim=True)
        found.append((weights * maps.detach()).sum(1, keepdim=True).relu())
    return torch.cat(found, 1)


def record(logits_of: Callable[[Tensor], Tensor], net: nn.Module, images: Tensor) -> Recording:
    """Run a classifier and keep the last feature map at each stride.

    Maps are what layers give at the sizes that convolutions give, larger than one cell: the deepest one is that of the
    last convolution and what follows it, as in the paper, not that of a last pooling.

    Args:
        logits_of: (N, 3, H, W) to (N, K); calls `net`, in evaluation mode.
        net: the convolutional part, or the whole network.
        images: (N, 3, H, W) floats.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be floats (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    # A backbone pads images at the right and below, to multiples of this.
    multiple = int(getattr(net, "size_multiple", 1))
    height, width = images.shape[-2:]
    extent = (height + -height % multiple, width + -width % multiple)
    recorder = _Recorder(images, extent)
    with torch.enable_grad(), hooked(net.modules(), recorder.end, before=recorder.begin):
        # Weights may be frozen: the graph then hangs on the images.
        logits = logits_of(images.detach().requires_grad_())
    name = getattr(net, "name", type(net).__name__)
    if recorder.filters is None or recorder.ends_in_tokens:
        raise ValueError(f"{name} does not end in the feature maps of convolutions; choose a convolutional network")
    if not recorder.maps:
        raise ValueError(
            f"{name} makes a single cell of {width} x {height} pixels: there is no place to point at. "
            "Give larger images"
        )
    return Recording(logits, dict(sorted(recorder.maps.items())), recorder.filters.detach(), extent)


class _Recorder:
    """Hooks for all modules of a network: `begin` before a module runs, `end` after it."""

    def __init__(self, images: Tensor, extent: tuple[int, int]) -> None:
        self.count, self.colours = images.shape[:2]
        self.extent = extent
        self.maps: dict[int, Tensor] = {}
        self.filters: Tensor | None = None
        self.ends_in_tokens = False
        self._sizes: set[torch.Size] = set()
        self._before: list[dict[int, Tensor]] = []  # the maps there were when each module that still runs began

    def begin(self, _module: nn.Module, _inputs: tuple[Any, ...]) -> None:
        """Remember the maps there are."""
        self._before.append(dict(self.maps))

    def end(self, module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the output if it is a feature map."""
        before = self._before.pop()
        if not isinstance(output, Tensor):
            return
        if isinstance(module, nn.Conv2d):
            self._sizes.add(output.shape[2:])
            # Some networks look at the image with several layers at once: the largest kernels show most.
            if module.in_channels == self.colours and (
                self.filters is None or module.weight[0, 0].numel() > self.filters[0, 0].numel()
            ):
                self.filters = module.weight
        # Attention's (N, heads, L, L) and maps with their channels last have four dimensions too, but other sizes.
        if output.ndim == 4 and len(output) == self.count and output.shape[2:] in self._sizes:
            # Gates such as squeeze-and-excitation's have a single cell, and so have heads.
            if output.shape[2:].numel() > 1:
                stride = self._stride(output)
                if type(module) is not nn.Sequential:
                    # What a block computes at finer strides, on its way, is no stage's result.
                    self.maps.update({finer: kept for finer, kept in before.items() if finer < stride})
                self.maps[stride] = output
                self.ends_in_tokens = False
        elif isinstance(module, nn.Linear) and output.ndim > 2:
            self.ends_in_tokens = True

    def _stride(self, output: Tensor) -> int:
        """As a power of two; unpadded layers give 109 cells of 224 pixels and the like."""
        ratios = (side / cells for side, cells in zip(self.extent, output.shape[2:], strict=True))
        return max(1, 2 ** round(math.log2(max(ratios))))


def liveliest(maps: Tensor, count: int) -> Tensor:
    """Indices, int64, of the `count` channels of (C, h, w) that vary most from place to place, of equals the lower.

    Not the highest values: many channels are high everywhere, whatever the image is of.
    """
    spread = maps.flatten(1).float().std(1, correction=0)
    return spread.argsort(descending=True, stable=True)[:count]
