"""Losses and gradients that must be finite: the first that is not is reported with the images it came from."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor

from detseg.train.errors import TrainingError


class _Entry(NamedTuple):
    what: str  # "loss" or "gradient"
    step: int
    indices: list[int]  # of the batch's images
    value: Tensor  # a scalar


class FiniteWatch:
    """Keeps the latest losses and gradient norms, unread, until it is asked to look at them: a GPU need not wait.

    Args:
        names: of the training images, for the message.
        latest: how many values are kept.
        world: number of processes.
    """

    def __init__(self, names: Sequence[str], latest: int, world: int) -> None:
        self._names, self._world = names, world
        self._recent: deque[_Entry] = deque(maxlen=latest)

    def add(self, what: str, step: int, indices: list[int], value: Tensor) -> None:
        """Keep a value: the "loss" of a batch, of the images `indices`, or the norm of a step's "gradient"."""
        self._recent.append(_Entry(what, step, indices, value))

    def check(self) -> None:
        """Look at all that is kept.

        Raises:
            TrainingError: something is NaN or infinite; names the images of the first such batch.
        """
        if not self._recent:
            return
        finite = torch.stack([entry.value for entry in self._recent]).isfinite().tolist()
        if all(finite):
            return
        what, step, indices, value = self._first([e for e, fine in zip(self._recent, finite, strict=True) if not fine])
        images = "\n  ".join(self._names[i] for i in dict.fromkeys(indices))
        raise TrainingError(
            f"the {what} became {value} at step {step}; the images of that batch are\n  {images}\n"
            "Look at their annotations; if they are fine, lower --lr or use --precision fp32. The checkpoints "
            "written so far are untouched."
        )

    def _first(self, wrong: Sequence[_Entry]) -> tuple[str, int, list[int], float]:
        """What was the first that is not finite, at which step, in which images, and its value.

        Of several processes, those whose own loss it was are to blame: the gradient is the mean of all.
        """
        what, step, indices, value = wrong[0]
        found = [(what, step, indices, float(value))]
        # A gradient is the same in all processes, so that all come here; a loss alone is one's own affair.
        if self._world > 1 and any(entry.what == "gradient" for entry in wrong):
            found = gather_object(found)
        what, step, _, first = min(found, key=lambda entry: (entry[1], entry[0] != "loss"))
        return what, step, [i for entry in found if entry[:2] == (what, step) for i in entry[2]], first
