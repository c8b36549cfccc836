"""What a resume state must hold, so that a damaged one is refused by name and not in the midst of training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from detseg.descriptions import check_architecture
from detseg.json_text import as_declared
from detseg.reading import FileError, reading

Time = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Steps = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
AGAIN = "copy the run folder again, or start a new run"


class Optimizer(msgspec.Struct):
    """As torch's optimizers give it."""

    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class RandomStates(msgspec.Struct):
    """See `detseg.train.resume.random_states`."""

    host: Tensor
    device: Tensor | None = None


class State(msgspec.Struct):
    """What every state holds; it may hold more."""

    step: Steps
    elapsed: Time
    best: float
    validated_at: Share
    sums: dict[str, Tensor]
    summed: Steps
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: Optimizer
    random: RandomStates
    choice: tuple[Literal["bf16", "fp32"], bool]
    world: Annotated[int, msgspec.Meta(ge=1)]
    fingerprint: dict[str, str]
    best_epoch: Time = 0.0
    stale: Steps = 0
    unsure: bool = False
    architecture: dict[str, Any] | None = None


def check_state(state: Mapping[str, Any], path: Path) -> None:
    """Raise FileError, naming the entry, where a state lacks one or has one of another type."""
    held = as_declared(dict(state), State, path, AGAIN)
    if held.architecture is not None:
        check_architecture(held.architecture, f"{path}: architecture")
    for name, value in held.sums.items():
        _require(value, torch.zeros(()), f"{path}: sums: {name}")
    with reading(f"{path}: random", AGAIN):
        torch.Generator().set_state(held.random.host)


def check_fits(state: Mapping[str, Any], parts: Mapping[str, nn.Module], optimizer: Any, path: Path) -> None:
    """Raise FileError, naming the entry, where the state of a module or of the optimizer is of another one.

    Args:
        state: that `check_state` has seen.
        parts: the modules, by the names of their entries.
        optimizer: as it is before any step.
        path: of the file.
    """
    for part, module in parts.items():
        wanted = module.state_dict()
        _same(state[part].keys(), wanted.keys(), f"{path}: {part}")
        for name, tensor in wanted.items():
            _require(state[part][name], tensor, f"{path}: {part}: {name}")
    saved, groups = state["optimizer"], optimizer.state_dict()["param_groups"]
    if len(saved["param_groups"]) != len(groups):
        raise FileError(f"{path}: optimizer: {len(groups)} groups of parameters are wanted ({AGAIN})")
    for number, (mine, group) in enumerate(zip(saved["param_groups"], groups, strict=True)):
        place = f"{path}: optimizer: param_groups[{number}]"
        _same(mine.keys(), group.keys(), place)
        for name, value in group.items():
            if mine[name] != value if name == "params" else type(mine[name]) is not type(value):
                raise FileError(f"{place}: {name}: {mine[name]!r:.40} is of another optimizer ({AGAIN})")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, values in saved["state"].items():
        place = f"{path}: optimizer: state: {number}"
        if not 0 <= number < len(weights):
            raise FileError(f"{place}: there are {len(weights)} parameters ({AGAIN})")
        _same(values.keys(), _KEPT[type(optimizer)], place)
        for name, value in values.items():
            scalar = name == "step"
            if value is not None or scalar:
                _require(value, torch.zeros(()) if scalar else weights[number], f"{place}: {name}")


_KEPT: dict[type, tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}


def _same(names: Any, wanted: Any, place: str) -> None:
    if odd := sorted(set(map(str, names)) ^ set(wanted)):
        raise FileError(f"{place}: {odd[0]!r:.80} is {'missing' if odd[0] in wanted else 'unknown'} ({AGAIN})")


def _require(value: Any, like: Tensor, place: str) -> None:
    """Raise FileError unless it is a plain tensor of the type and shape of another."""
    if not isinstance(value, Tensor):
        raise FileError(f"{place}: is no tensor ({AGAIN})")
    if (value.layout, value.dtype, value.shape) != (torch.strided, like.dtype, like.shape) or value.is_meta:
        found = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        wanted = f"{str(like.dtype).removeprefix('torch.')} {tuple(like.shape)}"
        raise FileError(f"{place}: is {found} where {wanted} is wanted ({AGAIN})")
