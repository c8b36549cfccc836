"""The input size of a detector where none is given: what the objects ask for, as far as the time allows."""

import numpy as np

from detseg.data.annotations import Annotations
from detseg.data.dataset import scaled_sizes

SMALLEST, LARGEST, STEP = 320, 640, 32
# Three quarters of the objects get this side, the root of width x height, in pixels: eight cells of stride 8. A rule of
# thumb: objects that are smaller are boxed worse, and a larger size costs time.
ENOUGH, REST = 64, 0.25
# Images that a run is to see at its size, by the learning curves at 320 px: there most is learnt in 25 epochs. Small
# sets take more of them, large ones fewer.
EPOCHS, FEWEST, MOST = 25, 12_000, 30_000


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
