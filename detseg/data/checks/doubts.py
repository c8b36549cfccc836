"""What is doubtful in a data set: not wrong by itself, as a `Problem` is, but worth a look."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations

Box = tuple[float, float, float, float]


class Kind(NamedTuple):
    """A kind of doubt, as it is told."""

    title: str
    rule: str  # when it is raised, with its thresholds, and what the score is


@dataclass(frozen=True)
class Doubt:
    """One doubtful thing; `image` and `object` are positions in the split, -1 where none is meant."""

    kind: str
    what: str
    score: float = 1.0  # the higher, the more doubtful within its kind
    split: str = ""
    image: int = -1
    object: int = -1
    boxes: tuple[Box, ...] = ()  # xyxy, of what else is meant: another object, a detection
    other: tuple[str, int] | None = None  # split and position of another image that is meant


def ranked(doubts: Iterable[Doubt], kinds: Mapping[str, Kind]) -> list[Doubt]:
    """Kind by kind in the order of `kinds`, the worst first."""
    order = {kind: place for place, kind in enumerate(kinds)}
    return sorted(doubts, key=lambda doubt: (order[doubt.kind], -doubt.score))


def sound_objects(data: Annotations) -> NDArray[np.bool_]:
    """(M,) objects that are no crowd and have a class and a box with an area; what others lack is a problem already."""
    x1, y1, x2, y2 = data.boxes.T
    known = (data.labels >= 0) & (data.labels < len(data.categories))
    return known & ~data.iscrowd & np.isfinite(data.boxes).all(1) & (x2 > x1) & (y2 > y1)


def robust_z(values: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """(N,) distances from the median, in standard deviations; `least` is the smallest one that is believed.

    The deviation is that of a normal distribution with the same median distance from its median.
    """
    away = np.abs(values - np.median(values))
    return away / max(1.4826 * float(np.median(away)), least)
