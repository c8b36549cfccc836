"""What the readers and writers share: finding images, measuring them, writing files in one step."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from time import perf_counter, thread_time
from typing import Literal
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from detseg.console import one_line
from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.base import ImageSet
from detseg.data.formats.find_images import (
    Finder,
    FolderCache,  # noqa: F401 - readers have it from here, with the rest
    Found,
    find_below,
    join,
    settle,
)
from detseg.data.formats.image_files import IMAGE_EXTENSIONS, list_images  # noqa: F401
from detseg.data.formats.layout import ANNOTATION_FOLDERS, split_of
from detseg.data.formats.same_name import is_absolute, is_address, local_name
from detseg.data.shard_members import place_of, read_content
from detseg.files import inner_folder, replacing, safe_name, write_atomically
from detseg.reading import in_memory, require_file

log = logging.getLogger(__name__)

PIECE, SOME = 4096, 64  # images that are measured together
WRITTEN_EXTENSIONS = tuple(e for extension in IMAGE_EXTENSIONS for e in (extension, extension.upper()))

PlaceImages = Literal["link", "copy", "keep"]
"""How images come into a written data set: as links (copies where these are impossible), as copies, or not at all:
kept where they are."""


def locate_images(file_names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Find each image in the first of `folders` that has it.

    A name may hold folders of its own ("train2017/1.jpg"), be a path of another machine or a web address. It is looked
    for as it stands, then without its first folders; then in another spelling (`same_name`), with another extension,
    without the digits that Label Studio puts before it; if no name is found at all, anywhere below the set's folder.
    A file that is not a name's by its full path is taken only if nothing else is meant by the name and no other name
    means the file; a bare name counts only if no other name's folders are there. What was overlooked is logged once.

    Images found nowhere get the path they would have in the folder where most of the others are, for validation to
    report. A name may lead out of the data set: that is logged, and of a `Limit` refused.

    Raises:
        AnnotationError: a name leads out of the folder that is the limit.
    """
    bases = [str(folder) for folder in folders]
    names = [local_name(name) for name in file_names]
    finder = Finder(bases)
    distinct = list(dict.fromkeys(names))
    meant = {name: finder.find(name) for name in distinct}
    found = settle(meant)
    if not found and names:
        found = next(filter(None, (settle(dict(find_below(distinct, root))) for root in _roots(folders))), {})
    addresses = {name for name, given in zip(names, file_names, strict=True) if is_address(given)}
    _tell(found, addresses, len(distinct))
    _tell_outside(found, folders, len(distinct))
    hits = Counter(hit.base for hit in meant.values() if hit is not None)
    likeliest = max(range(len(bases)), key=lambda base: (hits[base], bool(finder.cache.names(bases[base]))))
    for name in distinct:
        if name not in found:  # folders of another machine say nothing of where it should be
            far = name in addresses or is_absolute(name)
            found[name] = Found(join(bases[likeliest], name.rpartition("/")[2] if far else name), likeliest, 0, 0)
    return [found[name].path for name in names]


class Limit(list[Path]):
    """The folder of images that a person names, by which all images lie in it."""


def _tell_outside(found: Mapping[str, Found], folders: Sequence[Path], count: int) -> None:
    """Log how many images lie outside of the data set, by their names; of a `Limit` they are refused."""
    limited = isinstance(folders, Limit)
    root = os.path.abspath(folders[-1] if limited else _roots(folders)[-1])  # noqa: PTH100 - links are kept
    inside = root.rstrip(os.sep) + os.sep
    doubtful = {
        name: hit.path for name, hit in found.items() if name.startswith("/") or ".." in name or name[1:2] == ":"
    }
    outside = [n for n, path in doubtful.items() if not os.path.abspath(path).startswith(inside)]  # noqa: PTH100
    if not outside:
        return
    what = f"{len(outside)} of {count} images lie outside of {root}, the first is {outside[0]}"
    if limited:
        raise AnnotationError(
            f"{what}; only those in the folder of --images are read: correct the names or leave it out"
        )
    log.warning("%s; --images FOLDER refuses images that lie elsewhere", what)


