"""Which mask belongs to which image: by name, also where one of the two names is longer in a usual way."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from detseg.data.formats.locate import IMAGE_EXTENSIONS
from detseg.data.formats.same_name import folded

MASK_EXTENSIONS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg", ".webp")  # likeliest first
CITYSCAPES = "_gtFine_labelIds"
NO_MASKS = ("_gtFine_color.png", "_gtFine_instanceIds.png")  # what Cityscapes has beside its masks
_WORDS = r"masks?|seg(?:mentation)?s?|labels?|gt|ground_?truth|ann(?:otation)?s?|matte|target"
_IMAGE_WORDS = r"images?|imgs?|sat|rgb|leftImg8bit|photo"
_SUFFIX = re.compile(rf"(?P<name>.+?)(?P<affix>_gtFine_labelIds|[_\-. ](?:{_WORDS})|_L)", re.IGNORECASE)
_PREFIX = re.compile(rf"(?P<affix>(?:{_WORDS})[_\-. ])(?P<name>.+)", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(rf"(?P<name>.+?)[_\-. ](?:{_IMAGE_WORDS})", re.IGNORECASE)
_IMAGE_PREFIX = re.compile(rf"(?:{_IMAGE_WORDS})[_\-. ](?P<name>.+)", re.IGNORECASE)

Pairs = list[tuple[str, str]]  # (image, its mask)
FORMS = "its image's name, or that with _mask, _seg, _label(s), _gt or mask_ added, or with the image's ending within"


def mask_files(folder: Path) -> list[str]:
    """All files in a folder and those below it that may be masks, PNG first: beside them may lie coloured JPEG copies.

    Hidden ones are passed over.
    """
    found: dict[str, list[str]] = {extension: [] for extension in MASK_EXTENSIONS}
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        for name in names:
            point = name.rfind(".")
            if point > 0 and name[0] != "." and not name.endswith(NO_MASKS) and (kind := name[point:].lower()) in found:
                found[kind].append(f"{where}{os.sep}{name}")
    return [path for paths in found.values() for path in sorted(paths)]


class MaskNames:
    """The masks of a folder, asked by image."""

    def __init__(self, folder: Path, files: Iterable[str] | None = None) -> None:
        self.folder = folder
        self.files = mask_files(folder) if files is None else list(files)
        self._exact: dict[str, str] = {}
        for path in self.files:
            self._exact.setdefault(stem_in(path, folder), path)

    @cached_property
    def _longer(self) -> tuple[str, dict[str, str]]:
        """What most masks have added to the names of their images, and the mask of each such name.

        Of x_mask.png and x_seg.png, the form that most masks have.
        """
        keyed = [(affix, name, path) for stem, path in self._exact.items() for affix, name in _shorter(stem)]
        counts = Counter(affix for affix, _, _ in keyed)
        found: dict[str, str] = {}
        for _, name, path in sorted(keyed, key=lambda item: -counts[item[0]]):
            found.setdefault(name, path)
        affix, count = counts.most_common(1)[0] if counts else ("", 0)
        return (affix if 2 * count > len(self._exact) else "", found)

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        """The masks by names without differences of spelling."""
        found: dict[str, list[str]] = {}
        for stem, path in self._exact.items():
            for name in {folded(stem), *(folded(shorter) for _, shorter in _shorter(stem))}:
                found.setdefault(name, []).append(path)
        return found

    @property
    def affix(self) -> str:
        """What most masks have added to the names of their images; "" if none has."""
        return self._longer[0]

    def of(self, path: str, images: Path) -> str | None:
        """The mask of an image in the folder `images`; None if there is none."""
        stem = stem_in(path, images)
        if stem in self._exact and self._exact[stem] != path:
            return self._exact[stem]
        for name in (stem, *_image_names(stem)):
            found = self._longer[1].get(name)
            if found is not None and found != path:
                return found
        found = next((self._exact[name] for name in _image_names(stem) if name in self._exact), None)
        if found is None:
            alike = self._folded.get(folded(stem), [])
            found = alike[0] if len(alike) == 1 else None  # of several it cannot be told which is meant
        return None if found == path else found

    def expected(self, path: str, images: Path) -> str:
        """Where the mask of an image that has none should be."""
        name = stem_in(path, images)
        folder, _, bare = name.rpartition("/")
        affix = self.affix
        bare = f"{affix}{bare}" if affix and affix[-1] in "_-. " else f"{bare}{affix}"
        return str(self.folder / folder / f"{bare}.png")


def pair(paths: Sequence[str], images: Path, masks: MaskNames) -> Pairs:
    """Each image with its mask; where there is none, with the path it should have."""
    return [(path, masks.of(path, images) or masks.expected(path, images)) for path in paths]


def stem_in(path: str, folder: Path) -> str:
    """The name of a file within a folder, without its extension."""
    start = f"{folder}{os.sep}"
    inside = path[len(start) :] if path.startswith(start) else os.path.relpath(path, folder)
    return os.path.splitext(inside)[0].replace(os.sep, "/")  # noqa: PTH122


def is_named_as_mask(path: str) -> bool:
    """Whether a file's name says by itself that it is a mask."""
    return bool(_longer(os.path.splitext(os.path.basename(path))[0]))  # noqa: PTH119, PTH122


def _shorter(stem: str) -> list[tuple[str, str]]:
    """(what is added, name of the image) for a mask's name: without a suffix or prefix, without an image's ending."""
    folder, slash, bare = stem.rpartition("/")
    found = _longer(bare)
    if bare.lower().endswith(IMAGE_EXTENSIONS):  # x.jpg.png
        name, ending = os.path.splitext(bare)  # noqa: PTH122
        found.append((ending, name))
    return [(affix, f"{folder}{slash}{name}") for affix, name in found]


def _longer(bare: str) -> list[tuple[str, str]]:
    matches = [form.fullmatch(bare) for form in (_SUFFIX, _PREFIX)]
    found = [(match["affix"], match["name"]) for match in matches if match]
    # x.jpg_mask is the mask of x.jpg.
    more = [(affix, os.path.splitext(name)[0]) for affix, name in found if name.lower().endswith(IMAGE_EXTENSIONS)]  # noqa: PTH122
    return found + more


def _image_names(stem: str) -> list[str]:
    """An image's name without what says that it is one."""
    folder, slash, bare = stem.rpartition("/")
    matches = [form.fullmatch(bare) for form in (_IMAGE_SUFFIX, _IMAGE_PREFIX)]
    return [f"{folder}{slash}{match['name']}" for match in matches if match]
