"""The checks behind `validate`: first those that need only the arrays, then those that open the images."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os.path import realpath
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations, Problem
from detseg.data.images import ImageInfo, inspect_image
from detseg.data.pack.rows import PackRows, file_digest

MIN_SIDE = 1e-3  # pixels; thinner boxes vanish in float32 and have no area to learn
ROUNDING = 0.02  # pixels; what two or six written digits put a box over the border is not worth a word
BORDER = 1.0 + 1e-6  # pixels; whole pixels and counting from 1 put boxes this far over the border
SAMPLE = 4096  # bytes read from both ends of files of equal size before they are compared whole


class Images(Protocol):
    """What `Annotations` and `SemanticMasks` have in common."""

    @property
    def paths(self) -> NDArray[np.str_]: ...  # noqa: D102
    @property
    def sizes(self) -> NDArray[np.int32]: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def label_files(self) -> NDArray[np.str_] | None: ...  # noqa: D102
    @property
    def pack(self) -> PackRows | None: ...  # noqa: D102


def object_problem(
    annotations: Annotations,
    row: int,
    what: str,
    remedy: str,
    kind: str,
    severity: Literal["error", "warning"] = "error",
) -> Problem:
    """A problem of the object at `row`."""
    image = int(annotations.image_index[row])
    return Problem(
        file_of(annotations, image),
        str(annotations.paths[image]),
        int(annotations.ids[row]),
        what,
        remedy,
        severity,
        kind,
        image_index=image,
        object_index=row,
    )


def image_problem(
    annotations: Images,
    image: int,
    what: str,
    remedy: str,
    kind: str,
    severity: Literal["error", "warning"] = "error",
) -> Problem:
    """A problem of the image at position `image`."""
    path = str(annotations.paths[image])
    return Problem(file_of(annotations, image), path, None, what, remedy, severity, kind, image_index=image)


def file_of(annotations: Images, image: int) -> str:
    """The annotation file that describes the image at position `image`."""
    files = annotations.label_files
    return annotations.source if files is None else str(files[image])


def box_problems(a: Annotations) -> Iterator[Problem]:
    """Boxes that are not finite, reversed, empty, or not inside the image."""
    width, height = a.sizes[a.image_index].T.astype(np.float64)
    finite = np.asarray(np.isfinite(a.boxes).all(axis=1))
    x1, y1, x2, y2 = np.where(finite[:, None], a.boxes, 0).T
    reversed_ = finite & ((x2 < x1) | (y2 < y1))
    empty = finite & ~reversed_ & ((x2 - x1 < MIN_SIDE) | (y2 - y1 < MIN_SIDE))
    sound = finite & ~reversed_ & ~empty & (width > 0) & (height > 0)
    outside = sound & ((x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0))
    over = np.max([-x1, -y1, x2 - width, y2 - height], axis=0, initial=0, where=sound)
    crossing = sound & ~outside & (over > ROUNDING)

    for rows, what, remedy, kind in (
        (~finite, "the box {box} holds NaN or infinity", "correct or remove the object", "not-finite"),
        (reversed_, "the box {box} is reversed", "its x2 must be above x1, y2 above y1", "reversed-box"),
        (empty, "the box {box} has no area", "correct or remove the object", "zero-size-box"),
        (outside, "the box {box} lies outside the image of {size}", "remove the object", "box-outside"),
    ):
        for row in np.flatnonzero(rows):
            yield object_problem(a, int(row), _describe(a, row, what), remedy, kind)
    for row in np.flatnonzero(crossing):
        what = f"the box {{box}} reaches {over[row]:.4g} px over the border of the image of {{size}}"
        severity: Literal["error", "warning"] = "warning" if over[row] <= BORDER else "error"
        yield object_problem(a, int(row), _describe(a, row, what), "clip it to the image", "box-over-border", severity)


def _describe(a: Annotations, row: Any, what: str) -> str:
    width, height = a.sizes[a.image_index[row]]
    box = ", ".join(f"{value:.6g}" for value in a.boxes[row])
    return what.format(box=f"({box})", size=f"{width} x {height}")


def category_problems(a: Annotations) -> Iterator[Problem]:
    """Names used twice, and objects of unlisted categories that the reader did not report already."""
    reported = Counter(p.image for p in a.read_problems if p.kind == "unknown-category")
    for row in np.flatnonzero((a.labels < 0) | (a.labels >= len(a.categories))):
        image = str(a.paths[a.image_index[row]])
        reported[image] -= 1
        if reported[image] < 0:
            what = f"label {a.labels[row]} is not among the {len(a.categories)} categories"
            yield object_problem(a, int(row), what, "add the category or remove the object", "unknown-category")
    names = list(a.names)
    for name in sorted({name for name in names if names.count(name) > 1}):
        what = f"{names.count(name)} categories are named {name!r}"
        yield Problem(a.source, "", None, what, "give each its own name", "warning", "category")


def duplicate_problems(a: Annotations) -> Iterator[Problem]:
    """Objects, object ids, image ids and images that occur twice."""
    for row in repeats(a.image_ids):
        what = f"image id {a.image_ids[row]} is given to an earlier image too"
        yield image_problem(a, row, what, "give every image its own id", "duplicate-image-id")
    doubled_ids = set(repeats(a.image_ids))
    for row in repeats(np.array([os.path.normpath(path) for path in a.paths.tolist()])):
        if row not in doubled_ids:
            what = "the image is listed twice, so each entry lacks the objects of the other"
            yield image_problem(a, row, what, "join the two entries", "duplicate-path")
    for row in repeats(a.ids):
        what = f"annotation id {a.ids[row]} is given to an earlier object too"
        yield object_problem(a, row, what, "give every object its own id", "duplicate-object-id", "warning")
    for row in _repeated_objects(a):
        what = _describe(a, row, "the same box {box} with the same category is listed twice in this image")
        yield object_problem(a, row, what, "remove one of the two", "duplicate-object", "warning")


def repeats(values: NDArray[Any]) -> list[int]:
    """Positions of values that occurred before."""
    first = np.unique(values, return_index=True)[1]
    later = np.ones(len(values), bool)
    later[first] = False
    return np.flatnonzero(later).tolist()


def _repeated_objects(a: Annotations) -> list[int]:
    columns = np.column_stack([a.image_index, a.labels, a.boxes])
    order = np.lexsort(columns.T[::-1])  # stable: the first of several stays first
    ordered = columns[order]
    same = (ordered[1:] == ordered[:-1]).all(axis=1)
    return np.sort(order[1:][same]).tolist()


def outline_problems(a: Annotations) -> Iterator[Problem]:
    """Polygons that are not finite and masks of another size than the image."""
    if a.segments is None:
        return
    bad_points = np.flatnonzero(~np.isfinite(a.segments.points).all(axis=1))
    polygons = np.searchsorted(a.segments.point_offsets, bad_points, side="right") - 1
    for row in np.unique(np.searchsorted(a.segments.polygon_offsets, polygons, side="right") - 1):
        what, remedy = "its outline holds NaN or infinity", "correct or remove the outline"
        yield object_problem(a, int(row), what, remedy, "malformed-outline")
    sizes = a.sizes[a.image_index][:, ::-1]
    differs = a.segments.has_rle & (sizes > 0).all(axis=1) & (a.segments.rle_sizes != sizes).any(axis=1)
    for row in np.flatnonzero(differs):
        (mask_height, mask_width), (height, width) = a.segments.rle_sizes[row], sizes[row]
        what = f"its mask is {mask_width} x {mask_height}, the image {width} x {height}"
        yield object_problem(a, int(row), what, "correct or remove the mask", "mask-size")


def image_problems(a: Images) -> Iterator[Problem]:
    """Images that are missing or damaged, or whose size is not the one in the annotation file.

    Packed images were checked when they were packed.
    """
    if a.pack is not None:
        return
    results = in_threads(_inspect, a.paths.tolist())
    for image, found in enumerate(results):
        if isinstance(found, ImageInfo):
            yield from _size_problems(a, image, found)
        elif not Path(str(a.paths[image])).is_file():
            folder = "name the folder (--images of detseg train and detseg pack) unless it is a YOLO set, which says it"
            remedy = f"put it there, {folder}, or remove the entry"
            yield image_problem(a, image, "the image does not exist", remedy, "missing-image")
        else:
            remedy = "replace the image or remove the entry"
            yield image_problem(a, image, found, remedy, "damaged-image")


def _inspect(path: str) -> ImageInfo | str:
    try:
        return inspect_image(path)
    except (ValueError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")


def _size_problems(a: Images, image: int, found: ImageInfo) -> Iterator[Problem]:
    width, height = (int(side) for side in a.sizes[image])
    if (width, height) == found.size:
        return
    what = f"the annotation file says {width} x {height}, the image is {found.size[0]} x {found.size[1]}"
    if (width, height) == found.stored_size:
        what += f" once turned upright (EXIF orientation {found.orientation}): annotated on the unturned pixels"
        yield image_problem(a, image, what, "turn the boxes, or remove the EXIF tag", "unrotated")
        return
    if (height, width) == found.size:
        remedy = "swap width and height in the annotation file if the boxes fit the image"
    elif min(width, height) > 0 and abs(width * found.size[1] / (height * found.size[0]) - 1) < 0.01:
        remedy = f"the image was resized: scale its boxes by {found.size[0] / width:.4g}, or restore it"
    else:
        remedy = "use the image that was annotated, or annotate this one"
    yield image_problem(a, image, what, remedy, "size-differs")


def sharing_problems(a: Images, other: Images | None, read_files: bool) -> Iterator[Problem]:
    """Images of `a` that are in `other` too, by path or by content, and equal files within `a`.

    Packed images are compared by what their files held when they were packed.
    """
    packed = any(images is not None and images.pack is not None for images in (a, other))
    shared: dict[int, str] = {}
    if a.pack is None:
        mine, theirs = a.paths.tolist(), [] if other is None or packed else other.paths.tolist()
        there = {realpath(path): path for path in theirs}
        shared = {row: there[real] for row, path in enumerate(mine) if (real := realpath(path)) in there}
        for group in equal_files([*mine, *theirs]) if read_files else []:
            own = [row for row in group if row < len(mine)]
            foreign = [row - len(mine) for row in group if row >= len(mine)]
            for row in own[1:]:
                if realpath(mine[row]) != realpath(mine[own[0]]):
                    what, remedy = f"the same image as {mine[own[0]]}", "keep one of the two"
                    yield image_problem(a, row, what, remedy, "duplicate-image", "warning")
            for row in own if foreign else []:
                shared.setdefault(row, theirs[foreign[0]])
    if packed and other is not None:
        shared = _packed_in_both(a, other, read_files)
    yield from _told_as_shared(a, other, shared)


def _packed_in_both(a: Images, other: Images, read_files: bool) -> dict[int, str]:
    """Position in `a` -> path in `other` of images that are in both, where one of the two is packed, or both.

    Without leave to read files, packed images can only be compared with packed ones.
    """
    if not read_files and (a.pack is None or other.pack is None):
        return {}
    there = dict(zip(_digests(other), other.paths.tolist(), strict=True))
    return {row: there[key] for row, key in enumerate(_digests(a)) if key is not None and key in there}


def _digests(images: Images) -> list[int | None]:
    """What packed files keep of an image's file, for each; None where a file cannot be read."""
    if images.pack is None:
        return list(in_threads(file_digest, images.paths.tolist()))
    from detseg.data.pack.packed import picture_digests

    return picture_digests(images.pack).tolist()


