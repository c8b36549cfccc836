"""Picture files of a run."""

from pathlib import Path

import numpy as np

from detseg.data.images import write_image

# So many pictures are on a sheet.
SHOWN = 16


def write_picture(image: np.ndarray, path: Path) -> Path:
    """Write uint8 RGB (H, W, 3) in the form that the path's ending names; returns the path."""
    write_image(path, image)
    return path


def some_of(images: int, seed: int) -> list[int]:
    """At most `SHOWN` of so many images, at random: in the order of their names they are often of one class."""
    return np.random.default_rng(seed).permutation(images)[:SHOWN].tolist()
