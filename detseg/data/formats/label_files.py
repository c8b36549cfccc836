"""Sets with a text file of objects for each image, in a folder of labels beside a folder of images."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.layout import beginning, one_of_each_split, split_of, subfolders
from detseg.data.formats.locate import PlaceImages, list_images, read_text
from detseg.data.formats.records import Fault, Item, Record
from detseg.data.formats.write import placed_names
from detseg.files import make_folder, write_atomically

log = logging.getLogger(__name__)

LOOKED_INTO = 5  # files of a folder with something in them

ReadLine = Callable[[str], Sequence[Item | Fault]]


class LabelFolder(NamedTuple):
    """The labels and the images of a split."""

    labels: Path
    images: Path


def label_folders(
    path: Path, labels: Sequence[str], images: Sequence[str], is_ours: Callable[[Path], bool]
) -> dict[str, LabelFolder]:
    """The splits at a folder ("" where there are none): it has the two folders itself, or a folder for each split has.

    `labels` and `images` are the names that the two folders may have; `is_ours` judges a file by its content. The
    folder of labels itself will do, and a folder one above.
    """
    if path.is_file():
        return {}
    above = _pair(path.parent, labels, images) if path.name.lower() in labels else None
    pair = above if above and above.labels == path else _pair(path, labels, images)
    if pair:
        names = [folder.name for folder in subfolders(pair.labels) if split_of(folder.name)]
        divided = {split_of(name) or name: found for name in names if (found := _within(pair, name))}
        splits = divided or {"": pair}
    else:
        pairs = {folder: _pair(folder, labels, images) for folder in subfolders(path)}
        there = {folder: found for folder, found in pairs.items() if found is not None}
        splits = one_of_each_split(there) if _any_of_ours(there.values(), is_ours) else {}
    return splits if _any_of_ours(splits.values(), is_ours) else {}


def _any_of_ours(folders: Iterable[LabelFolder], is_ours: Callable[[Path], bool]) -> bool:
    """One file will do: the others may be of images without objects."""
    return any(is_ours(file) for folder in folders for file in _first(folder.labels))


def _pair(root: Path, labels: Sequence[str], images: Sequence[str]) -> LabelFolder | None:
    """The two folders in `root`, by the first names that both have."""
    below = {folder.name.lower(): folder for folder in subfolders(root)}
    pairs = ((label, image) for label in labels for image in images if label in below and image in below)
    return next((LabelFolder(below[label], below[image]) for label, image in pairs), None)


def _within(pair: LabelFolder, split: str) -> LabelFolder | None:
    found = LabelFolder(pair.labels / split, pair.images / split)
    return found if found.labels.is_dir() and found.images.is_dir() else None


def _first(folder: Path) -> list[Path]:
    return list(islice(filter(beginning, label_files(folder)), LOOKED_INTO))


def label_files(folder: Path) -> list[Path]:
    """The text files in a folder, without hidden ones and lists of classes."""
    found = sorted(file for file in folder.glob("*.txt") if not file.name.startswith("."))
    return [file for file in found if file.name.lower() not in ("classes.txt", "labels.txt")]


def label_records(folder: LabelFolder, read_line: ReadLine) -> Iterator[Record]:
    """A record for each label file; images without one are counted and told.

    `read_line` gives the objects of a line that is not blank; what it raises as ValueError stands for an object.
    """
    files = label_files(folder.labels)
    if not files:
        raise AnnotationError(f"{folder.labels}: holds no label files (.txt)")
    stems = {file.stem for file in files}
    unlabelled = [image for image in list_images(folder.images) if Path(image).stem not in stems]
    if unlabelled:
        log.warning(
            "%s: %d images have no label file, not even an empty one, and are left out; the first is %s",
            *(folder.labels, len(unlabelled), Path(unlabelled[0]).name),
        )
    for file in files:
        items: list[Item | Fault] = []
        for number, line in enumerate(read_text(file).splitlines(), 1):
            try:
                items += read_line(line) if line.strip() else ()
            except ValueError as error:
                items.append(Fault(f"line {number}: {error}"))
        yield Record(file.stem, items, file=str(file))


def write_label_files(
    annotations: Annotations, folder: LabelFolder, images: PlaceImages, write_line: Callable[[int], str]
) -> None:
    """Write a label file for each image, and place the images; `write_line` gives the line of an object by its row."""
    names = placed_names(annotations, folder.images, images)
    make_folder(folder.images)
    stems = [Path(name).stem for name in names]
    repeated = [stem for stem, count in Counter(stems).items() if count > 1]
    if repeated:  # only where images are kept
        raise AnnotationError(
            f"{folder.labels}: not written, several images are called {repeated[0]}; copy or link them"
        )
    for row, stem in enumerate(stems):
        owned = annotations.objects(row)
        lines = (f"{write_line(position)}\n" for position in range(owned.start, owned.stop))
        write_atomically(folder.labels / f"{stem}.txt", "".join(lines))
