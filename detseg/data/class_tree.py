"""Trees of classes: species below their families, say. The form in memory, and the files that are read.

A tree file is indented, or has a line ``child -> parent`` (``child,parent``) for each class but the roots::

    Rosaceae                rose -> Rosaceae
        rose                wild rose -> Rosaceae
        wild rose
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import Category
from detseg.data.checks.problems import AnnotationError

_ARROW = re.compile("->|→")
SURE = 0
"""In place of a level, for detections at the deepest node that is sure."""
MOST_LEVELS = 100  # a path down to each node is kept
_SHOWN = 10  # names in a message


@dataclass(frozen=True)
class ClassTree:
    """A tree of V nodes, or several trees: `parents` holds each node's parent, -1 of roots.

    Levels count from 1, the roots'. Raises ValueError where a parent is no node, or nodes are below each other.
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        nodes = range(len(self.parents))
        if not nodes or not all(-1 <= parent < len(nodes) for parent in self.parents):
            raise ValueError(f"the parents of a tree's nodes lie in -1..{len(nodes) - 1}, not {self.parents!r:.80}")
        if circle := circle_in(self.parents):
            raise ValueError(f"the tree's nodes {', '.join(map(str, circle))} are below each other in a circle")
        parents, above = np.array(self.parents, np.int64), np.arange(len(self), dtype=np.int64)
        for _ in range(MOST_LEVELS):
            above = np.where(above >= 0, parents[above], -1)
        if above.max() >= 0:
            raise ValueError(f"the tree has more than {MOST_LEVELS} levels")

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def paths(self) -> NDArray[np.int64]:
        """(V, levels) the nodes from the root down to each node, itself included, then -1."""
        parents, paths = np.array(self.parents, np.int64), [np.arange(len(self), dtype=np.int64)]
        while (above := np.where(paths[-1] >= 0, parents[paths[-1]], -1)).max() >= 0:
            paths.append(above)
        upwards = np.stack(paths, 1)
        depth = (upwards >= 0).sum(1, keepdims=True)
        steps = depth - 1 - np.arange(upwards.shape[1])
        return np.where(steps >= 0, np.take_along_axis(upwards, steps.clip(0), 1), -1)

    @cached_property
    def depth(self) -> NDArray[np.int64]:
        """(V,) the level of each node, 1 of roots."""
        return np.asarray((self.paths >= 0).sum(1), np.int64)

    @property
    def levels(self) -> int:
        """The deepest level."""
        return int(self.paths.shape[1])

    @cached_property
    def leaves(self) -> NDArray[np.bool_]:
        """(V,) True for nodes without children."""
        leaves = np.ones(len(self), np.bool_)
        leaves[[parent for parent in self.parents if parent >= 0]] = False
        return leaves

    def cut(self, level: int) -> NDArray[np.int64]:
        """(V,) what each node counts as at a level: its ancestor there, itself where it is a leaf above; else -1.

        At the deepest level these are the leaves alone.
        """
        own = np.arange(len(self))
        at = self.paths[:, level - 1]
        return np.where(at >= 0, at, np.where(self.leaves, own, -1))


def circle_in(parents: Sequence[int]) -> list[int]:
    """Nodes that are below each other in a circle; none in a tree."""
    state = [0] * len(parents)  # 1: on the way upwards from the present node, 2: leads to a root
    for node in range(len(parents)):
        way = []
        while node >= 0 and not state[node]:
            state[node] = 1
            way.append(node)
            node = parents[node]
        if node >= 0 and state[node] == 1:
            return way[way.index(node) :]
        for passed in way:
            state[passed] = 2
    return []


# ------------------------------------------------------------------ files


def read_tree(path: Path, categories: Sequence[Category]) -> tuple[ClassTree, tuple[Category, ...]]:
    """A tree file for the categories of a data set.

    Returns:
        The tree, and the categories of its nodes: those of the data set first, whose labels stay, then the other nodes
        in the order of the file, with new ids.

    Raises:
        AnnotationError: the file cannot be read or is no tree, or a category is not in it; the message names the line.
    """
    from detseg.data.formats.locate import read_text  # here: it brings all formats

    parents = _read_parents(path, read_text(path).splitlines())
    names = [category.name for category in categories]
    if len(set(names)) < len(names):
        raise AnnotationError(f"{path}: two categories of the data set have one name; a tree tells them by name")
    require_nodes(path, names, list(parents), "the tree has no line for the data set's")
    own = {category.name for category in categories}
    first = 1 + max((category.id for category in categories), default=-1)
    added = [name for name in parents if name not in own]
    nodes = (*categories, *(Category(first + i, name) for i, name in enumerate(added)))
    label = {category.name: position for position, category in enumerate(nodes)}
    above = [parents[category.name] for category in nodes]
    return ClassTree(tuple(-1 if name is None else label[name] for name in above)), nodes


