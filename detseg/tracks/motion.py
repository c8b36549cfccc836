"""Where boxes will be in the next frame: a Kalman filter of each (Kalman 1960), as ByteTrack has it.

A box is its centre, width and height; each of these four numbers moves with a speed of its own. Since none of them
depends on the others, the filter of eight numbers is four of two, and those of all boxes are a few lines of numpy.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.box_formats import convert_boxes

# Standard deviations as shares of a box's size: of a measured position; of how much a position, and a speed, change by
# themselves in a frame (Wojke et al. 2017, which ByteTrack took over).
MEASURED, MOVES, SPEEDS = 1 / 20, 1 / 20, 1 / 160
# And of the speed, per frame, of centre and size of a box that was seen once: nothing is known of it. So large for the
# centre that the second sight of a box sets its speed.
FIRST_SPEED = np.array([0.5, 0.5, 1 / 16, 1 / 16])
SMALLEST = 1e-3  # pixels of width and height


class Motion:
    """Filters of T boxes.

    Attributes:
        place, speed: (T, 4) centre x and y, width, height, in pixels, and their change per frame.
    """

    def __init__(self) -> None:
        self.place, self.speed = np.zeros((0, 4)), np.zeros((0, 4))
        # The covariance of each number and its speed: [[a, b], [b, c]].
        self._a, self._b, self._c = np.zeros((3, 0, 4))

    def __len__(self) -> int:
        return len(self.place)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(T, 4) xyxy, where boxes are now."""
        return convert_boxes(self.place, "cxcywh", "xyxy")

    @property
    def _size(self) -> NDArray[np.float64]:
        """(T, 1) the side of a square as large as each box."""
        return np.sqrt(self.place[:, 2:3] * self.place[:, 3:4])

    def start(self, boxes: ArrayLike) -> None:
        """Add boxes (M, 4) xyxy that are seen for the first time."""
        place = _measured(boxes)
        size = np.sqrt(place[:, 2:3] * place[:, 3:4])
        first = ((size * 2 * MEASURED) ** 2).repeat(4, 1), np.zeros_like(place), (size * FIRST_SPEED) ** 2
        self.place, self.speed = np.concatenate([self.place, place]), np.concatenate([self.speed, np.zeros_like(place)])
        old = self._a, self._b, self._c
        self._a, self._b, self._c = (np.concatenate(pair) for pair in zip(old, first, strict=True))

    def predict(self, frames: float, unseen: NDArray[np.bool_]) -> None:
        """Move all boxes by some frames; the size of those that are `unseen` (T,) stays."""
        self.speed[unseen, 2:] = 0
        moves, speeds = (frames * (self._size * share) ** 2 for share in (MOVES, SPEEDS))
        self.place = self.place + frames * self.speed
        self.place[:, 2:] = np.maximum(self.place[:, 2:], SMALLEST)
        self._a = self._a + frames * (2 * self._b + frames * self._c) + moves
        self._b = self._b + frames * self._c
        self._c = self._c + speeds

    def correct(self, rows: NDArray[np.int64], boxes: ArrayLike) -> None:
        """Take into account where the boxes at `rows` (M,) were seen: (M, 4) xyxy."""
        a, b, c = self._a[rows], self._b[rows], self._c[rows]
        total = a + (self._size[rows] * MEASURED) ** 2
        missed = _measured(boxes) - self.place[rows]
        self.place[rows] += a / total * missed
        self.speed[rows] += b / total * missed
        self._a[rows], self._b[rows], self._c[rows] = a - a * a / total, b - a * b / total, c - b * b / total
        self.place[:, 2:] = np.maximum(self.place[:, 2:], SMALLEST)

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Forget all boxes but those at `rows`."""
        self.place, self.speed = self.place[rows], self.speed[rows]
        self._a, self._b, self._c = self._a[rows], self._b[rows], self._c[rows]


def _measured(boxes: ArrayLike) -> NDArray[np.float64]:
    """Boxes (M, 4) xyxy as centre, width and height."""
    place = convert_boxes(np.asarray(boxes, np.float64).reshape(-1, 4), "xyxy", "cxcywh")
    place[:, 2:] = np.maximum(place[:, 2:], SMALLEST)
    return place
