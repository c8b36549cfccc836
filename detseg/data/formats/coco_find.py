"""Where the COCO files of a data set lie: one a split, told by their names and by what is in them."""

import gzip
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from detseg.data.annotations import AnnotationError
from detseg.data.formats.format import SPLITS
from detseg.data.formats.layout import TRIED, one_of_each_split, split_of, subfolders
from detseg.json_text import GZIP
from detseg.reading import kind_of_special

ENDINGS = (".json", ".json.gz")
# Names of a split's file without ending, likeliest first; then any that has the split's name among its words.
FORMS = ("{}", "instances_{}", "instances_{}*", "annotations_{}", "{}*")
OTHER_TASKS = ("captions", "panoptic", "stuff", "image_info", "person_keypoints")  # of the same images
IN_SPLIT_FOLDERS = ("_annotations.coco", "annotations", "labels", "instances", "coco")


def find(path: Path) -> dict[str, Path]:
    """The COCO file of each split of a folder, "" for that of a file; empty if there is none."""
    if not path.is_dir():
        return {"": path} if is_json(path) and looks_like_coco(path) else {}
    named = {file: _stem(file).lower() for place in _places(path) for file in json_files(place)}
    splits = {split: file for split in SPLITS if (file := _file_of(path, named, split)) is not None}
    # A damaged train.json is told about when val.json shows what it is; beside other data it may be anything.
    return splits if any(looks_like_coco(file) for file in splits.values()) else {}


def guess(path: Path) -> dict[str, Path]:
    """Files without the marks of COCO: those named after splits, or the only one. The reader says what is wrong."""
    if not path.is_dir():
        return {"": path} if is_json(path) else {}
    files = [file for folder in _places(path) for file in json_files(folder)]
    named = {split: file for split in SPLITS for file in files if _stem(file).lower() in SPLITS[split]}
    return named or ({"": files[0]} if len(files) == 1 else {})


def split_word(file: Path) -> str:
    """The word of a file's name that tells its split, as "train2017" of instances_train2017.json; else all of it."""
    words = re.split(r"[\W_]+", _stem(file))
    return next((word for word in words if split_of(word) is not None), _stem(file))


def is_json(file: Path) -> bool:
    """Whether a file that is not hidden has one of the endings."""
    return _is_json(file.name)


def _is_json(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def json_files(folder: Path) -> list[Path]:
    """The JSON files in a folder; none if there is no such folder."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208 - it may hold 100 k images
    return [folder / name for name in names if _is_json(name)]


def looks_like_coco(file: Path, length: int = 65536) -> bool:
    """Whether one of COCO's lists is named near the file's beginning or end."""
    if kind_of_special(file):
        return False
    try:
        with file.open("rb") as opened:
            text = opened.read(length)
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - length))
            text += opened.read()
        if text.startswith(GZIP):
            with gzip.open(file) as unpacked:
                text = unpacked.read(length)
    except (OSError, EOFError, zlib.error):  # the reader says what is wrong with it
        return False
    text = text.replace(b"\0", b"")  # UTF-16
    # Label Studio and CreateML have "annotations" too, Datumaro has "categories", an object.
    return bool(re.search(rb'"(images|categories)"\s*:\s*\[', text)) or (
        b'"annotations"' in text and b'"image_id"' in text
    )


def _stem(file: Path) -> str:
    name = file.name
    return name[: len(name) - max((len(end) for end in ENDINGS if name.lower().endswith(end)), default=0)]


def _places(folder: Path) -> list[Path]:
    return [folder, folder / "annotations"]


def _file_of(folder: Path, named: Mapping[Path, str], split: str) -> Path | None:
    """The file of a split: by its name, of those in the folder or in annotations/; else in a folder of the split."""
    for form in FORMS:
        patterns = [form.format(spelling) for spelling in SPLITS[split]]
        for pattern in patterns:
            for place in _places(folder):
                files = [file for file, stem in named.items() if file.parent == place and fnmatchcase(stem, pattern)]
                # Content counts where the name is unsure.
                files = [file for file in files if "*" not in pattern or looks_like_coco(file)]
                if files:
                    return _only(files)
    words = [file for file, stem in named.items() if split_of(stem) == split and looks_like_coco(file)]
    own = [file for file in words if not named[file].startswith(OTHER_TASKS)]
    # Of panoptic files the reader says what to give in their place.
    own = own or [file for file in words if named[file].startswith("person_keypoints")]
    own = own or [file for file in words if named[file].startswith("panoptic")]
    return _only(own) if own else _in_folder(folder, split)


def _only(files: Sequence[Path]) -> Path:
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise AnnotationError(f"{files[0].parent}: several files could be meant ({names}); give the file itself")
    return files[0]


def _in_folder(folder: Path, split: str) -> Path | None:
    """The file of a folder that is named after the split, such as train/_annotations.coco.json."""
    held = {below: _held(below) for below in subfolders(folder) if split_of(below.name) == split}
    return one_of_each_split({below: file for below, file in held.items() if file is not None}).get(split)


def _held(folder: Path) -> Path | None:
    """The COCO file in a folder, or in annotations/ in it."""
    for place in _places(folder):
        files = json_files(place)
        for name in IN_SPLIT_FOLDERS:
            for file in files:
                if _stem(file).lower() == name and (name.endswith(".coco") or looks_like_coco(file)):
                    return file
        # LabelMe has a JSON file for each image: a hundred thousand need not be opened.
        found = [file for file in files if looks_like_coco(file)] if len(files) <= TRIED else []
        if found:
            return _only(found)
    return None
