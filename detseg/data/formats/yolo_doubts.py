"""What the lines of a YOLO set have in common that shows another form: key points, corners, classes counted from 1.

Each is one error that names the cause: taken one by one, the lines would be repaired into wrong boxes.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations, Problem
from detseg.data.formats.assemble import box_areas

SAMPLE = 1000  # lines that are kept to look at
FAR_OVER = 0.1  # share of the image; nobody draws a box that far over the border


class Lines:
    """What is remembered of the lines while they are read."""

    def __init__(self) -> None:
        self.counts: set[int] = set()  # how many numbers follow the class
        self.sample: list[list[float]] = []
        self.classes: Counter[int] = Counter()  # number of objects of each, as it is in the files

    def add(self, values: list[float]) -> None:
        """Remember the numbers after the class of a line."""
        self.counts.add(len(values))
        if len(self.sample) < SAMPLE:
            self.sample.append(values)


def with_common_faults(data: Annotations, lines: Lines) -> Annotations:
    """The set with one error for each cause that all its lines share, in place of the errors of the lines."""
    shape = _key_points(lines)
    if shape is not None:
        points, numbers = shape
        what = f"every line has {4 + points * numbers} numbers after the class: a box and {points} key points, it seems"
        remedy = f"add kpt_shape: [{points}, {numbers}] to data.yaml"
        return _told(data, what, remedy, ("malformed-object", "pixel-coordinates"))
    count = len(data.categories)
    if lines.classes and min(lines.classes) == 1 and max(lines.classes) == count and lines.classes[count] > 1:
        what = f"there are classes up to {count} and never 0, for {count} names: they seem to be counted from 1"
        remedy = "subtract 1 from the class of every line, or give class 0 a name too"
        labels = np.where(data.labels < 0, count, data.labels) - 1
        data = _told(replace(data, labels=labels.astype(np.int32)), what, remedy, ("unknown-category",))
    corners = _as_corners(data)
    if corners is not None:
        what = "all boxes fit as corners (x1, y1, x2, y2) and many reach far over the border as centre and size"
        remedy = "write (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1 and y2 - y1 after the class"
        data = _told(replace(data, boxes=corners, areas=box_areas(corners)), what, remedy, ())
    return data


def _told(data: Annotations, what: str, remedy: str, instead_of: tuple[str, ...]) -> Annotations:
    kept = [problem for problem in data.read_problems if problem.kind not in instead_of]
    problem = Problem(data.source, "", None, what, remedy, kind="other-form")
    return replace(data, read_problems=(*kept, problem))


def _key_points(lines: Lines) -> tuple[int, int] | None:
    """How many key points of how many numbers follow the box in every line, where that is what they are.

    With a third number, 0, 1 or 2 for hidden or visible, it is plain. Without, polygons that all have as many points
    look alike: key points lie in the box and fill some of it. Four points are a rotated box.
    """
    if len(lines.counts) != 1:
        return None
    (count,) = lines.counts
    values = np.array(lines.sample)[:, 4:]
    if count > 4 and (count - 4) % 3 == 0 and np.isin(values[:, 2::3], (0, 1, 2)).all():
        return (count - 4) // 3, 3
    if count < 10 or count % 2 or not (np.abs(lines.sample) <= 2).all():  # NaN and what is no share
        return None
    centre, side = np.split(np.array(lines.sample)[:, None, :4], 2, axis=2)  # (N, 1, 2)
    points = values.reshape(len(values), -1, 2)
    unseen = (points == 0).all(axis=2)
    inside = (np.abs(points - centre) <= 0.55 * side).all(axis=2)
    low, high = points.min(axis=1), points.max(axis=1)
    fills = ((high - low) / np.maximum(side[:, 0], 1e-9)).max(axis=1) > 0.3
    # The second point of a polygon lies near its others, width and height do not.
    apart = (np.abs(side[:, 0] - (low + high) / 2) > high - low).any(axis=1)
    sure = (inside | unseen).all(axis=1).mean() > 0.95 and fills.mean() > 0.5 and apart.mean() > 0.2
    return ((count - 4) // 2, 2) if sure else None


def _as_corners(data: Annotations) -> NDArray[np.float64] | None:
    """The boxes (M, 4) in pixels where all fit as corners and a tenth reaches far over the border as it is read."""
    drawn = data.segments is not None and bool(data.drawn.any())
    sizes = np.tile(data.sizes, 2)[data.image_index].astype(np.float64)
    if drawn or not len(sizes) or (sizes <= 0).any() or not np.isfinite(data.boxes).all():
        return None
    shares = data.boxes / sizes
    over = np.max([-shares[:, 0], -shares[:, 1], shares[:, 2] - 1, shares[:, 3] - 1], axis=0)
    centre, side = (shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]
    fit = (side > centre).all() and side.max() <= 1 and centre.min() >= 0
    return np.hstack([centre, side]) * sizes if fit and (over > FAR_OVER).mean() >= 0.1 else None
