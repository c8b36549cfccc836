"""What a feature network really does, measured on the meta device: channels, strides, stages, layers without effect."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detseg.backbones.meta import evaluating, hooked, run_on_meta

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PADDABLE = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
# What networks raise when a size does not suit them.
_RUN_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError)


@dataclass(frozen=True)
class Run:
    """What one run showed."""

    channels: tuple[int, ...]  # of each output
    sizes: tuple[tuple[int, int], ...]  # height and width of each output
    stages: dict[int, tuple[str, ...]]  # stride -> names of the modules with parameters that work at it, rising
    unused: tuple[str, ...]  # names of the modules whose parameters influence no output
    unused_parameters: tuple[str, ...]  # names of the parameters that influence no output


class Removed(nn.Module):
    """Stands where a layer was that no output depends on; hands its first input on."""

    def forward(self, x: object, *_others: object, **_named: object) -> object:
        """The first input."""
        return x


def cut_unused(net: nn.Module, strides: tuple[int, ...], in_channels: int, name: str) -> Run:
    """Take the layers that no output depends on out of `net`, in place, and measure it.

    ValueError where the outputs are no regular grids of `strides`, or it works for one size only.
    """
    run = measure_regular(net, strides, in_channels, name)
    _check_another_size(net, max((*strides, *run.stages)), strides, in_channels, name)
    if not run.unused:
        return run
    originals = {unit: net.get_submodule(unit) for unit in run.unused}
    for unit in originals:
        net.set_submodule(unit, Removed())
    if (shorter := _try(net, strides, in_channels)[0]) is not None:
        return shorter
    # Some are in the way of others: an output is taken inside them, or their shapes matter. Cut one by one.
    for unit, original in originals.items():
        net.set_submodule(unit, original)
    for unit, original in reversed(originals.items()):
        net.set_submodule(unit, Removed())
        if _try(net, strides, in_channels)[0] is None:
            net.set_submodule(unit, original)
    return measure_regular(net, strides, in_channels, name)


def measure_regular(net: nn.Module, strides: tuple[int, ...], in_channels: int, name: str) -> Run:
    """Measure `net`; where unpadded convolutions shrink its maps, pad them and measure again."""
    run, problem = _try(net, strides, in_channels)
    if run is None and pad_unpadded(net.modules()):
        run, problem = _try(net, strides, in_channels)
    if run is None:
        raise _refusal(name, strides, problem)
    return run


def _try(net: nn.Module, strides: tuple[int, ...], in_channels: int) -> tuple[Run | None, str]:
    """The run if it gives regular grids, else why not."""
    size = _probe_size(strides)
    grid = tuple((size // stride, size // stride) for stride in strides)
    try:
        run = measure(net, size, in_channels)
    except _RUN_ERRORS as error:
        return None, f"it cannot run on {size} x {size} pixels ({first_line(error)})"
    if run.sizes != grid:
        return None, f"{size} x {size} pixels give maps of {run.sizes} cells, not {grid}"
    return run, ""


def _check_another_size(net: nn.Module, multiple: int, strides: tuple[int, ...], in_channels: int, name: str) -> None:
    """Refuse networks with layers made for images of one size, such as attention with a weight for each cell."""
    height, width = 3 * multiple, 5 * multiple
    works = f"it works on {(size := _probe_size(strides))} x {size} pixels but not on {width} x {height}"
    try:
        with torch.no_grad(), evaluating(net):
            maps, _ = run_on_meta(net, torch.Size((1, in_channels, height, width)))
    except _RUN_ERRORS as error:
        raise _refusal(name, strides, f"{works} ({first_line(error)})") from error
    if any(m.shape[-2:] != (height // s, width // s) for m, s in zip(maps, strides, strict=True)):
        raise _refusal(name, strides, f"{works} (maps of {[tuple(m.shape[-2:]) for m in maps]} cells)")


def _refusal(name: str, strides: tuple[int, ...], problem: str) -> ValueError:
    return ValueError(
        f"{name!r} cannot be a backbone with strides {strides}: {problem}. "
        "Choose a convolutional network; `detseg backbones` lists them."
    )


def first_line(error: Exception) -> str:
    """The first line of its message, or its name: a bare assert has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _probe_size(strides: tuple[int, ...]) -> int:
    """Eight cells at the deepest stride, and enough for the unpadded stems."""
    return max(256, 8 * strides[-1])


