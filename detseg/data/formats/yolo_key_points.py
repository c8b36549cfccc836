"""Key points that a YOLO set has behind its boxes and does not tell of: one error in place of one a line."""

from dataclasses import replace

import numpy as np

from detseg.data.annotations import Annotations, Problem

SAMPLE = 1000  # lines that are kept to look at


class Lines:
    """What is remembered of the lines while they are read."""

    def __init__(self) -> None:
        self.counts: set[int] = set()  # how many numbers follow the class
        self.sample: list[list[float]] = []
        self.highest = -1  # class number

    def add(self, values: list[float]) -> None:
        """Remember the numbers after the class of a line."""
        self.counts.add(len(values))
        if len(self.sample) < SAMPLE:
            self.sample.append(values)


def with_key_points_told(data: Annotations, lines: Lines) -> Annotations:
    """The set with one error for key points without `kpt_shape`, in place of the errors of the lines."""
    shape = _key_points(lines)
    if shape is None:
        return data
    points, numbers = shape
    what = f"every line has {4 + points * numbers} numbers after the class: a box and {points} key points, it seems"
    remedy = f"add kpt_shape: [{points}, {numbers}] to data.yaml"
    kept = [p for p in data.read_problems if p.kind not in ("malformed-object", "pixel-coordinates")]
    return replace(data, read_problems=(*kept, Problem(data.source, "", None, what, remedy, kind="key-points")))


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