def _roots(folders: Sequence[Path]) -> list[Path]:
    """Below which folders all is searched: the likeliest, and the one above if that is but a part of the set."""
    first = folders[0]
    part = first.name.lower() in ANNOTATION_FOLDERS or split_of(first.name) is not None
    return [first, first.parent] if part and first.parent in folders else [first]


def _tell(found: Mapping[str, Found], addresses: set[str], count: int) -> None:
    """Log what was overlooked in names to find their files."""
    own = {name: hit for name, hit in found.items() if name not in addresses}
    # Of a path of another machine only its last folders can be there.
    bare = [name for name, hit in own.items() if hit.ignored and not (hit.kept and is_absolute(name))]
    for what, names in (
        ("the folders in", bare),
        ("extensions or prefixes of", [name for name, hit in own.items() if hit.loose]),
    ):
        if names:
            first = f"{names[0]} is taken for {found[names[0]].path}"
            log.warning("%s the names of %d of %d images are ignored: %s", what, len(names), count, first)
    searched = [name for name, hit in own.items() if hit.base < 0 and name not in bare]
    if searched:
        first = f"{searched[0]} is taken for {found[searched[0]].path}"
        log.warning("%d of %d images are found in folders further below: %s", len(searched), count, first)


def image_folders(place: Path, images: str | Path | None, split: str = "") -> list[Path]:
    """Where the images of annotations in the folder `place` may lie, likeliest first.

    `images` is the folder that the user names; `split` is what a file's name tells ("train2017", say).
    """
    if images is not None:
        if not Path(images).is_dir():
            raise AnnotationError(f"{images}: the folder of images (--images) does not exist")
        return Limit([Path(images)])
    names = [split, split.rstrip("0123456789_-")] if split else []
    places = [place, place / "images"]
    for base in (place, place / "images", place.parent, place.parent / "images"):
        places += [base / name for name in names if name]
    places += [place.parent, place.parent / "images"]
    return list(dict.fromkeys(places))


def by_last_parts(path: str, folders: Sequence[Path]) -> Path | None:
    """What a path of another machine means here: the longest end of it that one of the folders has."""
    parts = path.replace("\\", "/").split("/")
    ends = (folder.joinpath(*parts[start:]) for start in range(1, len(parts)) for folder in folders)
    return next((end for end in ends if end.exists()), None)


