"""Classes in a tree: a softmax over each group of siblings (Redmon & Farhadi 2017, arXiv:1612.08242, section 4).

A group's softmax gives P(node | parent). The probability of a node is the product along its path from the root, so an
object labelled at an inner node, its species being unknown, teaches the path above it and nothing below::

    P(rose) = P(Rosaceae) · P(rose | Rosaceae)        loss = -log P(label)

With roots alone it is the softmax over all classes.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from detseg.data.class_tree import SURE, ClassTree
from detseg.detect.model import Limits, select


class SoftmaxTree(nn.Module):
    """The softmaxes of a tree of V nodes; logits and probabilities have the nodes in their last dimension.

    Its tensors follow from the tree and are not saved with a model's weights.

    Args:
        parents: of each node, -1 of roots.
    """

    parent: Tensor
    path: Tensor
    order: Tensor
    downwards: Tensor
    place: Tensor
    roots: Tensor

    def __init__(self, parents: Sequence[int]) -> None:
        super().__init__()
        self.shape = ClassTree(tuple(int(parent) for parent in parents))
        siblings: dict[int, list[int]] = {}
        for node, parent in enumerate(self.shape.parents):
            siblings.setdefault(parent, []).append(node)
        # Groups of equal size together: a handful of plain softmaxes, however many groups there are.
        groups = sorted(siblings.values(), key=len)
        self._sizes = [(len(list(alike)), size) for size, alike in groupby(map(len, groups))]
        depth = torch.from_numpy(self.shape.depth)
        self._widths = [int((depth == d).sum()) for d in range(1, self.shape.levels + 1)]
        order = torch.tensor([node for group in groups for node in group])
        paths = torch.from_numpy(self.shape.paths)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("downwards", depth.argsort(stable=True), persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)
        self.register_buffer("parent", torch.tensor(self.shape.parents), persistent=False)
        self.register_buffer("path", torch.where(paths >= 0, paths, len(self.shape)), persistent=False)
        self.register_buffer("roots", paths[:, 0].clone(), persistent=False)

    def conditional(self, logits: Tensor) -> Tensor:
        """(…, V) log P(node | parent), a log-softmax over each group of siblings."""
        return self._by_group(logits, lambda group: group.log_softmax(-1))

    def log_probability(self, logits: Tensor) -> Tensor:
        """(…, V) log P(node): the conditional ones summed from the root down."""
        total = self.conditional(logits)
        for nodes in self._below():
            total = total.index_add(-1, nodes, total.index_select(-1, self.parent[nodes]))
        return total

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(M,) -log P(label) of logits (M, V): one cross-entropy for each group on the path of the label (M,)."""
        # One more node, of probability 1, fills up shorter paths.
        conditional = nn.functional.pad(self.conditional(logits), (0, 1))
        return -conditional.gather(1, self.path[labels]).sum(1)

    def surest(self, probabilities: Tensor, threshold: float) -> Tensor:
        """P(node) where a descent ends, 0 elsewhere, of probabilities (…, V).

        The descent from each root goes to the likeliest child as long as its probability is at least `threshold`. So
        every root has one node, itself or one below it; with roots alone nothing changes.
        """
        goes_on = self._by_group(probabilities, _highest) & (probabilities >= threshold)
        reached = (self.parent < 0).expand(probabilities.shape)
        for nodes in self._below():
            arrived = reached.index_select(-1, self.parent[nodes]) & goes_on.index_select(-1, nodes)
            reached = reached.index_copy(-1, nodes, arrived)
        # Roots, whose parent is -1, are counted in a column that is cut off.
        passed = nn.functional.pad(torch.zeros_like(probabilities), (0, 1))
        passed = passed.index_add(-1, self.parent.remainder(len(self.shape) + 1), reached.to(passed.dtype))[..., :-1]
        return torch.where(reached & (passed == 0), probabilities, 0)

    def _below(self) -> tuple[Tensor, ...]:
        """The nodes of each level but the roots', downwards."""
        return self.downwards.split(self._widths)[1:]

    def _by_group(self, values: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """(…, V) what `compute` makes of values (…, groups, size) of the groups of each size."""
        parts = values.index_select(-1, self.order).split([count * size for count, size in self._sizes], -1)
        done = [compute(part.unflatten(-1, sizes)).flatten(-2) for part, sizes in zip(parts, self._sizes, strict=True)]
        return torch.cat(done, -1).index_select(-1, self.place)

    def at_level(self, level: int) -> Tensor:
        """(n,) the nodes that make up a level, see `ClassTree.cut`, on the device of the tree."""
        counted = torch.from_numpy(self.shape.cut(level)).unique()
        return counted[counted >= 0].to(self.parent.device)


def _highest(groups: Tensor) -> Tensor:
    """True for the first highest in the last dimension."""
    return torch.zeros_like(groups, dtype=torch.bool).scatter(-1, groups.argmax(-1, keepdim=True), True)


def detections_by_level(
    boxes: Tensor, scores: Tensor, sure: Tensor, size: Sequence[int], tree: SoftmaxTree, limits: Limits
) -> dict[str, Tensor]:
    """The detections of one image of `size` (height, width) at each level of a tree, in one dict.

    Args:
        boxes, scores, sure: (P, 4) xyxy, (P, V) scores of all nodes, and those of `SoftmaxTree.surest` alone.

    Returns:
        ``boxes`` (D, 4), ``scores`` (D,), ``labels`` (D,) and ``level`` (D,): of `SURE` what the model itself returns,
        of 1, 2, … what `select` finds among the nodes of `SoftmaxTree.at_level`. Of each level best first.
    """
    parts = {SURE: select(boxes, sure, size, limits, rivals=tree.roots).found}
    for level in range(1, tree.shape.levels + 1):
        nodes = tree.at_level(level)
        found = select(boxes, scores[:, nodes], size, limits).found
        parts[level] = found | {"labels": nodes[found["labels"]]}
    rows = [found | {"level": torch.full_like(found["labels"], level)} for level, found in parts.items()]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


class ByLevel(nn.Module):
    """A detector with a tree whose predictions are those of `detections_by_level`: what it is evaluated by."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """See `detections_by_level`; images as of the model."""
        found: list[dict[str, Tensor]] = self.model.by_level(images)
        return found
