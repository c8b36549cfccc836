"""From boxes to windows: what a sliding window sees in images, with and without an object that is its own.

A detector that slides a window over an image pyramid looks at every object through many windows. One of them has it
nearest to its middle, at nearly the right size: that one is to find it, and all others are to leave it alone. So the
windows cut here are of two kinds: an object, off the middle by half a step of the grid at most and of a size that lies
within one step of the pyramid; and background, which may well hold objects, but none that another window would not see
better. It is the latter that make the peak over an object sharp (Sermanet et al. 2014, arXiv:1312.6229, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.augment.geometry import warp_image
from detseg.data.base import Track, refuse_pack
from detseg.data.crops import map_images, require_boxes
from detseg.data.formats import write_coco
from detseg.data.formats.locate import unique_stems
from detseg.data.images import read_image, write_image
from detseg.files import inner_folder, make_folder

# The largest share of a window that its object takes: in one of 128 pixels with a stride of 32, an object that lies
# half a step off the middle is just seen whole.
LARGEST = 0.75
# From this misfit on a window is background: it is a whole step away, where the next window has its middle.
# Between 1 and this neither answer would be wrong; such windows are not cut.
CLEAR = 2.0
# Near misses go so far: a window beyond sees little of the object, and chance finds enough of those.
FAR = 5.0
# So many of the smallest windows lie side by side along an image's long side.
FINEST = 5.0
# How often a background window is drawn before the image is taken to have no place for one.
TRIES = 20


@dataclass(frozen=True, kw_only=True)
class WindowGrid:
    """How windows lie over images and their pyramid."""

    size: int = 128  # side of the windows, pixels
    stride: int = 32  # from a window to the next, pixels; the stride of the network's deepest map
    ratio: float = math.sqrt(2)  # between the levels of the pyramid

    def __post_init__(self) -> None:
        if self.stride < 1 or self.size < 2 * self.stride or self.size % self.stride:
            raise ValueError(
                f"a window's size must be a multiple of the stride {self.stride}, and twice it at least: {self.size}"
            )
        if not 1 < self.ratio <= 4:
            raise ValueError(f"the ratio between levels must be above 1 and at most 4, not {self.ratio}")

    @property
    def shares(self) -> tuple[float, float]:
        """The smallest and largest share of the window that an object's longer side takes."""
        return LARGEST / self.ratio, LARGEST

    def misfit(self, boxes: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
        """(M,) how far each object (M, 4) is from being this window's own; 1 or less where it is.

        The largest of three distances, each in half steps: of the middles across and down, and of the longer side
        from the middle of `shares`, on a log scale. Some window has 1 or less, for objects of any size, if the
        pyramid begins fine enough: at a `long_side` of the object's, or a larger one.
        """
        smallest, largest = self.shares
        half = window.side * self.stride / self.size / 2
        away = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - (window.x, window.y)).max(1) / half
        share = (boxes[:, 2:] - boxes[:, :2]).max(1) / window.side
        with np.errstate(divide="ignore"):
            scale = np.abs(np.log(share / math.sqrt(smallest * largest))) / (math.log(self.ratio) / 2)
        return np.maximum(away, scale)

    def long_side(self, boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        """(M,) the long side that an image of (width, height) = `size` is to be shown with to find each object (M, 4).

        In the first level of the pyramid, which is the image itself, the object then takes the smallest of `shares`.
        An object without extent needs an infinite one.
        """
        with np.errstate(divide="ignore"):
            return max(size) * self.shares[0] * self.size / (boxes[:, 2:] - boxes[:, :2]).max(1)

    def around(self, box: NDArray[np.float64], steps: Sequence[float] | NDArray[np.float64]) -> Window:
        """The window that has a box (4,) `steps` = (x, y, scale) half steps off its best place.

        Law: ``misfit([box], around(box, steps)) == max(abs(steps))``.
        """
        smallest, largest = self.shares
        share = math.sqrt(smallest * largest) * self.ratio ** (float(steps[2]) / 2)
        side = float((box[2:] - box[:2]).max()) / share
        half = side * self.stride / self.size / 2
        x, y = (box[:2] + box[2:]) / 2 - half * np.asarray(steps[:2])
        return Window(float(x), float(y), side)


class Window(NamedTuple):
    """A square in an image, whose pixels it is measured in; it may reach outside."""

    x: float  # of its middle
    y: float
    side: float


@dataclass(frozen=True)
class WindowsReport:
    """What `windows_of` did."""

    objects: int  # windows with an object
    background: int  # windows without
    small: int  # objects left out because a side was below `min_side`
    crowds: int  # crowd or difficult objects, left out too
    below: int = 0  # objects that have windows, but are smaller than a sliding window finds by default
    long_side: int | None = None  # of images, pixels, with which it finds those too


class Chosen(NamedTuple):
    """Windows of one image."""

    windows: list[Window]
    owners: list[int]  # for each the position of the object that is its own, -1 for background


def choose_windows(
    boxes: NDArray[np.float64],
    crowds: NDArray[np.float64],
    size: tuple[int, int],
    grid: WindowGrid,
    rng: np.random.Generator,
    *,
    centred: NDArray[np.int64],
    per_object: int = 2,
    background: float = 1.0,
) -> Chosen:
    """Where to cut windows in one image of `size` = (width, height).

    Args:
        boxes: (M, 4) xyxy of all objects, pixels.
        crowds: (C, 4) boxes that no background is cut from.
        centred: positions of the objects that windows are to be cut for.
        grid, rng, per_object, background: as in `windows_of`.
    """
    windows = [grid.around(boxes[i], rng.uniform(-1, 1, 3)) for i in np.repeat(centred, per_object)]
    # Among many alike a neighbour may fit better than the one the window was meant for.
    owners = [int(grid.misfit(boxes, window).argmin()) for window in windows]
    missed = boxes[centred]  # others are hardly looked at: too small, without an extent even
    for number in range(round(background * len(windows)) + (background > 0)):
        near = number % 2 == 1 and len(missed) > 0
        for _ in range(TRIES):
            window = _near_miss(missed, grid, rng) if near else _anywhere(size, grid, rng)
            clear = not len(boxes) or grid.misfit(boxes, window).min() >= CLEAR
            if clear and not _touches(window, crowds) and _touches(window, np.array([[0, 0, *size]])):
                windows.append(window)
                owners.append(-1)
                break
    return Chosen(windows, owners)


def _near_miss(boxes: NDArray[np.float64], grid: WindowGrid, rng: np.random.Generator) -> Window:
    """A window that a random object is just too far from, in place or in size."""
    reach = rng.uniform(CLEAR, FAR)
    steps = rng.uniform(-reach, reach, 3)
    steps[rng.integers(3)] = reach * rng.choice((-1, 1))
    return grid.around(boxes[rng.integers(len(boxes))], steps)


def _anywhere(size: tuple[int, int], grid: WindowGrid, rng: np.random.Generator) -> Window:
    """A window somewhere in an image; small ones are likelier, as a pyramid has more of them."""
    largest = max(size) / grid.shares[0]
    side = 1 / rng.uniform(1 / largest, FINEST / max(size))
    return Window(float(rng.uniform(0, size[0])), float(rng.uniform(0, size[1])), side)


def _touches(window: Window, boxes: NDArray[np.float64]) -> bool:
    """Whether a window and any of the boxes (B, 4) overlap."""
    low, high = np.array(window[:2]) - window.side / 2, np.array(window[:2]) + window.side / 2
    return bool(((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(1).any())


def cut_window(pixels: NDArray[np.uint8], window: Window, size: int) -> NDArray[np.uint8]:
    """The window of an image uint8 (H, W, 3) as uint8 (size, size, 3), grey outside of the image."""
    return warp_image(pixels, _matrix(window, size), (size, size))


def _matrix(window: Window, size: int) -> NDArray[np.float64]:
    """(2, 3): from the image's pixels to the window's."""
    scale = size / window.side
    corner = np.array(window[:2]) - window.side / 2
    return np.column_stack([np.eye(2) * scale, -corner * scale])


def windows_of(
    annotations: Annotations,
    folder: str | Path,
    split: str,
    *,
    grid: WindowGrid | None = None,
    per_object: int = 2,
    background: float = 1.0,
    min_side: int = 16,
    seed: int = 0,
    track: Track | None = None,
) -> WindowsReport:
    """Write windows as folder/images/<split>/<image>_<number>.jpg and folder/<split>.json in COCO's form.

    A window has the box of the object that is its own, clipped to it, and no others; background has none. The same
    seed gives the same windows.

    Args:
        annotations, folder, split: the images and their boxes; where to write to; "train", "val", …
        per_object: windows for each object; crowd or difficult ones get none, and no background is cut from them.
        background: windows without an object for each window with one, and one more in every image; half of them
            are near misses, the others lie anywhere. With 0 there are none.
        min_side: of objects, pixels; those with a shorter side get no windows.

    Raises:
        ValueError: an option is out of range, an image cannot be read, or an object has no class or no finite box.
    """
    grid = grid or WindowGrid()
    if per_object < 1 or min_side < 1 or not 0 <= background <= 100:
        raise ValueError(
            f"per_object and min_side must be at least 1, background lie in 0..100; they are {per_object}, {min_side} "
            f"and {background}"
        )
    refuse_pack(annotations.pack)
    place = inner_folder(inner_folder(make_folder(Path(folder)) / "images") / split)
    stems = unique_stems(annotations, set())

    def cut(image: int) -> _Cut:
        rows = np.arange(annotations.offsets[image], annotations.offsets[image + 1])
        require_boxes(annotations, image)
        crowds, rows = rows[annotations.iscrowd[rows]], rows[~annotations.iscrowd[rows]]
        boxes = annotations.boxes[rows]
        width, height = annotations.sizes[image].tolist()
        centred = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(1) >= min_side)
        options: dict[str, Any] = {"centred": centred, "per_object": per_object, "background": background}
        rng = np.random.default_rng((seed, image))
        windows, owners = choose_windows(boxes, annotations.boxes[crowds], (width, height), grid, rng, **options)
        paths = [str(place / f"{stems[image]}_{number}.jpg") for number in range(len(windows))]
        pixels = read_image(str(annotations.paths[image])) if paths else np.zeros((1, 1, 3), np.uint8)
        for path, window in zip(paths, windows, strict=True):
            write_image(Path(path), cut_window(pixels, window, grid.size))
        owners = [int(rows[owner]) if owner >= 0 else -1 for owner in owners]
        wanted = grid.long_side(boxes[centred], (width, height))
        return _Cut(paths, windows, owners, len(rows) - len(centred), len(crowds), wanted)

    cuts = map_images(cut, len(annotations), track)
    written = _annotations(annotations, cuts, grid.size)
    write_coco(written, Path(folder) / f"{split}.json")
    wanted = np.concatenate([np.zeros(0), *(cut.long_sides for cut in cuts)])
    below = wanted > FINEST * grid.size
    return WindowsReport(
        len(written.boxes),
        len(written) - len(written.boxes),
        sum(cut.small for cut in cuts),
        sum(cut.crowds for cut in cuts),
        int(below.sum()),
        math.ceil(wanted.max()) if below.any() else None,
    )


class _Cut(NamedTuple):
    """What was cut from one image."""

    paths: list[str]
    windows: list[Window]
    owners: list[int]  # rows of the annotations, -1 for background
    small: int
    crowds: int
    long_sides: NDArray[np.float64]  # as `WindowGrid.long_side`, of the objects that have windows


def _annotations(source: Annotations, cuts: Sequence[_Cut], size: int) -> Annotations:
    """The windows as a data set of their own, with the categories of the one they were cut from."""
    windows = [window for cut in cuts for window in cut.windows]
    owners = np.array([owner for cut in cuts for owner in cut.owners], np.int64)
    there = np.flatnonzero(owners >= 0)
    matrices = np.array([_matrix(windows[i], size) for i in there]).reshape(-1, 2, 3)
    corners = source.boxes[owners[there]].reshape(-1, 2, 2)
    boxes = np.clip((corners @ matrices[:, :, :2] + matrices[:, None, :, 2]).reshape(-1, 4), 0, size)
    return Annotations(
        categories=source.categories,
        image_ids=np.arange(1, len(windows) + 1),
        paths=np.array([path for cut in cuts for path in cut.paths], np.str_),
        sizes=np.full((len(windows), 2), size, np.int32),
        image_index=there.astype(np.int32),
        boxes=boxes,
        labels=source.labels[owners[there]],
        iscrowd=np.zeros(len(there), np.bool_),
        ids=np.arange(1, len(there) + 1),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        source=source.source,
    )
