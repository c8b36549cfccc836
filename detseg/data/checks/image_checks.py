"""Checks of the images themselves, whatever is annotated in them: there, whole, of the right size, each only once."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from detseg.data.base import ImageSet
from detseg.data.checks.problems import Problem, Severity
from detseg.data.formats.find_images import FolderCache, nearby_image
from detseg.data.images import ImageInfo, inspect_image
from detseg.data.pack.file import file_digest, image_digests
from detseg.data.shard_members import content_size, lacking_member, new_mark, place_of
from detseg.reading import require_file

SAMPLE = 4096  # bytes read from both ends of files of equal size before they are compared whole

Item = TypeVar("Item")


def image_problem(
    data: ImageSet, image: int, what: str, remedy: str, kind: str, severity: Severity = "error"
) -> Problem:
    """A problem of the image at position `image`."""
    path = str(data.paths[image])
    return Problem(data.file_of(image), path, None, what, remedy, severity, kind, image_index=image)


def name_problems(data: ImageSet, noun: str) -> Iterator[Problem]:
    """Names of categories that are used twice."""
    for name, times in sorted(Counter(data.names).items()):
        if times == 1:
            continue
        what = f"{times} {noun} are named {name!r}"
        yield Problem(data.source, "", None, what, "give each its own name", "warning", "category")


def repeats(values: NDArray[Any]) -> list[int]:
    """Positions of values that occurred before."""
    first = np.unique(values, return_index=True)[1]
    later = np.ones(len(values), bool)
    later[first] = False
    return np.flatnonzero(later).tolist()


def id_problems(data: ImageSet) -> Iterator[Problem]:
    """Image ids that occur twice; given to different images, nobody can tell whose the objects of that id are."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(data.image_ids.tolist() if repeats(data.image_ids) else []):
        groups[number].append(row)
    for number, rows in groups.items():
        paths = {os.path.normpath(data.paths[row]) for row in rows}
        what, remedy = f"image id {number} is listed {len(rows)} times, for the same image", "keep one of the entries"
        if len(paths) > 1:
            names = ", ".join(sorted(Path(path).name for path in paths)[:3]) + (", ..." if len(paths) > 3 else "")
            what = (
                f"image id {number} is given to {len(paths)} images ({names}): whose its objects are, nobody can tell"
            )
            remedy = "give every image its own id, and its objects that id"
        known = len(paths) == 1 or data.pack is not None  # a packed file keeps objects by position
        for row in rows[1:] if known else rows:
            yield image_problem(data, row, what, remedy, "duplicate-image-id")


def repeated_paths(data: ImageSet) -> list[int]:
    """Positions of images that are listed before, by path."""
    return repeats(np.array([os.path.normpath(path) for path in data.paths.tolist()]))


def image_problems(a: ImageSet) -> Iterator[Problem]:
    """Images that are missing or damaged, or whose size is not the one in the annotation file.

    Those in shards are checked when these are read first; here, that the shards are there and long enough.
    """
    if a.pack is not None:  # checked when they were packed
        return
    results, listed = in_threads(_inspect, a.paths.tolist()), FolderCache()
    for image, found in enumerate(results):
        if found is None:
            continue
        if isinstance(found, ImageInfo):
            yield from size_problems(a, image, found)
        elif not place_of(a.paths[image]) and not os.path.isfile(a.paths[image]):  # noqa: PTH113 - pathlib raises for names that are too long
            folder = "name the folder (--images, or --source-images of convert, split and show) unless YOLO names it"
            remedy = f"put it there, {folder}, or remove the entry"
            there = nearby_image(str(a.paths[image]), listed)
            what = "the image does not exist" + (f", only {there} is there" if there else "")
            yield image_problem(a, image, what, remedy, "missing-image")
        else:
            yield image_problem(a, image, found, "replace the image or remove the entry", "damaged-image")


