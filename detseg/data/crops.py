"""From boxes to a classification set: every object cut out and put into the folder of its class."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import Track, refuse_pack
from detseg.data.formats.locate import unique_stems
from detseg.data.images import read_image, write_image
from detseg.files import inner_folder, make_folder, safe_name

Result = TypeVar("Result")


class CropsReport(NamedTuple):
    """What `crops_of` did."""

    written: int
    small: int  # objects left out because a side was below `min_side`
    crowds: int  # crowd or difficult objects, left out too


def crops_of(
    annotations: Annotations,
    folder: str | Path,
    *,
    margin: float = 0.1,
    min_side: int = 16,
    track: Track | None = None,
) -> CropsReport:
    """Write the crop of every object to folder/<class>/<image>_<number>.jpg, at the image's own resolution.

    Every class gets a folder. Crowd or difficult objects are left out; the numbers count from 0, these included.

    Args:
        margin: what to show around a box, as a share of its width and height on each side.
        min_side: of the box within the image, pixels; objects with a shorter side are left out.

    Raises:
        ValueError: an option is out of range, two classes would share a folder, an image cannot be read, or an
            object has no class or no finite box; the message names it.
    """
    if not 0 <= margin <= 10 or min_side < 1:
        raise ValueError(f"margin must lie in 0..10, min_side be at least 1; they are {margin} and {min_side}")
    refuse_pack(annotations.pack)
    folder = Path(folder)
    places = [folder / name for name in folder_names(annotations)]
    make_folder(folder)
    for place in places:
        inner_folder(place)
    stems = unique_stems(annotations, set())

    def cut(image: int) -> CropsReport:
        require_boxes(annotations, image)
        owned = annotations.objects(image)
        written = small = 0
        pixels = None
        for number, row in enumerate(range(owned.start, owned.stop)):
            if annotations.iscrowd[row]:
                continue
            if pixels is None:
                pixels = read_image(str(annotations.paths[image]))
            window = crop_window(annotations.boxes[row], (pixels.shape[1], pixels.shape[0]), margin, min_side)
            if window is None:
                small += 1
                continue
            left, top, right, bottom = window
            place = places[int(annotations.labels[row])]
            write_image(place / f"{stems[image]}_{number}.jpg", pixels[top:bottom, left:right])
            written += 1
        return CropsReport(written, small, int(annotations.iscrowd[owned].sum()))

    reports = map_images(cut, len(annotations), track)
    return CropsReport(*(sum(counts) for counts in zip(CropsReport(0, 0, 0), *reports, strict=True)))


def folder_names(annotations: Annotations) -> list[str]:
    """See `class_folders`."""
    return class_folders(annotations.names, annotations.source)


def class_folders(classes: Sequence[str], source: object) -> list[str]:
    """A folder name for every class: its own name, but for characters not every system allows.

    Raises:
        ValueError: two would share one; the message names `source`, where the classes are from.
    """
    names = [safe_name(name).strip(" .") or "_" for name in classes]
    folded = [name.casefold() for name in names]
    for position, name in enumerate(folded):
        if name in folded[:position]:
            both = [classes[folded.index(name)], classes[position]]
            raise ValueError(f"{source}: the classes {both[0]!r} and {both[1]!r} would share a folder; rename one")
    return names


def map_images(work: Callable[[int], Result], count: int, track: Track | None) -> list[Result]:
    """What `work` gives for image 0, 1, … up to `count`, done in several threads, with progress."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(work, range(count))
        return [next(results) for _ in (track(range(count), count) if track else range(count))]


def require_boxes(annotations: Annotations, image: int) -> None:
    """Raise ValueError for objects of an image that have no class or no finite box."""
    rows = annotations.objects(image)
    labels = annotations.labels[rows]
    fine = np.isfinite(annotations.boxes[rows]).all(1) & (labels >= 0) & (labels < len(annotations.categories))
    wrong = ~fine & ~annotations.iscrowd[rows]
    if wrong.any():
        number = annotations.ids[rows][wrong][0]
        raise ValueError(f"{annotations.paths[image]}: object {number} has no class or no finite box; repair the data")


def crop_window(
    box: NDArray[np.floating], size: tuple[int, int], margin: float, min_side: int
) -> tuple[int, int, int, int] | None:
    """A box (4,) xyxy and its margin, grown to whole pixels and clipped to an image of `size` = (width, height).

    None if the clipped box has a side below `min_side`.
    """
    corner = np.array([*size, *size], np.float64)
    inside = np.clip(box, 0, corner)
    if (inside[2:] - inside[:2]).min() < min_side:
        return None
    border = np.tile(margin * (box[2:] - box[:2]), 2) * (-1, -1, 1, 1)
    grown = np.clip(box + border, 0, corner)
    # 1e-6: a border that is a whole number but for rounding is that number.
    low, high = np.floor(grown[:2] + 1e-6).astype(int), np.ceil(grown[2:] - 1e-6).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
