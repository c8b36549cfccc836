"""Classification sets as folders: one folder of images for each class, maybe in train/, val/ and test/."""

from functools import partial
from pathlib import Path

from detseg.data.annotations import Problem
from detseg.data.formats.assemble import label_classes, labelled_images
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.image_files import IMAGE_EXTENSIONS, left_out, scan_images
from detseg.data.formats.label_table import tables_of


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
    return {e.name: e for e in root.iterdir() if e.is_dir() and not e.name.startswith((".", "__"))}


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


def _outside_classes(folder: Path) -> tuple[Problem, ...]:
    loose = sorted(e.name for e in folder.iterdir() if e.is_file() and e.name.lower().endswith(IMAGE_EXTENSIONS))
    if not loose:
        return ()
    what = f"{len(loose)} images lie beside the class folders, the first is {loose[0]}"
    return (Problem(str(folder), "", None, what, "move them into their class's folder", "warning", "no-class"),)


def _left_out(folder: Path, files: list[str]) -> list[Problem]:
    return [Problem(str(folder), "", None, *told, "warning", "left-out-files") for told in left_out(files)]


FORMAT = Format(
    name="class-folders",
    title="class folders",
    looks_for="train/, val/ (and test/) with a folder of images for each of two or more classes; or such folders alone",
    find=_find,
    gives="labels",
    takes_images=False,
)
