"""The data.yaml of YOLO sets: where the images of each split are listed, and the names of the classes."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from reprlib import Repr
from typing import Any, NamedTuple

import numpy as np
import yaml

from detseg.data.annotations import AnnotationError
from detseg.data.formats.find_images import Finder
from detseg.data.formats.format import SPLITS
from detseg.data.formats.image_files import IMAGE_EXTENSIONS
from detseg.data.formats.locate import by_last_parts, first_file, read_text
from detseg.data.formats.same_name import is_absolute
from detseg.reading import reading

# That in C is ten times as fast, and refuses brackets nested by the thousand before they cost time.
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
MOST_CLASSES = 2**16
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring = 2, 80  # aliases make a value of gigabytes of a line
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


class YoloData(NamedTuple):
    """What a data.yaml says: where each split's images are listed, the class names in order, key points."""

    file: Path
    splits: dict[str, list[Path]]
    names: list[str]
    keypoint_numbers: int  # how many numbers of key points follow each box


def find_yaml(folder: Path) -> Path | None:
    """The data.yaml of a folder: by its usual name, else the only YAML file there that has `names` and finds images.

    Raises:
        AnnotationError: several do, and they say different things.
    """
    named = first_file([folder], YAML_NAMES)
    if named is not None and load_yaml(named).keys() & {"names", "nc", "train", "val", "test"}:
        return named
    others, usable = [], {}
    for file in sorted(folder.glob("*.y*ml")):
        with suppress(AnnotationError):  # some other program's
            if not file.name.startswith(".") and "names" in load_yaml(file):
                others.append(file)
                usable[file] = read_yaml(file)._replace(file=folder)
    if any(data != next(iter(usable.values())) for data in usable.values()):
        names = ", ".join(file.name for file in usable)
        raise AnnotationError(f"{folder}: several data sets could be meant ({names}); give the file itself")
    return next(iter(usable), others[0] if len(others) == 1 else None)


def read_yaml(file: Path) -> YoloData:
    """Read a data.yaml; AnnotationError: it is none, its names do not fit its `nc`, or its images are not found."""
    content = load_yaml(file)
    names = class_names(content, file)
    root = _text(content.get("path") or "", f"{file}: path")
    # `path` is relative to this file, or (ultralytics) to a folder of datasets elsewhere; a dataset that was
    # moved keeps its old `path`, so the file's own folder is the last resort.
    roots = [file.parent / root, Path(root), file.parent]
    splits = {}
    for split, spellings in SPLITS.items():
        entry = next((content[s] for s in spellings if content.get(s)), None)
        if entry is not None:
            places = entry if isinstance(entry, list) else [entry]
            what = f"{file}: {split}"
            try:
                with reading(what):  # names that are too long are an OSError
                    splits[split] = [_resolve(_text(place, what), roots, what) for place in places]
            except AnnotationError:
                if split != "test" or not splits:  # test images are often named there and not handed on
                    raise
    if not splits:
        raise AnnotationError(f'{file}: has neither "train" nor "val"; a YOLO data.yaml names their images')
    return YoloData(file, splits, names, _keypoint_numbers(content.get("kpt_shape"), file))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise AnnotationError(f"{what} must be a path as text, not {_SHORT.repr(value)}")
    if "\0" in value:
        raise AnnotationError(f"{what}: {value!r:.80} has a zero byte, which no path has")
    return value


def _keypoint_numbers(shape: Any, file: Path) -> int:
    """From how many key points there are, and how many numbers each of them has."""
    try:
        return int(np.prod([int(number) for number in shape])) if shape else 0
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{file}: kpt_shape must be two whole numbers, not {_SHORT.repr(shape)}") from error


def load_yaml(file: Path) -> dict[str, Any]:
    """The content, all its values as text: names like `no` and `007` would become False and 7."""
    text = read_text(file)
    try:
        content = yaml.load(text, LOADER)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:  # TypeError: a list as key
        raise AnnotationError(f"{file}: cannot be read as YAML: {error}") from error
    return content if isinstance(content, dict) else {}


def class_names(content: dict[str, Any], file: Path) -> list[str]:
    """The names of the classes in order; raises AnnotationError if there are none, or if they do not fit `nc`."""
    names, count = content.get("names"), content.get("nc", "")
    count = int(count) if isinstance(count, str) and count.isdecimal() and len(count) < 19 else None
    if count is not None and count > MOST_CLASSES:
        raise AnnotationError(f"{file}: nc is {count}, more than the {MOST_CLASSES} classes that there may be")
    if isinstance(names, dict):
        numbers = {int(key): name for key, name in names.items() if key.isdecimal() and len(key) < 19}
        if sorted(numbers) != list(range(len(names))):
            raise AnnotationError(
                f"{file}: the keys of names must be 0..{len(names) - 1}, found {', '.join(names):.200}"
            )
        names = [numbers[number] for number in range(len(names))]
    if not names and count is not None:
        names = [str(number) for number in range(count)]
    if not isinstance(names, list) or not names:
        raise AnnotationError(f'{file}: has no "names"; a YOLO data.yaml lists the class names there')
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise AnnotationError(f"{file}: class {number} has no name but {_SHORT.repr(name)}; write its name as text")
    if count is not None and count != len(names):
        raise AnnotationError(f"{file}: nc is {count}, but names lists {len(names)} classes")
    return names


def _resolve(place: str, roots: Sequence[Path], what: str) -> Path:
    place = place.replace("\\", "/")
    # Roboflow writes "../train/images" into a data.yaml that lies beside train/.
    forms = [place, place[3:]] if place.startswith("../") else [place]
    candidates = [root / form for form in forms for root in roots]
    found = next((path for path in candidates if path.exists()), None)
    if found is None and is_absolute(place):
        found = by_last_parts(place, roots)
    if found is None:
        hit = Finder([str(root) for root in roots]).find(place)
        found = Path(hit.path) if hit is not None and not hit.ignored and not hit.loose else None
    if found is None:
        raise AnnotationError(f"{what}: {place!r} not found; tried {', '.join(map(str, dict.fromkeys(candidates)))}")
    if not found.is_dir() and found.suffix.lower() not in (".txt", *IMAGE_EXTENSIONS):
        raise AnnotationError(f"{what}: {place!r} is no folder, no list of images (.txt), no image; correct it")
    return found