def _told_as_shared(a: Images, other: Images | None, shared: dict[int, str]) -> Iterator[Problem]:
    for row, path in sorted(shared.items()):
        assert other is not None
        what = f"the image is in {other.source} too" + (f", as {path}" if path != str(a.paths[row]) else "")
        remedy = "remove it from one of the two, or the measured accuracy is too high"
        yield image_problem(a, row, what, remedy, "in-both-splits")


def equal_images(a: Images) -> list[list[int]]:
    """Groups of two or more positions with the same image, packed ones by what their files held when packed."""
    if a.pack is None:
        return equal_files(a.paths.tolist())
    groups: dict[int | None, list[int]] = defaultdict(list)
    for row, digest in enumerate(_digests(a)):
        groups[digest].append(row)
    return [group for group in groups.values() if len(group) > 1]


def equal_files(paths: Sequence[str]) -> list[list[int]]:
    """Groups of two or more positions whose files have the same content; unreadable files are left out.

    Only files of equal length are opened, and only those with equal beginnings and ends are read whole.
    """
    groups = [list(range(len(paths)))]
    for key in (_length, _ends, _digest):
        groups = [part for group in groups for part in _split(group, paths, key)]
    return groups


def _split(group: list[int], paths: Sequence[str], key: Callable[[str], Any]) -> list[list[int]]:
    parts: dict[Any, list[int]] = defaultdict(list)
    for row, value in zip(group, in_threads(key, [paths[row] for row in group]), strict=True):
        if value is not None:
            parts[value].append(row)
    return [part for part in parts.values() if len(part) > 1]


def _length(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _ends(path: str) -> bytes | None:
    try:
        with Path(path).open("rb") as file:
            head = file.read(SAMPLE)
            file.seek(max(0, os.fstat(file.fileno()).st_size - SAMPLE))
            return head + file.read(SAMPLE)
    except OSError:
        return None


def _digest(path: str) -> bytes | None:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None


def in_threads(function: Callable[[str], Any], items: Sequence[str]) -> Iterable[Any]:
    """Apply a function that mostly waits for the disk to many items; results in order."""
    if len(items) < 16:
        return [function(item) for item in items]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))
