"""Classification sets as folders: one folder of images for each class, maybe in train/, val/ and test/."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from detseg.console import text_of_bytes
from detseg.data.annotations import AnnotationError, Problem
from detseg.data.formats.assemble import label_classes, labelled_images
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.image_files import IMAGE_EXTENSIONS, left_out, scan_images
from detseg.data.formats.label_table import tables_of
from detseg.data.formats.locate import (
    PlaceImages,
    image_targets,
    place_images,
    unique_stems,
    write_names,
)
from detseg.files import make_folder, safe_name

if TYPE_CHECKING:
    from detseg.data.labels import LabelledImages

CLASS_FILE = "classes.txt"


def _find(path: Path, images: str | Path | None) -> Sources | None:
    if not path.is_dir():
        return None
    folders = {entry.name.lower(): entry for entry in path.iterdir() if entry.is_dir()}
    found = {split: [folders[name] for name in names if name in folders] for split, names in SPLITS.items()}
    divided = {split: places[0] for split, places in found.items() if places}
    # A table may lie beside train/ and test/ that hold nothing but images.
    tables = bool(tables_of(path))
    if "train" in divided and (_class_folders(divided["train"]) or not tables):
        return _sources(path, divided)
    several = len(_class_folders(path).keys() - {folder.name for folder in divided.values()}) > 1
    return _sources(path, {"": path}) if several or not tables else None


def _class_folders(root: Path) -> dict[str, Path]:
    """Class name -> folder; hidden ones and those that programs leave behind (__MACOSX) are none."""
    return {text_of_bytes(e.name): e for e in root.iterdir() if e.is_dir() and not e.name.startswith((".", "__"))}


def _sources(root: Path, places: dict[str, Path]) -> Sources | None:
    """The splits, all with the same classes; None where there are less than two classes with images."""
    classes = {split: _class_folders(place) for split, place in places.items()}
    scanned = {
        split: {name: scan_images(folders[name]) for name in sorted(folders)} for split, folders in classes.items()
    }
    images = {
        split: [(name, image) for name, (found, _) in folders.items() for image in found]
        for split, folders in scanned.items()
    }
    others = {split: [path for _, rest in folders.values() for path in rest] for split, folders in scanned.items()}
    if len({name for found in images.values() for name, _ in found}) < 2:
        return None
    categories = label_classes({name for folders in classes.values() for name in folders}, root)
    return {
        split: partial(
            labelled_images,
            [path for _, path in found],
            [name for name, _ in found],
            categories,
            str(places[split]),
            (*_outside_classes(places[split]), *_left_out(places[split], others[split])),
        )
        for split, found in images.items()
    }


def read_class_folders(root: Path) -> LabelledImages:
    """The images of a folder that holds one folder for each class, be it a single one.

    Raises:
        AnnotationError: it is no such folder, or holds no images.
    """
    folders = _class_folders(root) if root.is_dir() else {}
    scanned = {name: scan_images(folders[name]) for name in sorted(folders)}
    found = [(name, image) for name, (images, _) in scanned.items() for image in images]
    if not found:
        what = "holds no folders with images" if root.is_dir() else "is no folder"
        raise AnnotationError(f"{root}: {what}; give a folder with one folder of images for each class")
    others = [path for _, rest in scanned.values() for path in rest]
    return labelled_images(
        [path for _, path in found],
        [name for name, _ in found],
        label_classes(set(folders), root),
        str(root),
        (*_outside_classes(root), *_left_out(root, others)),
    )


def _outside_classes(folder: Path) -> tuple[Problem, ...]:
    loose = sorted(e.name for e in folder.iterdir() if e.is_file() and e.name.lower().endswith(IMAGE_EXTENSIONS))
    if not loose:
        return ()
    what = f"{len(loose)} images lie beside the class folders, the first is {loose[0]}"
    return (Problem(str(folder), "", None, what, "move them into their class's folder", "warning", "no-class"),)


def _left_out(folder: Path, files: list[str]) -> list[Problem]:
    return [Problem(str(folder), "", None, *told, "warning", "left-out-files") for told in left_out(files)]


def _write(labelled: LabelledImages, folder: Path, split: str, images: PlaceImages = "link") -> None:
    if images == "keep":
        raise ValueError(f"{folder}: class folders are made of the images; link or copy them")
    names = list(labelled.names)
    wrong = [name for name in names if not name.strip(" .") or safe_name(name) != name or name[0] in "._"]
    if wrong or len({name.lower() for name in names}) < len(names):
        raise AnnotationError(
            f"{folder}: not written, classes become folders, and these cannot: {', '.join(map(repr, wrong)) or names}; "
            "rename them, or write a table"
        )
    write_names(labelled, folder / CLASS_FILE)
    stems = unique_stems(labelled, set())
    targets = image_targets(labelled, stems, folder / split)
    targets = [t.parent / names[label] / t.name for t, label in zip(targets, labelled.labels.tolist(), strict=True)]
    place_images(labelled.paths.tolist(), targets, images)
    for name in names:  # a class without images here is one of the set's all the same
        make_folder(folder / split / name)


FORMAT = Format(
    name="class-folders",
    title="class folders",
    looks_for="train/, val/ (and test/) with a folder of images for each of two or more classes; or such folders alone",
    find=_find,
    write=_write,
    gives="labels",
    takes_images=False,
)