def _inspect(path: str) -> ImageInfo | str | None:
    try:
        place = place_of(path)
        return inspect_image(path) if place is None else lacking_member(place) or None
    except (ValueError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")


def size_problems(a: ImageSet, image: int, found: ImageInfo) -> Iterator[Problem]:
    """What is wrong with the size that the annotations give for the image at a position."""
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


def sharing_problems(a: ImageSet, other: ImageSet | None, read_files: bool) -> Iterator[Problem]:
    """Images of `a` that are in `other` too, by path or by content, and equal files within `a`.

    Packed images are compared by what their files held when they were packed.
    """
    packed = a.pack is not None or (other is not None and other.pack is not None)
    shared: dict[int, str] = {}
    if a.pack is None:
        mine, theirs = a.paths.tolist(), [] if other is None or packed else other.paths.tolist()
        there = {_real(path): path for path in theirs}
        shared = {row: there[real] for row, path in enumerate(mine) if (real := _real(path)) in there}
        for group in equal_files([*mine, *theirs]) if read_files else []:
            own = [row for row in group if row < len(mine)]
            foreign = [row - len(mine) for row in group if row >= len(mine)]
            for row in own[1:]:
                if _real(mine[row]) != _real(mine[own[0]]):
                    what, remedy = f"the same image as {mine[own[0]]}", "keep one of the two"
                    yield image_problem(a, row, what, remedy, "duplicate-image", "warning")
            for row in own if foreign else []:
                shared.setdefault(row, theirs[foreign[0]])
    if other is None:
        return
    # Without leave to read files, packed images can only be compared with packed ones.
    if packed and (read_files or (a.pack is not None and other.pack is not None)):
        of_digest = dict(zip(_digests(other), other.paths.tolist(), strict=True))
        shared = {row: of_digest[key] for row, key in enumerate(_digests(a)) if key is not None and key in of_digest}
    for row, path in sorted(shared.items()):
        what = f"the image is in {other.source} too" + (f", as {path}" if path != str(a.paths[row]) else "")
        remedy = "remove it from one of the two, or the measured accuracy is too high"
        yield image_problem(a, row, what, remedy, "in-both-splits")


def _real(path: str) -> str:
    """A path without links; one that no file can have stays."""
    try:
        return os.path.realpath(path)
    except ValueError:  # it has a zero byte
        return path


def _digests(images: ImageSet) -> list[int | None]:
    """What packed files keep of an image's file, for each; None where a file cannot be read."""
    if images.pack is None:
        return list(in_threads(file_digest, images.paths.tolist()))
    return image_digests(images.pack).tolist()


def equal_images(a: ImageSet) -> list[list[int]]:
    """Groups of two or more positions with the same image, packed ones by what their files held when packed."""
    if a.pack is None:
        return equal_files(a.paths.tolist())
    groups: dict[int | None, list[int]] = defaultdict(list)
    for row, digest in enumerate(_digests(a)):
        groups[digest].append(row)
    return [group for group in groups.values() if len(group) > 1]


def equal_files(paths: Sequence[str]) -> list[list[int]]:
    """Groups of two or more positions whose files have the same content; unreadable files are left out.

    Only files of equal length are opened, and only those with equal beginnings and ends are read whole. Of members of
    shards the digests are known.
    """
    groups = [list(range(len(paths)))]
    keys: list[Callable[[str], Any]] = [content_size, _digest]
    if not any(map(place_of, paths)):
        keys.insert(1, _ends)
    for key in keys:
        groups = [part for group in groups for part in _split(group, paths, key)]
    return groups


def _split(group: list[int], paths: Sequence[str], key: Callable[[str], Any]) -> list[list[int]]:
    def safely(row: int) -> Any:
        try:
            return key(paths[row])
        except (OSError, ValueError):  # ValueError: of a path with a zero byte
            return None

    parts: dict[Any, list[int]] = defaultdict(list)
    for row, value in zip(group, in_threads(safely, group), strict=True):
        if value is not None:
            parts[value].append(row)
    return [part for part in parts.values() if len(part) > 1]


def _ends(path: str) -> bytes:
    with require_file(Path(path)).open("rb") as file:
        head = file.read(SAMPLE)
        file.seek(max(0, os.fstat(file.fileno()).st_size - SAMPLE))
        return head + file.read(SAMPLE)


def _digest(path: str) -> str:
    if place := place_of(path):
        return place.digest
    with require_file(Path(path)).open("rb") as file:
        return hashlib.file_digest(file, new_mark).hexdigest()


def in_threads(function: Callable[[Item], Any], items: Sequence[Item]) -> Iterable[Any]:
    """Apply a function that mostly waits for the disk to many items; results in order."""
    if len(items) < 16:
        return [function(item) for item in items]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))
