"""Damage to what torch saves, by structure: a node of the state is changed, and it is saved again."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tests.fuzz.hostile import pick


def change_state(content: bytes, rng: np.random.Generator) -> bytes:
    """A file of torch with an entry removed, renamed, doubled or in place of another; what cannot be read stays."""
    try:
        tree = torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # damaged by an earlier change
        return content
    places = list(_places(tree))
    if not places or rng.random() < 0.02:
        tree = pick(rng, (None, [], {}, [tree], {"state_dict": tree}, torch.zeros(2)))
    else:
        parent, key = pick(rng, places)
        match int(rng.integers(6)):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[pick(rng, ("", "x", 3, -1, 2**70, None, "module.module.x", "a\0b", "\x1b[31m"))] = parent.pop(
                    key
                )
            case 2:
                other, there = pick(rng, places)
                parent[key] = other[there]
            case 3 if isinstance(parent[key], torch.Tensor):
                with contextlib.suppress(Exception):  # not every tensor has every layout
                    parent[key] = _tensor(parent[key], rng)
            case _:
                parent[key] = pick(rng, _values(tree))
    out = io.BytesIO()
    torch.save(tree, out)
    return out.getvalue()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """What holds values, and at which keys; a container that holds itself is looked at once."""
    todo, seen = [tree], set()
    while todo:
        holder = todo.pop()
        if isinstance(holder, (dict, list)) and id(holder) not in seen:
            seen.add(id(holder))
            for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
                yield holder, key
                todo.append(value)


def _tensor(tensor: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Another tensor in its place: of other type, shape, layout, or values."""
    return pick(
        rng,
        (
            lambda: tensor.double(),
            lambda: tensor.half(),
            lambda: tensor.to(torch.complex64),
            lambda: tensor.long(),
            lambda: tensor.bool(),
            lambda: tensor[None],
            lambda: tensor.flatten(),
            lambda: tensor[..., :0] if tensor.ndim else tensor[None][:0],
            lambda: torch.zeros(()).expand(10**5, 10**5),
            lambda: torch.zeros(()).expand(tensor.shape),
            lambda: torch.full(tensor.shape, float("nan")),
            lambda: torch.full(tensor.shape, 1e38),
            lambda: torch.empty(tensor.shape, device="meta"),
            lambda: tensor.float().to_sparse() if tensor.ndim else tensor,
            lambda: torch.nn.Parameter(tensor.float()),
            lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8),
        ),
    )()


def _values(tree: Any) -> tuple[Any, ...]:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    return (
        *(
            None,
            True,
            0,
            1,
            -1,
            2,
            2**31,
            2**63,
            10**400,
            0.5,
            -1.0,
            1e308,
            float("nan"),
            float("inf"),
            "",
            "x",
            "fp32",
        ),
        *([], {}, (), [1], [None], {"a": 1}, {1: 2}, ("fp32", True), ["fp32", True], ["bf16", 1], deep, tree, b"x"),
        *(torch.zeros(()), torch.zeros(3), torch.zeros((2, 3, 4)), torch.Size((1, 2)), torch.float32, {"model": {}}),
    )
