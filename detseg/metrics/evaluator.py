"""What the evaluators of all tasks share: they collect a few numbers of each image, in any process, and merge them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain, compress
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.figure import Metric

State = dict[str, Any]  # settings, then arrays by name and lists of run-length masks

_MOST_PARTS = 1000  # of more, the small arrays would take more memory than what is in them


class Evaluator(Metric, ABC):
    """Base of the evaluators.

    In several processes each has an evaluator of its own, and `merge` joins them, pickled, or the smaller `state()`.
    An image that came more than once, as distributed samplers repeat some to fill the last batch, counts once.

    A subclass's state is columns with a row for each image, beginning with `image_ids`, and columns with any number
    of rows for each, which `_counted_by` lists.
    """

    _counted_by: ClassVar[Mapping[str, str]] = {}  # of a column: the column with its numbers of rows an image

    def __init__(self) -> None:
        self._parts: list[State] = []
        self._seen: set[int] = set()

    @abstractmethod
    def _settings(self) -> State:
        """What evaluators must have in common to be merged."""

    @abstractmethod
    def _empty(self) -> State:
        """The columns of no images."""

    def _check(self, state: State) -> None:
        """Stop at columns of another evaluator that do not fit; here none is refused."""
        return

    def __len__(self) -> int:
        """Images so far, each counted once."""
        return len(self._seen)

    def state(self) -> State:
        """Settings and everything that came, as one dict of flat arrays (and lists of run-length masks)."""
        return self._settings() | self._joined()

    def merge(self, other: Self | State) -> None:
        """Add the images of another evaluator, given itself or by its `state()`.

        Raises:
            ValueError: it is of another task, or has other classes, options or images.
        """
        state = other.state() if isinstance(other, Evaluator) else dict(other)
        own, missing = self._settings(), object()
        theirs = {name: state.pop(name, missing) for name in own}
        differing = [name for name, value in own.items() if not np.array_equal(theirs[name], value)]
        if differing:
            raise ValueError(f"evaluators that differ in {', '.join(differing)} cannot be merged")
        wanted = self._empty()
        if wanted.keys() != state.keys():
            raise ValueError(f"the other state has {', '.join(state)}; this evaluator has {', '.join(wanted)}")
        self._check(state)
        self._add(state)

    def _add(self, state: State) -> None:
        """Keep these columns, without the images that were seen before."""
        ids = state["image_ids"].tolist()
        new = set(ids) - self._seen
        if len(new) < len(ids):
            first = np.zeros(len(ids), bool)
            first[np.unique(state["image_ids"], return_index=True)[1]] = True
            state = self._select(state, first & np.array([i in new for i in ids], bool))
        if new:
            self._parts.append(state)
            self._seen |= new
        if len(self._parts) > _MOST_PARTS:
            self._joined()

    def _joined(self) -> State:
        """All columns."""
        if len(self._parts) != 1:
            parts = [self._empty(), *self._parts]
            columns = {name: [part[name] for part in parts] for name in parts[0]}
            self._parts = [
                {name: list(chain(*c)) if isinstance(c[0], list) else np.concatenate(c) for name, c in columns.items()}
            ]
        return self._parts[0]

    def _collected(self) -> State:
        """All columns; raises ValueError where no image came."""
        if not self._seen:
            raise ValueError("no images to evaluate: call update first")
        return self._joined()

    def _select(self, state: State, kept: NDArray[np.bool_]) -> State:
        """The columns of the images (N,) that are kept."""
        result: State = {}
        for name, values in state.items():
            counts = self._counted_by.get(name)
            rows = kept if counts is None else np.repeat(kept, state[counts])
            result[name] = list(compress(values, rows)) if isinstance(values, list) else values[rows]
        return result
