"""What the readers and writers share: finding images, measuring them, writing files in one step."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.base import ImageSet
from detseg.data.formats.format import SPLITS
from detseg.files import write_atomically

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
WRITTEN_EXTENSIONS = tuple(e for extension in IMAGE_EXTENSIONS for e in (extension, extension.upper()))

PlaceImages = Literal["link", "copy", "keep"]
"""How images come into a written data set: as links (copies where these are impossible), as copies, or not at all:
kept where they are."""


class FolderCache:
    """Answers "does this file exist?" for many files by listing each folder once."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def names(self, folder: str) -> set[str]:
        """The names in a folder; empty if there is no such folder."""
        if folder not in self._names:
            self._names[folder] = set()
            with suppress(OSError):
                self._names[folder].update(os.listdir(folder or "."))  # noqa: PTH208 - one call for 100 k names
        return self._names[folder]

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return name in self.names(folder)


def locate_images(file_names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Find each image in the first of `folders` that has it.

    A name may hold folders of its own ("train2017/1.jpg", or an absolute path from another machine); when
    nothing matches as it stands, the bare name is looked for. Images found nowhere get the path they
    would have in the folder where most of the others are, for validation to report.
    """
    cache = FolderCache()
    bases = [str(folder) for folder in folders]
    found = [_locate(name.replace("\\", "/"), bases, cache) for name in file_names]
    hits = Counter(base for base, _ in found)
    likeliest = max(bases, key=lambda base: (hits[base], bool(cache.names(base))))
    return [_join(base if base is not None else likeliest, form) for base, form in found]


def _locate(name: str, bases: list[str], cache: FolderCache) -> tuple[str | None, str]:
    """The folder that has the image, None if no folder has it, and the form of its name that fits."""
    above, _, bare = name.rpartition("/")
    for base in bases if above and bare else ():
        if bare in cache.names(_join(base, above)):
            return base, name
    for base in bases if bare else ():
        if bare in cache.names(base):
            return base, bare
    return None, name


def _join(folder: str, name: str) -> str:
    if "/" not in name and name not in ("", ".", ".."):  # the usual case, a hundred thousand times
        return name if folder == "." else f"{folder}{os.sep}{name}"
    return os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 - pathlib is five times slower


def image_folders(place: Path, images: str | Path | None, split: str = "") -> list[Path]:
    """Where the images of annotations in the folder `place` may lie, likeliest first.

    `images` is the folder that the user names; `split` is what a file's name tells ("train2017", say).
    """
    if images is not None:
        if not Path(images).is_dir():
            raise AnnotationError(f"{images}: the folder of images (--images) does not exist")
        return [Path(images)]
    names = [split, split.rstrip("0123456789_-")] if split else []
    places = [place, place / "images"]
    for base in (place, place / "images", place.parent, place.parent / "images"):
        places += [base / name for name in names if name]
    places += [place.parent, place.parent / "images"]
    return list(dict.fromkeys(places))


def split_folders(root: Path, first: str, second: str) -> dict[str, tuple[Path, Path]]:
    """Split -> the pair of folders that hold it: first/train and second/train, or train/first and train/second."""
    found: dict[str, tuple[Path, Path]] = {}
    for split, spellings in SPLITS.items():
        for name in spellings:
            for pair in ((root / first / name, root / second / name), (root / name / first, root / name / second)):
                if pair[0].is_dir() and pair[1].is_dir():
                    found.setdefault(split, pair)
    return found


def by_last_parts(path: str, folders: Sequence[Path]) -> Path | None:
    """What a path of another machine means here: the longest end of it that one of the folders has."""
    parts = path.replace("\\", "/").split("/")
    ends = (folder.joinpath(*parts[start:]) for start in range(1, len(parts)) for folder in folders)
    return next((end for end in ends if end.exists()), None)


def list_images(folder: Path) -> list[str]:
    """All images in a folder and the folders below it, without hidden ones, sorted by path."""
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        # Jupyter keeps copies in .ipynb_checkpoints; a link to a folder above would be followed for ever.
        folders[:] = [] if real in seen else [name for name in sorted(folders) if not name.startswith(".")]
        if real not in seen:
            images = [name for name in names if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")]
            found += [os.path.join(where, name) for name in images]  # noqa: PTH118 - speed
        seen.add(real)
    return sorted(found)


def measure_images(paths: Sequence[str], sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Fill in the unknown sizes (rows of zeros) from the image headers; unreadable images stay zero."""
    from detseg.data.images import image_size

    def measure(row: int) -> tuple[int, int]:
        try:
            return image_size(paths[row])
        except ValueError:
            return 0, 0  # validation reports the image

    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    if not len(unknown):
        return sizes
    with ThreadPoolExecutor() as pool:
        measured = list(pool.map(measure, unknown.tolist(), chunksize=64))
    sizes = sizes.copy()
    sizes[unknown] = np.array(measured, dtype=np.int32)
    return sizes


def read_text(path: Path) -> str:
    """The content of a text file; raises AnnotationError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read as text: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_names(path: Path) -> list[str]:
    """The lines of a list of classes; raises AnnotationError if a name is given twice."""
    names = read_lines(path)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise AnnotationError(f"{path}: names given twice: {', '.join(repeated)}; write each class once, in order")
    return names


def write_names(annotations: ImageSet, file: Path) -> None:
    """Write a list of classes in their order, for formats that know classes by name only; or AnnotationError."""
    names = list(annotations.names)
    if len(set(names)) < len(names) or any(not name.strip() or "\n" in name for name in names):
        raise AnnotationError(f"{file}: the format knows categories by name only, so names must differ: {names}")
    if file.is_file() and read_lines(file) != names:
        raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    write_atomically(file, "".join(f"{name}\n" for name in names))


def first_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first file that is there: in the first folder that has one, the first of these names."""
    names = tuple(names)
    return next((file for folder in folders for name in names if (file := folder / name).is_file()), None)


def unique_stems(annotations: ImageSet, taken: set[str]) -> list[str]:
    """A file name without extension for every image, none of them in `taken`.

    Images that share a name, in different folders or with different extensions, get their image id added.
    """
    stems = [Path(path).stem for path in annotations.paths.tolist()]
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
    return [folder / f"{stem}{Path(path).suffix}" for stem, path in zip(stems, paths, strict=True)]


def place_images(sources: Iterable[str], targets: Iterable[Path], how: PlaceImages) -> None:
    """Bring images to where a data set has them."""
    if how not in ("link", "copy", "keep"):
        raise ValueError(f'images must be "link", "copy" or "keep", not {how!r}')
    if how == "keep":
        return
    for name, target in zip(sources, targets, strict=True):
        source = Path(name).resolve()
        if target.resolve() == source:
            continue
        if not source.is_file():
            raise ValueError(f"{name}: the image does not exist, so it cannot be placed in {target.parent}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if how == "link":
            with suppress(OSError):  # no permission (Windows) or a file system without links
                target.symlink_to(source)
                continue
        shutil.copyfile(source, target)


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