def measure_images(paths: Sequence[str], sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Fill in the unknown sizes (rows of zeros) from the image headers; unreadable images stay zero."""
    from detseg.data.images import image_size

    def measure(row: int) -> tuple[int, int]:
        try:
            return image_size(paths[row])
        except ValueError:
            return 0, 0  # validation reports the image

    def measure_all(rows: list[int]) -> list[tuple[int, int]]:
        return [measure(row) for row in rows]

    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    if not len(unknown):
        return sizes
    rows = unknown.tolist()
    measured: list[tuple[int, int]] = []
    # Of each piece some are measured to see whether the disk is waited for. If so, threads ask it for several files at
    # once: measured, 2 to 4 times as fast. Files in memory take threads 2.5 times as long, which Python runs in turn.
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), PIECE):
            piece = rows[start : start + PIECE]
            begun, worked = perf_counter(), thread_time()
            measured += measure_all(piece[:SOME])
            waits = perf_counter() - begun > 2 * (thread_time() - worked)
            rest = [piece[at : at + SOME] for at in range(SOME, len(piece), SOME)]
            measured += chain.from_iterable(pool.map(measure_all, rest) if waits else map(measure_all, rest))
    sizes = sizes.copy()
    sizes[unknown] = np.array(measured, dtype=np.int32)
    return sizes


def read_text(path: Path) -> str:
    """The content of a text file; raises AnnotationError."""
    try:
        with in_memory(require_file(path)):
            text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read as text: {error}") from error
    if "\0" in text:  # no name and no number has one, and none is asked for by one
        line = text.count("\n", 0, text.index("\0")) + 1
        raise AnnotationError(
            f"{path}: line {line}: holds a zero byte, so it is no text; is it UTF-16? Save it as UTF-8"
        )
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_names(path: Path) -> list[str]:
    """The lines of a list of classes; raises AnnotationError if a name is given twice."""
    names = read_lines(path)
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise AnnotationError(f"{path}: names given twice: {', '.join(repeated)}; write each class once, in order")
    return names


def write_names(annotations: ImageSet, file: Path) -> None:
    """Write a list of classes in their order, for formats that know classes by name only; or AnnotationError."""
    names = list(annotations.names)
    require_plain_names(names, file)
    if len({name.strip() for name in names}) < len(names) or not all(name.strip() for name in names):
        raise AnnotationError(f"{file}: the format knows categories by name only, so names must differ: {names}")
    if file.is_file() and read_lines(file) != [name.strip() for name in names]:
        raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    write_atomically(file, "".join(f"{name}\n" for name in names))


def require_text(paths: Iterable[str], target: Path) -> None:
    """Refuse, by AnnotationError, paths that a file of text cannot hold."""
    odd = next((path for path in paths if one_line(path) != path), None)
    if odd is not None:
        raise AnnotationError(
            f"{target}: not written, the path {one_line(odd)} is no text in UTF-8, or has control characters, so the "
            "image cannot be kept there: link or copy the images, or rename it"
        )


def require_plain_names(names: Iterable[str], target: Path) -> None:
    """Refuse, by AnnotationError, names of classes that lists and XML cannot hold: with ends of lines or the like."""
    odd = next((name for name in names if any(category(letter) in ("Cc", "Zl", "Zp") for letter in name)), None)
    if odd is not None:
        raise AnnotationError(
            f"{target}: not written, the class {odd!r} has control characters or line breaks in its name, which only "
            "COCO can hold; rename it"
        )


def first_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first file that is there: in the first folder that has one, the first of these names."""
    names = tuple(names)
    return next((file for folder in folders for name in names if (file := folder / name).is_file()), None)


def unique_stems(annotations: ImageSet, taken: set[str]) -> list[str]:
    """A file name without extension for every image, none of them in `taken`, all of them `safe_name`.

    Images that share a name, in different folders or with different extensions, get their image id added.
    """
    stems = [safe_name(Path(path).stem) or "image" for path in annotations.paths.tolist()]
    counts, used = Counter(stems), set(taken)
    for row, stem in enumerate(stems):
        if counts[stem] > 1 or stem in used:
            stem = f"{stem}_{annotations.image_ids[row]}"
        while stem in used:
            stem += "_"
        used.add(stem)
        stems[row] = stem
    return stems


def image_targets(annotations: ImageSet, stems: Sequence[str], folder: Path) -> list[Path]:
    """Where each image is placed in a folder: under its stem, with its own extension."""
    paths = annotations.paths.tolist()
    return [folder / f"{stem}{safe_name(Path(path).suffix[:20])}" for stem, path in zip(stems, paths, strict=True)]


def place_images(sources: Iterable[str], targets: Iterable[Path], how: PlaceImages) -> None:
    """Bring images to where a data set has them."""
    if how not in ("link", "copy", "keep"):
        raise ValueError(f'images must be "link", "copy" or "keep", not {how!r}')
    if how == "keep":
        return
    for name, target in zip(sources, targets, strict=True):
        if place_of(name) is not None:
            write_atomically(target, read_content(name))
            continue
        source = Path(name).resolve()
        if target.resolve() == source:
            continue
        if not source.is_file():
            raise ValueError(f"{name}: the image does not exist, so it cannot be placed in {target.parent}")
        inner_folder(target.parent)
        if how == "link":
            target.unlink(missing_ok=True)
            with suppress(OSError):  # no permission (Windows) or a file system without links
                target.symlink_to(source)
                continue
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def require_writable(annotations: Annotations, target: Path) -> None:
    """Refuse, by AnnotationError, what could not be read back: boxes that are not finite, objects of no category."""
    for bad, what in (
        (~np.isfinite(annotations.boxes).all(axis=1), "a box that is not finite"),
        (annotations.labels < 0, "no known category"),
    ):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            path = annotations.paths[annotations.image_index[first]]
            raise AnnotationError(
                f"{target}: not written, {int(bad.sum())} objects have {what}; the first is object "
                f"{annotations.ids[first]} of {path}. Call detseg.data.repair first."
            )
