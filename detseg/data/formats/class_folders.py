"""Reading classification sets: folders with one folder a class, CSV tables of names and classes, packed files.

    splits = read_labelled_dataset("birds")  # {"train": ..., "val": ..., maybe "test": ...}
    images = read_labels("birds/train")

What is not divided into train and val is divided by rule, see `detseg.data.labels.divide`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detseg.data.annotations import AnnotationError, Category, Problem
from detseg.data.formats.label_table import SPLIT_NAMES, TABLE_EXTENSIONS, LabelTable, read_label_table
from detseg.data.formats.locate import (
    IMAGE_EXTENSIONS,
    FolderCache,
    list_images,
    locate_images,
    measure_images,
    read_lines,
)
from detseg.data.labels import SPLITS, LabelledImages, divide
from detseg.data.pack.datasets import read_packed_labels
from detseg.data.pack.file import UNDIVIDED, is_pack

__all__ = ["SHARES", "LabelledImages", "read_label_splits", "read_labelled_dataset", "read_labels"]

SHARES = (0.75, 0.15, 0.10)
CLASS_FILES = ("classes.txt", "labels.txt")
LOOKED_FOR = """
  folders: train/, val/ (and test/) with a folder of images for each class; or such class folders alone
  tables:  train.csv and val.csv; a .csv file with the names of the images and their classes
  packed:  an .h5 file that `detseg pack` wrote"""


def read_labelled_dataset(
    path: str | Path, *, split: Sequence[float] = SHARES, seed: int = 0, images: str | Path | None = None
) -> dict[str, LabelledImages]:
    """Read a classification set as "train", "val" and, where there is one, "test".

    All splits share one list of classes. Its order is that of classes.txt or labels.txt (a name a line) where the
    folder has such a file; else names are sorted, as numbers if all are numbers.

    Args:
        path: a folder, a CSV file or a packed file.
        split: shares of training, validation and, if there are three, test, for data that are not divided. If only
            the validation part is missing, training is divided between the two in proportion.
        seed: of that division.
        images: the folder of the images of a table, where they are not found by themselves.

    Raises:
        AnnotationError: nothing readable is there, or a table is malformed; the message names file and line.
        ValueError: `split` is not such shares.
    """
    path = Path(path)
    if len(split) not in (2, 3):
        raise ValueError(f"split needs 2 or 3 shares (train, val and test), not {len(split)}")
    splits = read_label_splits(path, images=images)
    if "" in splits:
        return _divided(path, splits[""], SPLITS[: len(split)], split, seed)
    if "train" not in splits:
        raise AnnotationError(f"{path}: there is no split 'train', only {', '.join(splits)}")
    if "val" not in splits:
        shares = np.asarray(split[:2], np.float64)
        parts = _divided(path, splits["train"], SPLITS[:2], (shares / max(shares.sum(), 1e-9)).tolist(), seed)
        return parts | {name: part for name, part in splits.items() if name != "train"}
    return {name: splits[name] for name in SPLITS if name in splits}


def read_labels(path: str | Path, split: str | None = None, *, images: str | Path | None = None) -> LabelledImages:
    """Read the labelled images of one folder, table or split.

    Args:
        path: as for `read_labelled_dataset`; also the folder or table of one split.
        split: "train", "val" or "test", where the path holds several.
        images: the folder of the images of a table.

    Raises:
        AnnotationError: nothing readable is there, or the split is missing.
    """
    splits = read_label_splits(path, images=images)
    if split is None:
        if len(splits) > 1:
            raise AnnotationError(f"{path}: holds the splits {', '.join(splits)}; choose one with split=")
        return next(iter(splits.values()))
    if split not in splits:
        found = ", ".join(name or "images without splits" for name in splits)
        raise AnnotationError(f"{path}: has no split {split!r}; found: {found}")
    return splits[split]


def _divided(
    path: Path, images: LabelledImages, names: Sequence[str], shares: Sequence[float], seed: int
) -> dict[str, LabelledImages]:
    keys = images.paths.tolist()
    if images.pack is None:  # else they are the images' names, of no folder on this machine
        root = path if path.is_dir() else path.parent
        keys = [Path(os.path.relpath(key, root)).as_posix() for key in keys]
    part = divide(keys, images.labels, shares, seed)
    return {name: images.subset(part == position) for position, name in enumerate(names)}


def read_label_splits(path: str | Path, *, images: str | Path | None = None) -> dict[str, LabelledImages]:
    """The splits of a path as they are, nothing divided by rule; "" stands for images without splits.

    Args:
        path: as for `read_labelled_dataset`; also the folder or table of one split.
        images: the folder of the images of a table.

    Raises:
        AnnotationError: nothing readable is there, or a table is malformed; the message names file and line.
    """
    path = Path(path)
    if not path.exists():
        raise AnnotationError(f"{path}: does not exist")
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in TABLE_EXTENSIONS:
            return _from_tables({"": path}, images)
        if is_pack(path):
            packed = read_packed_labels(path)
            return {"": packed[UNDIVIDED]} if list(packed) == [UNDIVIDED] else packed
        raise AnnotationError(f"{path}: no labelled images recognised. Looked for:{LOOKED_FOR}")
    tables = _tables(path)
    if "train" in tables:
        return _from_tables(tables, images)
    divided = _split_folders(path)
    # A table may lie beside train/ and test/ that hold nothing but images.
    if "train" in divided and (_class_folders(divided["train"]) or not tables):
        return _from_folders(path, divided)
    if len(_class_folders(path).keys() - {folder.name for folder in divided.values()}) > 1 or not tables:
        return _from_folders(path, {"": path})
    if len(tables) > 1:
        raise AnnotationError(f"{path}: several tables could be meant ({', '.join(tables)}); give the file itself")
    return _from_tables({"": next(iter(tables.values()))}, images)


# ------------------------------------------------------------------ folders


def _split_folders(root: Path) -> dict[str, Path]:
    folders = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    found = {split: [folders[name] for name in names if name in folders] for split, names in SPLIT_NAMES.items()}
    return {split: places[0] for split, places in found.items() if places}


def _class_folders(root: Path) -> dict[str, Path]:
    """Class name -> folder; hidden ones and those that programs leave behind (__MACOSX) are none."""
    return {e.name: e for e in root.iterdir() if e.is_dir() and not e.name.startswith((".", "__"))}


def _from_folders(root: Path, places: dict[str, Path]) -> dict[str, LabelledImages]:
    classes = {split: _class_folders(place) for split, place in places.items()}
    names = {name for folders in classes.values() for name in folders}
    images = {
        split: [(name, image) for name in sorted(folders) for image in list_images(folders[name])]
        for split, folders in classes.items()
    }
    if len({name for found in images.values() for name, _ in found}) < 2:
        raise AnnotationError(f"{root}: {_what_else(root)}")
    categories = _categories(names, root)
    return {
        split: _assembled(
            [path for _, path in found],
            _labels([name for name, _ in found], categories),
            categories,
            str(places[split]),
            _outside_classes(places[split]),
        )
        for split, found in images.items()
    }


def _outside_classes(folder: Path) -> tuple[Problem, ...]:
    loose = sorted(e.name for e in folder.iterdir() if e.is_file() and e.name.lower().endswith(IMAGE_EXTENSIONS))
    if not loose:
        return ()
    what = f"{len(loose)} images lie beside the class folders, the first is {loose[0]}"
    return (Problem(str(folder), "", None, what, "move them into their class's folder", "warning", "no-class"),)


def _what_else(root: Path) -> str:
    """Why a folder is no classification set, and what to do if it holds boxes."""
    from detseg.data.formats.recognise import find_sources

    try:
        find_sources(root)
    except AnnotationError:
        return f"no labelled images of two or more classes recognised. Looked for:{LOOKED_FOR}"
    return (
        "holds images with boxes, not with one class each. Cut its objects out first: "
        f"detseg crops --data {root} --output crops"
    )


# ------------------------------------------------------------------ tables


def _tables(folder: Path) -> dict[str, Path]:
    """Split, or name of the file, -> table."""
    files = sorted(e for e in folder.iterdir() if e.suffix.lower() in TABLE_EXTENSIONS and not e.name.startswith("."))
    by_stem = {file.stem.lower(): file for file in files}
    found = {
        split: next((by_stem[name] for name in names if name in by_stem), None) for split, names in SPLIT_NAMES.items()
    }
    splits = {split: file for split, file in found.items() if file is not None}
    return splits if "train" in splits else {file.name: file for file in files}


def _from_tables(files: dict[str, Path], images: str | Path | None) -> dict[str, LabelledImages]:
    tables = {split: read_label_table(file) for split, file in files.items()}
    root = next(iter(files.values())).parent
    categories = _categories({label for table in tables.values() for label in table.labels}, root)
    found = {split: _from_table(files[split], table, categories, images) for split, table in tables.items()}
    if list(tables) == [""] and (marks := tables[""].splits) is not None:
        return {s: found[""].subset(np.array(marks) == s) for s in SPLITS if s in marks}
    return found


def _from_table(
    file: Path, table: LabelTable, categories: tuple[Category, ...], images: str | Path | None
) -> LabelledImages:
    beside = ("images", file.stem, "images", "train")
    folders = [Path(images)] if images is not None else [file.parent, *(file.parent / name for name in beside)]
    cache = FolderCache()
    names = [_with_extension(name, folders, cache) for name in table.names]
    return _assembled(locate_images(names, folders), _labels(table.labels, categories), categories, str(file))


def _with_extension(name: str, folders: Sequence[Path], cache: FolderCache) -> str:
    """The name as it is, or with the extension of an image that is there: some tables leave it out."""
    if name.lower().endswith(IMAGE_EXTENSIONS):
        return name
    above, _, bare = name.replace("\\", "/").rpartition("/")
    for folder in folders:
        there = cache.names(str(folder / above))
        for extension in IMAGE_EXTENSIONS:
            for written in (extension, extension.upper()):
                if f"{bare}{written}" in there:
                    return f"{name}{written}"
    return name


# ------------------------------------------------------------------ both


def _class_list(root: Path) -> tuple[Path, list[str]] | None:
    file = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if file is None:
        return None
    names = read_lines(file)
    if len(set(names)) < len(names):
        raise AnnotationError(f"{file}: a class is listed twice; write each name once, in the order of the classes")
    return file, names


def _categories(found: set[str], root: Path) -> tuple[Category, ...]:
    """The classes in the order of a class file; without one sorted, as numbers if all are numbers."""
    listed = _class_list(root)
    numbers = {number: word for word in sorted(found) if (number := _number(word)) is not None}
    all_numbers = all(_number(word) is not None for word in found)
    if listed is None and all_numbers:
        return tuple(Category(number, numbers[number]) for number in sorted(numbers))
    if listed is None:
        return tuple(Category(position, name) for position, name in enumerate(sorted(found)))
    file, names = listed
    categories = tuple(Category(position, name) for position, name in enumerate(names))
    unknown = sorted(found - set(names))
    if len(unknown) == len(found) and all_numbers and all(0 <= number < len(names) for number in numbers):
        return categories  # numbers that count the list from 0
    if unknown:
        shown = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise AnnotationError(f"{file}: does not list the classes {shown}; add them, or remove the file")
    return categories


def _labels(words: Sequence[str], categories: tuple[Category, ...]) -> list[int]:
    """The label of each word: a class's name, or its number."""
    by_name = {category.name: position for position, category in enumerate(categories)}
    by_id = {category.id: position for position, category in enumerate(categories)}
    return [by_name[word] if word in by_name else by_id[_number(word)] for word in words]  # type: ignore[index]


def _number(word: str) -> int | None:
    return int(word) if word.isascii() and word.removeprefix("-").isdigit() else None


def _assembled(
    paths: Sequence[str],
    labels: Sequence[int],
    categories: tuple[Category, ...],
    source: str,
    problems: tuple[Problem, ...] = (),
) -> LabelledImages:
    return LabelledImages(
        categories=categories,
        image_ids=np.arange(len(paths), dtype=np.int64),
        paths=np.array(paths, dtype=np.str_),
        sizes=measure_images(paths, np.zeros((len(paths), 2), np.int32)),
        labels=np.array(labels, dtype=np.int64),
        source=source,
        read_problems=problems,
    )