def on_nodes(data: Annotations, nodes: Sequence[Category]) -> Annotations:
    """The same annotations with the nodes of a tree as categories, matched by name.

    Raises:
        AnnotationError: a category is no node; the message lists near names.
    """
    names = [node.name for node in nodes]
    require_nodes(data.source, data.names, names, "the tree of the model has no node for")
    table = np.array([names.index(name) for name in data.names] + [-1], np.int32)
    return replace(data, categories=tuple(nodes), labels=table[data.labels])


def _read_parents(path: Path, text: Sequence[str]) -> dict[str, str | None]:
    """The parent of each node by name, None of roots, in the order of the file."""
    lines = [(i, line) for i, line in enumerate(text, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise AnnotationError(f"{path}: is empty; write a class on each line, indented below its parent")
    pairs = _pairs_of(path, lines)
    found: dict[str, str | None] = {}
    line_of: dict[str, int] = {}
    for line, name, parent in _indented(path, lines) if pairs is None else pairs:
        if not name or name == parent:
            what = f"{name!r} is its own parent" if name else "the child has no name"
            raise AnnotationError(f"{path}, line {line}: {what}")
        if name in line_of:
            raise AnnotationError(
                f"{path}, line {line}: {name!r} has a place in the tree by line {line_of[name]}; a class has one"
            )
        line_of[name] = line
        found[name] = parent
    for parent in [parent for parent in found.values() if parent is not None]:
        found.setdefault(parent, None)
    label = {name: i for i, name in enumerate(found)}
    if circle := circle_in([-1 if parent is None else label[parent] for parent in found.values()]):
        names = [list(found)[i] for i in (*circle, circle[0])]
        raise AnnotationError(f"{path}: {' -> '.join(names)} is a circle; one of these needs another parent, or none")
    return found


def _pairs_of(path: Path, lines: Sequence[tuple[int, str]]) -> list[tuple[int, str, str | None]] | None:
    """(line, child, parent) of lines ``child -> parent``, or of two columns with a comma or tab; None if indented."""
    if any(_ARROW.search(line) for _, line in lines):
        return [(i, *_two(path, i, [word.strip() for word in _ARROW.split(line)])) for i, line in lines]
    for mark in (",", "\t"):
        if all(line.strip().count(mark) == 1 and not line[0].isspace() for _, line in lines):
            rows = [(i, *_two(path, i, [word.strip(' "') for word in line.split(mark)])) for i, line in lines]
            return rows[1:] if rows[0][1:] == ("child", "parent") else rows
    return None


def _two(path: Path, line: int, words: Sequence[str]) -> tuple[str, str | None]:
    if len(words) > 2:
        raise AnnotationError(f"{path}, line {line}: names {len(words)} classes; write child -> parent, a line each")
    return words[0], (words[1] or None) if len(words) == 2 else None


def _indented(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, str | None]]:
    """(line, node, parent) of an indented file."""
    above: list[tuple[str, str]] = []  # indentation and name of the nodes on the way to the present line
    for i, line in lines:
        name = line.strip()
        indent = line[: len(line) - len(line.lstrip())]
        left = len(above)
        while above and len(above[-1][0]) > len(indent):
            above.pop()
        if above and len(above[-1][0]) == len(indent):
            fits = above.pop()[0] == indent
        else:
            fits = len(above) == left and (bool(above) or not indent)
        if not fits or (above and not indent.startswith(above[-1][0])):
            raise AnnotationError(
                f"{path}, line {i}: the indentation of {name!r} is that of none of the lines above it; siblings are "
                "indented alike, all by tabs or all by spaces, and the first line is not"
            )
        yield i, name, above[-1][1] if above else None
        above.append((indent, name))


def require_nodes(source: object, names: Sequence[str], nodes: Sequence[str], what: str) -> None:
    """Raise AnnotationError where some of the names are of no node of a tree; it has them with near names.

    Args:
        source: of what is missing something.
        what: the names are.
    """
    known = set(nodes)
    missing = [name for name in names if name not in known]
    if not missing:
        return
    shown = []
    for name in missing[:_SHOWN]:
        same = [node for node in nodes if " ".join(node.split()).casefold() == " ".join(name.split()).casefold()]
        near = same or difflib.get_close_matches(name, nodes, 2)
        shown.append(f"{name!r}" + (f" (near: {', '.join(map(repr, near))})" if near else ""))
    more = ", …" if len(missing) > _SHOWN else ""
    raise AnnotationError(f"{source}: {what} {', '.join(shown)}{more}; names must be equal, letter by letter")
