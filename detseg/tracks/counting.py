"""Objects counted: those that cross a line, in both directions, and those that are in a zone; by class.

An object is where the middle of its box is. On a line it may tremble: it is on a side once it is there by `SURE` of its
box's size, and has crossed when it is then on the other side and its way went through the line, not past its ends.
"""

from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SURE = 0.1
MOST = 10_000  # objects that are remembered: a camera runs for weeks

Point = tuple[float, float]
Figures = dict[str, dict[str, int]]
"""Numbers by class and by what they are of: {"rose": {"down": 3, "up": 1}}."""


class Line(NamedTuple):
    """A line that objects cross."""

    name: str
    start: Point
    end: Point

    @property
    def directions(self) -> tuple[str, str]:
        """What the two directions are called, as an image shows them: that of `crossing` 1, that of -1."""
        (x1, y1), (x2, y2) = self.start, self.end
        if abs(y2 - y1) >= abs(x2 - x1):
            return ("left", "right") if y2 > y1 else ("right", "left")
        return ("down", "up") if x2 > x1 else ("up", "down")

    @property
    def points(self) -> NDArray[np.float64]:
        """(2, 2) x, y."""
        return np.array([self.start, self.end])


class Zone(NamedTuple):
    """A polygon that objects are in."""

    name: str
    corners: tuple[Point, ...]

    @property
    def points(self) -> NDArray[np.float64]:
        """(N, 2) x, y."""
        return np.array(self.corners)


def parse_counts(words: Sequence[str]) -> list[Line | Zone]:
    """Lines and zones of the command line, named "line 1", "zone 1", "line 2", …; see `parse_count`."""
    numbers: Tally[str] = Tally()
    found = []
    for word in words:
        kind = word.partition("=")[0]
        numbers[kind] += 1
        found.append(parse_count(word, f"{kind} {numbers[kind]}"))
    return found


def parse_count(word: str, name: str) -> Line | Zone:
    """A line or zone from ``line=x1,y1,x2,y2`` or ``zone=x1,y1,x2,y2,x3,y3,…`` in pixels; ValueError if it is none."""
    kind, _, text = word.partition("=")
    wanted = "write line=x1,y1,x2,y2 or zone=x1,y1,x2,y2,x3,y3,… in pixels"
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{word}: {wanted}") from error
    if kind not in ("line", "zone") or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError(f"{word}: {wanted}")
    points = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if kind == "line":
        if len(points) != 2 or points[0] == points[1]:
            raise ValueError(f"{word}: a line has two different ends; {wanted}")
        return Line(name, *points)
    if len(points) < 3 or not area(points):
        raise ValueError(f"{word}: a zone has three corners at least and an area; {wanted}")
    return Zone(name, points)


def area(corners: Sequence[Point]) -> float:
    """Area of a polygon, square pixels."""
    x, y = np.array(corners).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def distance(line: Line, point: Point) -> float:
    """How far a point is from a line that goes on beyond its ends, pixels: positive where a cross product is."""
    (x1, y1), (x2, y2) = line.start, line.end
    across = (x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)
    return across / float(np.hypot(x2 - x1, y2 - y1))


def crossing(line: Line, before: Point, now: Point) -> int:
    """How the straight way between two points crosses a line: 1 to where `distance` is positive, -1 back, 0 not at all.

    A point on the line is where `distance` is positive, so that a way cut in two crosses as often as the whole.
    """
    from_, to = distance(line, before), distance(line, now)
    if (from_ >= 0) == (to >= 0):
        return 0
    share = from_ / (from_ - to)
    met = np.array(before) + share * (np.array(now) - np.array(before))
    along = np.array(line.end) - np.array(line.start)
    place = float((met - np.array(line.start)) @ along / (along @ along))
    return (1 if to >= 0 else -1) if 0 <= place <= 1 else 0


