"""The input size of a detector: what the objects ask for, as far as the time allows, and those too small for it."""

import logging
import math

import numpy as np

from detseg.data.annotations import Annotations
from detseg.data.dataset import learnable_sizes, scaled_sizes

logger = logging.getLogger(__name__)

SMALLEST, LARGEST, STEP = 320, 640, 32
# Three quarters of the objects get this side, the root of width x height, in pixels: eight cells of stride 8. A rule of
# thumb: objects that are smaller are boxed worse, and a larger size costs time.
ENOUGH, REST = 64, 0.25
# Images that a run is to see at its size, by the learning curves at 320 px: there most is learnt in 25 epochs. Small
# sets take more of them, large ones fewer.
EPOCHS, FEWEST, MOST = 25, 12_000, 30_000
# Objects with a shorter side, pixels at the training size, leave too little on the finest grid to be told by.
LEAST_SIDE = 4


def wanted_size(data: Annotations, longest: float = np.inf) -> int:
    """The input size, in pixels, that the objects of training images ask for, at least `SMALLEST`.

    Larger than the images themselves, half of which are larger than that, it is not, nor than `longest`.
    """
    sides = np.sqrt(scaled_sizes(data, 1).prod(1))
    wanted = ENOUGH / float(np.quantile(sides, REST)) if len(sides) else SMALLEST
    most = min(longest, float(np.median(data.sizes.max(1))), LARGEST)
    return max(SMALLEST, round(min(wanted, most) / STEP) * STEP)


def affordable_size(wanted: int, images: int, seconds: float, rate: float) -> int:
    """The largest size up to `wanted` of which a run sees enough images, at least `SMALLEST`.

    Args:
        wanted: in pixels.
        images: number of training images.
        seconds: length of the run.
        rate: images a second at the wanted size; time grows with the area.
    """
    enough = min(max(EPOCHS * images, FEWEST), MOST)
    sizes = range(wanted, SMALLEST, -STEP)
    return next((size for size in sizes if seconds * rate * (wanted / size) ** 2 >= enough), SMALLEST)


def check_objects(data: Annotations, size: int) -> None:
    """Raise AnnotationError where no object has a pixel at `--size`, and warn of those too small to be learnt."""
    learnable_sizes(data, size)
    warn_of_small_objects(scaled_sizes(data, size), size)


def warn_of_small_objects(sizes: np.ndarray, size: int) -> None:
    """Warn how many of the objects, (M, 2) widths and heights at `--size`, are too small there to be learnt."""
    sides = sizes.min(1)
    small = sides[sides < LEAST_SIDE]
    if not len(small):
        return
    wanted = size * LEAST_SIDE / max(float(np.quantile(small, 0.1)), 1e-3)
    logger.warning(
        "%d of %d objects (%.1f %%) are less than %d px wide or high at --size %d, too little to be learnt or found; "
        "--size %d would give nine in ten of them that much",
        *(len(small), len(sides), 100 * len(small) / len(sides), LEAST_SIDE, size, 32 * math.ceil(wanted / 32)),
    )