def pad_unpadded(modules: Iterable[nn.Module]) -> bool:
    """Give every odd-sized convolution and pooling padded less its centring padding, in place; True if any.

    The Inception and Xception stems are unpadded: each layer eats the border, so cells drift away from
    `stride * (cell + 0.5)`. With k // 2 padding, each layer of stride 2 gives half the cells.
    """
    changed = False
    for module in modules:
        # Exact types: subclasses such as timm's Conv2dSame declare padding 0 and pad in their forward.
        if type(module) not in _PADDABLE:
            continue
        layer: Any = module
        kernel, padding, dilation = pair(layer.kernel_size), layer.padding, pair(getattr(layer, "dilation", 1))
        centring = tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True))
        if isinstance(padding, str) or not all(k % 2 for k in kernel):
            continue
        if all(p >= c for p, c in zip(pair(padding), centring, strict=True)):
            continue
        layer.padding = centring
        if not isinstance(module, nn.Conv2d):
            layer.ceil_mode = False
        changed = True
    return changed


def pair(value: Any) -> tuple[int, int]:
    """Rows and columns of a kernel, stride or dilation that may be one number for both."""
    return (value, value) if isinstance(value, int) else tuple(value)


def measure(net: nn.Module, size: int, in_channels: int) -> Run:
    """Run `net` on (1, in_channels, size, size) on the meta device and note what happens."""
    units = dict(_units(net))
    names = {unit: name for name, unit in units.items()}
    calls: dict[str, int] = {}  # unit -> stride of its output, in the order of the calls

    def note(unit: nn.Module, _inputs: object, output: object) -> None:
        calls.setdefault(names[unit], stride_of(output, size))

    with hooked(units.values(), note), torch.enable_grad(), evaluating(net):
        maps, parameters = run_on_meta(net, torch.Size((1, in_channels, size, size)))
        idle = _idle(maps, parameters)
    return Run(
        channels=tuple(m.shape[1] for m in maps),
        sizes=tuple((m.shape[-2], m.shape[-1]) for m in maps),
        stages=_group(list(units), calls),
        unused=tuple(name for name, unit in units.items() if _all_idle(name, unit, idle)),
        unused_parameters=idle,
    )


def _units(net: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that stages are made of: children with parameters, containers opened."""
    children = [(f"{prefix}{name}", child) for name, child in net.named_children() if child.state_dict()]
    for name, child in children:
        own = any(True for _ in child.parameters(recurse=False))
        wrapped = len(children) == 1 and not prefix
        if not own and (isinstance(child, _CONTAINERS) or wrapped):
            yield from _units(child, f"{name}.")
        else:
            yield name, child


def _all_idle(name: str, unit: nn.Module, idle: Sequence[str]) -> bool:
    names = {f"{name}.{parameter}" for parameter, _ in unit.named_parameters()}
    return bool(names) and names <= set(idle)


def _idle(maps: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of the parameters that none of the maps depends on."""
    total = torch.stack([m.sum() for m in maps]).sum()
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return tuple(name for name, grad in zip(parameters, grads, strict=True) if grad is None)


def stride_of(output: object, size: int) -> int:
    """The coarsest stride among the maps of a module's output, as a power of two; 0 if it has none."""
    if isinstance(output, Tensor):
        return 2 ** round(math.log2(size / output.shape[-2])) if output.ndim == 4 else 0
    if isinstance(output, list | tuple):
        return max((stride_of(part, size) for part in output), default=0)
    return 0


def _group(units: list[str], calls: dict[str, int]) -> dict[int, tuple[str, ...]]:
    """The units by the coarsest stride reached when they ran, stem first."""
    strides: dict[str, int] = {}
    reached = 1
    for name, stride in calls.items():
        reached = strides[name] = max(reached, stride)
    before = 1
    for name in units:  # a unit whose own forward is never called belongs with its neighbour
        before = strides.setdefault(name, before)
    return {
        stride: tuple(name for name in units if strides[name] == stride) for stride in sorted(set(strides.values()))
    }
