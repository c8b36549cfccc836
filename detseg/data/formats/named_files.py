"""Classification sets whose file names begin with the class: dog.123.jpg, Abyssinian_7.jpg, rose (12).png."""

import logging
import re
from collections import Counter
from functools import partial
from pathlib import Path

from detseg.console import text_of_bytes
from detseg.data.formats.assemble import label_classes, labelled_images
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.locate import list_images

log = logging.getLogger(__name__)

_NAMED = re.compile(r"(.*[^\W\d].*?)[\s._-]*\(?\d+\)?")
ANNOTATIONS = (".json", ".xml", ".yaml", ".yml")  # of another form: there names are just names
SPLIT_NAMES = {name for names in SPLITS.values() for name in names}
LEAST = 2  # images of each class, or names are just names


def _guess(path: Path, images: str | Path | None) -> Sources | None:
    if not path.is_dir():
        return None
    folders = {entry.name.lower(): entry for entry in path.iterdir() if entry.is_dir()}
    found = {split: [folders[name] for name in names if name in folders] for split, names in SPLITS.items()}
    places = {split: there[0] for split, there in found.items() if there} or {"": path}
    if any(file.suffix.lower() in ANNOTATIONS for folder in (path, *places.values()) for file in folder.iterdir()):
        return None
    listed = {s: [name for name in list_images(place) if Path(name).parent == place] for s, place in places.items()}
    words = {split: [_class_of(text_of_bytes(Path(name).stem)) for name in names] for split, names in listed.items()}
    every = [word for split in words.values() for word in split]
    counts = Counter(every)
    if (
        len(counts) < 2
        or None in counts
        or min(counts.values()) < LEAST
        or SPLIT_NAMES & {str(w).lower() for w in counts}
    ):
        return None
    known = [word for word in every if word is not None]
    shown = ", ".join(f"{name} ({count})" for name, count in Counter(known).most_common(10))
    log.warning("%s: the classes are taken from the names of the files: %s", path, shown)
    categories = label_classes(set(known), path)
    return {
        split: partial(labelled_images, listed[split], [w for w in words[split] if w], categories, str(place))
        for split, place in places.items()
    }


def _class_of(stem: str) -> str | None:
    """What stands before the number at the end of a name; None where there is no number, or nothing before it."""
    match = _NAMED.fullmatch(stem)
    return match[1].rstrip(" ._-") if match else None


FORMAT = Format(
    name="named-files",
    title="named files",
    looks_for="images named after their class and a number, such as dog.123.jpg, here or in train/, val/ and test/",
    find=lambda path, images: None,
    guess=_guess,
    gives="labels",
    takes_images=False,
)
