"""What a resume state must hold, so that a damaged one is refused by name and not in the midst of training."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from detseg.descriptions import check_architecture
from detseg.json_text import as_declared
from detseg.models import LARGEST
from detseg.reading import FileError, reading

Time = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Steps = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
WORDS = 624  # of a Mersenne twister
AGAIN = "copy the run folder again, or start a new run"


class Group(msgspec.Struct):
    """Parameters of an optimizer that learn alike."""

    params: list[int]
    lr: Rate
    initial_lr: Rate


class Optimizer(msgspec.Struct):
    """As torch's optimizers give it."""

    state: dict[int, dict[str, Any]]
    param_groups: list[Group]


class RandomStates(msgspec.Struct):
    """See `detseg.train.resume.random_states`."""

    host: Tensor
    device: Tensor | None = None
    numpy: Any = None
    python: Any = None


class OfProcess(msgspec.Struct):
    """What each process of a run has of its own."""

    random: RandomStates
    sums: dict[str, Tensor]


class State(msgspec.Struct):
    """What every state holds; it may hold more."""

    step: Steps
    elapsed: Time
    best: float
    validated_at: Share
    summed: Steps
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: Optimizer
    processes: Annotated[list[OfProcess], msgspec.Meta(min_length=1)]
    choice: tuple[Literal["bf16", "fp32"], bool]
    world: Annotated[int, msgspec.Meta(ge=1)]
    fingerprint: dict[str, str]
    best_epoch: Time = 0.0
    validated_step: Steps = 0
    stale: Steps = 0
    unsure: bool = False
    architecture: dict[str, Any] | None = None


def check_state(state: Mapping[str, Any], path: Path) -> None:
    """Raise FileError, naming the entry, where a state lacks one or has one of another type."""
    held = as_declared(dict(state), State, path, AGAIN)
    if held.architecture is not None:
        check_architecture(held.architecture, f"{path}: architecture")
    if len(held.processes) not in (1, held.world):  # 1: of an earlier version
        raise FileError(f"{path}: processes: are {len(held.processes)}, not the {held.world} of world ({AGAIN})")
    for number, process in enumerate(held.processes):
        for name, value in process.sums.items():
            place = f"{path}: processes: {number}: sums: {name}"
            if value.dtype not in (torch.float32, torch.float64):
                raise FileError(f"{place}: is {value.dtype}, not a number as losses are ({AGAIN})")
            _require(value, torch.zeros((), dtype=value.dtype), place)
        with reading(f"{path}: processes: {number}: random", AGAIN):
            torch.Generator().set_state(process.random.host)
            if process.random.numpy is not None or process.random.python is not None:
                _try_generators(process.random.numpy, process.random.python)


def _try_generators(numpy: Any, python: Any) -> None:
    """Raise an error of any kind where these are no states of the generators of numpy and Python."""
    ours: Any = np.random.RandomState()
    ours.set_state(numpy)
    if not 0 <= ours.get_state()[2] <= WORDS:  # numpy takes any place, and reads there
        raise ValueError(f"numpy: the place is not in 0..{WORDS}")
    other = random.Random()
    other.setstate(python)
    other.gauss(0, 1)


def fitting(state: Mapping[str, Any], parts: Mapping[str, nn.Module], optimizer: Any, path: Path) -> dict[str, Any]:
    """The optimizer's part of a state, if modules and optimizer are of the same kind as those of the state.

    Of its settings only the rates are those of the state: the others follow from the options of the run.

    Args:
        state: that `check_state` has seen.
        parts: the modules, by the names of their entries.
        optimizer: AdamW or SGD, as it is before any step.
        path: of the file.

    Raises:
        FileError: something has other parts, or tensors of other shapes or types; the message names the entry.
    """
    for part, module in parts.items():
        wanted = module.state_dict()
        _same(state[part].keys(), wanted.keys(), f"{path}: {part}")
        for name, tensor in wanted.items():
            _require(state[part][name], tensor, f"{path}: {part}: {name}")
    saved, groups = state["optimizer"], optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
        raise FileError(f"{path}: optimizer: param_groups: hold other parameters than the model has ({AGAIN})")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    kept = ("momentum_buffer",) if isinstance(optimizer, torch.optim.SGD) else ("step", "exp_avg", "exp_avg_sq")
    for number, values in saved["state"].items():
        place = f"{path}: optimizer: state: {number}"
        if not 0 <= number < len(weights):
            raise FileError(f"{place}: there are {len(weights)} parameters ({AGAIN})")
        _same(values.keys(), kept, place)
        for name, value in values.items():
            if value is not None or name != "momentum_buffer":  # before its first step there is none
                _require(value, torch.zeros(()) if name == "step" else weights[number], f"{place}: {name}")
                if name in ("step", "exp_avg_sq") and bool((value < 0).any()):
                    raise FileError(f"{place}: {name}: is below zero ({AGAIN})")
    # Copies: the optimizer keeps the tensors and writes to them, and those of a file may share their memory.
    own = {number: {name: _copy(value) for name, value in values.items()} for number, values in saved["state"].items()}
    rates = [{name: group[name] for name in ("lr", "initial_lr")} for group in saved["param_groups"]]
    return {**saved, "state": own, "param_groups": [group | rate for group, rate in zip(groups, rates, strict=True)]}


def _same(names: Any, wanted: Any, place: str) -> None:
    if odd := sorted(set(map(str, names)) ^ set(wanted)):
        raise FileError(f"{place}: {odd[0]!r:.80} is {'missing' if odd[0] in wanted else 'unknown'} ({AGAIN})")


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone(memory_format=torch.preserve_format)


def _require(value: Any, like: Tensor, place: str) -> None:
    """Raise FileError unless it is a plain tensor of the type and shape of another."""
    if not isinstance(value, Tensor) or value.is_nested:
        raise FileError(f"{place}: is no {'tensor' if not isinstance(value, Tensor) else 'plain tensor'} ({AGAIN})")
    if (value.layout, value.dtype, value.shape) != (torch.strided, like.dtype, like.shape) or value.is_meta:
        found = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        wanted = f"{str(like.dtype).removeprefix('torch.')} {tuple(like.shape)}"
        raise FileError(f"{place}: is {found} where {wanted} is wanted ({AGAIN})")
    if not bool((value.abs() < LARGEST).all()):
        raise FileError(f"{place}: has values that are not finite, or beyond {LARGEST:g} ({AGAIN})")