def inside(zone: Zone, points: ArrayLike) -> NDArray[np.bool_]:
    """Whether each of (N, 2) points is in a zone: a ray from it meets the border an odd number of times.

    Of two zones that share a side, a point on that side is in one.
    """
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T[:, :, None]
    x1, y1 = zone.points.T
    x2, y2 = np.roll(zone.points, -1, 0).T
    spans = (y1 > y) != (y2 > y)
    rise = np.where(y1 == y2, 1.0, y2 - y1)
    met = x < (x2 - x1) * (y - y1) / rise + x1
    return (spans & met).sum(1) % 2 == 1


class _Recent(OrderedDict[int, Point]):
    """What is known of the objects that were seen last."""

    def note(self, key: int, value: Point) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > MOST:
            self.popitem(last=False)


@dataclass
class Counter:
    """Counts the objects that cross a line or are in a zone, frame by frame.

    Attributes:
        shape: the line or zone.
        names: of classes, by label.
    """

    shape: Line | Zone
    names: Sequence[str]
    _totals: Tally[tuple[int, str]] = field(default_factory=Tally)
    _known: _Recent = field(default_factory=_Recent)

    @property
    def kind(self) -> Literal["line", "zone"]:
        """What it counts at."""
        return "line" if isinstance(self.shape, Line) else "zone"

    def add(self, ids: ArrayLike, labels: ArrayLike, boxes: ArrayLike) -> None:
        """Add a frame: numbers (D,) of objects, -1 of those that have none and are not counted; their labels (D,) and
        boxes (D, 4) xyxy."""
        number, label = np.asarray(ids, np.int64), np.asarray(labels, np.int64)
        box = np.asarray(boxes, np.float64).reshape(-1, 4)
        known = number >= 0
        number, label, box = number[known], label[known], box[known]
        (self._cross if isinstance(self.shape, Line) else self._stay)(number, label, box)

    def _cross(self, ids: NDArray[np.int64], labels: NDArray[np.int64], boxes: NDArray[np.float64]) -> None:
        assert isinstance(self.shape, Line)
        forward, back = self.shape.directions
        margins = SURE * np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1))
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        for i, label, (x, y), margin in zip(
            ids.tolist(), labels.tolist(), middles.tolist(), margins.tolist(), strict=True
        ):
            if abs(distance(self.shape, (x, y))) < margin:
                continue
            before = self._known.get(i)
            self._known.note(i, (x, y))
            if before is not None and (way := crossing(self.shape, before, (x, y))):
                self._totals[label, forward if way > 0 else back] += 1

    def _stay(self, ids: NDArray[np.int64], labels: NDArray[np.int64], boxes: NDArray[np.float64]) -> None:
        assert isinstance(self.shape, Zone)
        here = inside(self.shape, (boxes[:, :2] + boxes[:, 2:]) / 2)
        now = Tally(labels[here].tolist())
        for label in {*now, *(label for label, what in self._totals if what == "now")}:
            self._totals[label, "now"] = now[label]
            self._totals[label, "most"] = max(self._totals[label, "most"], now[label])
        for i, label in zip(ids[here].tolist(), labels[here].tolist(), strict=True):
            if i not in self._known:
                self._totals[label, "distinct"] += 1
            self._known.note(i, (0.0, 0.0))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the numbers are of: the two directions of a line; of a zone how many are in it now, the most there were
        at a time, and how many different ones there were."""
        return self.shape.directions if isinstance(self.shape, Line) else ("now", "most", "distinct")

    def figures(self) -> Figures:
        """The numbers so far, of the classes that were counted, in the order of labels."""
        seen = sorted({label for label, _ in self._totals})
        return {self.names[label]: {kind: self._totals[label, kind] for kind in self.kinds} for label in seen}

    def __str__(self) -> str:
        sums = {kind: sum(row[kind] for row in self.figures().values()) for kind in self.kinds if kind != "most"}
        return f"{self.shape.name}: {', '.join(f'{number} {kind}' for kind, number in sums.items())}"
