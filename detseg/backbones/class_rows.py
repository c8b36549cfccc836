"""Weights of one model in another of its kind with other classes: the rows of class layers go by the classes' names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SHOWN = 8


class ClassRows(NamedTuple):
    """How the rows of a layer belong to classes: they are (groups, background + K, each) in one dimension."""

    groups: int = 1  # such as the anchors of a grid head
    background: bool = False  # a first class that is none of the K
    each: int = 1  # rows a class, such as the four of a class's box


@dataclass(frozen=True)
class Taken:
    """What became of the classes and tensors in `take_over`."""

    kept: tuple[str, ...]  # classes whose rows were copied
    new: tuple[str, ...]  # classes of the model that start as they were
    dropped: tuple[str, ...]  # classes of the source that the model does not have
    fresh: tuple[str, ...]  # layers of the model that the source has nothing of this shape for
    named: bool = True  # False: nobody knows which rows are of which class, and they went by their positions

    def __str__(self) -> str:
        if not self.named:
            text = f"{_classes(self.kept)} by position, for the model names no class layers"
        else:
            text = f"{_classes(self.kept)} kept by name"
        text += f", {len(self.new)} new: {_some(self.new)}" if self.new else ""
        text += f"; dropped: {_some(self.dropped)}" if self.dropped else ""
        return text + (f"; layers that start anew: {_some(self.fresh)}" if self.fresh else "")


@torch.no_grad()
def take_over(model: Any, tensors: Mapping[str, Tensor], theirs: Sequence[str], mine: Sequence[str]) -> Taken:
    """Copy what fits of another model's state into the neck and head of a model, in place.

    Everything goes by name and shape; of the model's `class_layers` the rows of classes of the same name. Those of new
    classes stay as they are, and so do buffers of the model itself, such as anchors: they are its architecture's. Its
    ``backbone`` has its weights already, perhaps with norms folded into them.

    Args:
        model: what is changed.
        tensors: state of the other model.
        theirs: its classes, in order, "" where a row has no name; of a layer with a row more, the first is of none.
        mine: classes of the model, in order.
    """
    layers: Mapping[str, ClassRows] = model.class_layers()
    pairs = matched(theirs, mine) if layers or list(theirs) != list(mine) else {k: k for k in range(len(mine))}
    own = {name for name, _ in model.named_buffers(recurse=False)}
    left, with_classes = [], False
    for name, target in model.state_dict().items():
        if name in own or name.startswith("backbone."):
            continue
        source, layer = tensors.get(name), name.rpartition(".")[0]
        if layer in layers and source is not None:
            copied = _copy_rows(target, source, layers[layer], len(theirs), len(mine), pairs)
            with_classes |= copied
        elif copied := source is not None and source.shape == target.shape:
            target.copy_(source)
        if not copied and not name.endswith("num_batches_tracked"):
            left.append(layer)
    fresh = tuple(dict.fromkeys(left))
    if not layers and list(theirs) != list(mine):
        count = len(mine) if len(theirs) == len(mine) else 0
        return Taken(tuple(mine[:count]), tuple(mine[count:]), tuple(theirs[count:]), fresh, named=False)
    dropped = tuple(name for k, name in enumerate(theirs) if name and k not in pairs.values())
    if layers and not with_classes:
        return Taken((), (), dropped, fresh)
    kept = tuple(mine[k] for k in sorted(pairs))
    return Taken(kept, tuple(name for k, name in enumerate(mine) if k not in pairs), dropped, fresh)


def matched(theirs: Sequence[str], mine: Sequence[str]) -> dict[int, int]:
    """Positions of classes in `mine` and in `theirs` with the same name; else with one that only differs in case.

    A name that would then fit several is left out, and so is none at all.
    """
    pairs = {k: theirs.index(name) for k, name in enumerate(mine) if name and name in theirs}
    folded = [name.strip().casefold() for name in theirs]
    taken = set(pairs.values())
    for k, name in enumerate(mine):
        near = [j for j, other in enumerate(folded) if other and other == name.strip().casefold() and j not in taken]
        if k not in pairs and len(near) == 1:
            pairs[k] = near[0]
            taken.add(near[0])
    return pairs


def _copy_rows(
    target: Tensor, source: Tensor, rows: ClassRows, theirs: int, mine: int, pairs: Mapping[int, int]
) -> bool:
    """Copy the rows of matched classes, and of the background if both have it; False where shapes do not fit."""
    unit = rows.groups * rows.each
    extra = source.shape[0] // unit - theirs
    if source.shape[1:] != target.shape[1:] or source.shape[0] % unit or extra not in (0, 1):
        return False
    to = target.unflatten(0, (rows.groups, rows.background + mine, rows.each))
    of = source.unflatten(0, (rows.groups, extra + theirs, rows.each))
    if rows.background and extra:
        to[:, 0] = of[:, 0]
    places = sorted(pairs)
    to[:, [k + rows.background for k in places]] = of[:, [pairs[k] + extra for k in places]].to(target)
    return True


def _classes(names: Sequence[str]) -> str:
    """How many they are."""
    return "1 class" if len(names) == 1 else f"{len(names)} classes"


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
