"""How many detections an image may have: by the objects of the training images, and a warning where that is met."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.class_tree import SURE

logger = logging.getLogger(__name__)

# Detections of an image at least: COCO's metrics count so many. Where objects are many, twice as many as a training
# image has: other images may have more.
LEAST, ROOM = 100, 2
# Scores from which on a detection is clear: below, every image has any number of them.
CLEAR = 0.3


def most_detections(counts: NDArray[np.int64]) -> int:
    """The cap on an image's detections, in hundreds, from the numbers of objects in training images (N,)."""
    return max(LEAST, math.ceil(ROOM * int(counts.max(initial=0)) / 100) * 100)


class AtTheCap:
    """Counts images in which as many objects are clearly found as an image may have: there may be more.

    Args:
        cap: on the detections of an image; None: there is none.
        clear: the score from which on a detection is.
    """

    def __init__(self, cap: int | None, clear: float = CLEAR) -> None:
        self.cap, self.clear = cap, clear
        self.images = self.met = 0

    def add(self, scores: Any) -> None:
        """Add an image with these scores (D,)."""
        self.images += 1
        self.met += self.cap is not None and int((scores >= self.clear).sum()) >= self.cap

    def watch(self, found: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
        """The same detections, image by image; warns in the end. With a tree those of `SURE` count."""
        for one in found:
            self.add(one["scores"][one["level"] == SURE] if "level" in one else one["scores"])
            yield one
        self.warn()

    def warn(self) -> None:
        """Warn if the cap was met."""
        if self.met and self.cap is not None:
            logger.warning(
                "in %d of %d images %d objects with scores of %g or more are found, as many as are looked for in an "
                "image; there may be more: raise --max-detections",
                *(self.met, self.images, self.cap, self.clear),
            )
