"""The trackers that `--log` names, each in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from detseg.registry import Registry

if TYPE_CHECKING:
    from detseg.train.callbacks.callback import Callback


class Tracker(NamedTuple):
    """Where a tracker is, and what it needs; nothing of either is imported before it is asked for."""

    place: str  # module:class, below this package
    package: str  # that it imports
    extra: str = ""  # of detseg, that installs the package


TRACKERS: Registry[Tracker] = Registry("tracker")
TRACKERS.register("tensorboard")(Tracker("tensorboard:TensorBoard", "tensorboard"))
TRACKERS.register("mlflow")(Tracker("mlflow:Mlflow", "mlflow", "mlflow"))
TRACKERS.register("wandb")(Tracker("wandb:WeightsAndBiases", "wandb", "wandb"))


def create_trackers(names: Iterable[str]) -> list[Callback]:
    """A `Callback` for each name.

    Raises:
        ValueError: there is no tracker of that name, or its package is not installed.
    """
    found = []
    for name in dict.fromkeys(names):
        tracker = TRACKERS[name]
        if find_spec(tracker.package) is None:
            raise ValueError(f"--log {name}: needs {tracker.package}: pip install 'detseg[{tracker.extra}]'")
        module, _, kind = tracker.place.partition(":")
        found.append(getattr(import_module(f"{__package__}.{module}"), kind)())
    return found
