"""Where the images of Pascal VOC XML files are."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from detseg.data.formats.format import SPLITS
from detseg.data.formats.layout import ANNOTATION_FOLDERS
from detseg.data.formats.locate import IMAGE_EXTENSIONS, WRITTEN_EXTENSIONS, FolderCache, Limit, locate_images
from detseg.data.formats.voc_xml import ImageNames

log = logging.getLogger(__name__)

XML_FOLDERS = ("annotations", "annotation", "annots", "ann", "xmls", "xml", "labels", "label")
OTHER_XML_FOLDERS = (*XML_FOLDERS, *ANNOTATION_FOLDERS, "pascal_voc", "voc")
IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "photos", "pictures", "jpgs", "jpg")
SPELLED = {spelling: split for split, spellings in SPLITS.items() for spelling in spellings} | {"trainval": "trainval"}


def find_voc_images(
    given: Mapping[Path, ImageNames], place: Path, images: str | Path | None, stems: set[str] | None
) -> list[str]:
    """The image of every XML file, of which `given` is what it says of it.

    `stems` are the names of all XML files of the set; images of no such name are counted. `images` is the folder that
    the user names.
    """
    cached = FolderCache()
    folders = cache(partial(_image_folders, place=place, images=images, cached=cached))
    found = {file: _image(file, names, folders(file.parent), cached) for file, names in given.items()}
    claims = Counter(found.values())
    missing: dict[Path, list[Path]] = {}
    for file, image in found.items():
        if image is None:
            missing.setdefault(file.parent, []).append(file)
        elif claims[image] > 1:
            found[file] = _own_image(file, Path(image), _below(file.parent, place))
    for folder, files in missing.items():  # perhaps their names are spelled otherwise
        names = [given[file].filename or f"{file.stem}.jpg" for file in files]
        found |= zip(files, locate_images(names, folders(folder)), strict=True)
    located = [str(image) for image in found.values()]
    if stems is not None:
        _tell_unused(located, stems, place, cached)
    return located


def _own_image(file: Path, image: Path, below: Path) -> str:
    """What to look for in the place of an image that several XML files take for theirs.

    Of cam1/a.xml, cam2/a.xml and one a.jpg for both nobody knows whose it is, and the image that a <filename> names
    belongs to the XML file of its own name, if there is one.
    """
    named = image.parent if image.parent.parts[-len(below.parts) :] == below.parts else image.parent / below
    renamed = image.stem != file.stem and file.with_name(f"{image.stem}.xml").exists()
    return str(named / (f"{file.stem}{image.suffix}" if renamed else image.name))


def _below(folder: Path, place: Path) -> Path:
    """The folders of a folder of XML files that its images may have too: cam2 of Annotations/cam2."""
    return Path(*(part for part in folder.relative_to(place).parts if part.lower() not in OTHER_XML_FOLDERS))


def _tell_unused(located: Sequence[str], stems: set[str], place: Path, cached: FolderCache) -> None:
    used = set(located)
    unused = [
        path
        for folder in sorted({os.path.dirname(path) for path in located})  # noqa: PTH120 - speed
        for name in sorted(cached.names(folder))
        if _is_image(name)
        if (path := os.path.join(folder, name)) not in used and Path(name).stem not in stems  # noqa: PTH118
    ]
    if unused:
        what = "%s: %d images have no XML file and are left out, the first is %s (images without objects need one too)"
        log.warning(what, place, len(unused), unused[0])


def _image_folders(folder: Path, place: Path, images: str | Path | None, cached: FolderCache) -> list[Path]:
    """Where the images of the XML files in `folder` may lie, likeliest first.

    Annotations/cam2/ has its images in JPEGImages/cam2/ or JPEGImages/; train/annotations/ in train/images/,
    images/train/, ... `place` is what the user named; if that is Annotations/ or train/, or a folder of XML files
    without images, the folder above counts too.
    """
    if images is not None:
        return Limit(dict.fromkeys((Path(images) / _below(folder, place), Path(images))))
    while place.name.lower() in (*OTHER_XML_FOLDERS, *SPELLED):
        place = place.parent
    if folder == place and not any(map(_is_image, cached.names(str(place)))) and not _tops(place):
        place = place.parent
    named: list[Path] = []
    plain: list[Path] = []
    for base in [folder, *folder.parents]:
        below = _below(folder, base)
        named += [path for top in _tops(base) for path in (top / below, top)]
        plain += [base / below, base]
        if base == place:
            break
    first = [] if folder.name.lower() in OTHER_XML_FOLDERS else [folder]
    return list(dict.fromkeys((*first, *named, *plain)))


def _tops(base: Path) -> list[Path]:
    """The folders of images in a folder, the usual names first."""
    children = {entry.name.lower(): entry for entry in subfolders(base)}
    return [children[name] for name in IMAGE_FOLDERS if name in children]


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, without hidden ones; none if it cannot be read."""
    with suppress(OSError), os.scandir(path) as entries:  # asks nothing of a hundred thousand files
        return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith((".", "__")))
    return []


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def _image(file: Path, written: ImageNames, folders: Iterable[Path], cached: FolderCache) -> str | None:
    """The image of an XML file, if there is one: the one of its name, or its <filename>.

    Its name counts for more where the two differ: files are renamed, and nobody corrects what is written in them.
    """
    stem = os.path.splitext(file.name)[0]  # noqa: PTH122 - speed
    given = written.filename.replace("\\", "/")
    bare = given.rpartition("/")[2]
    named = dict.fromkeys((given, bare, *(f"{bare}{e}" for e in WRITTEN_EXTENSIONS))) if bare else {}
    own = [f"{stem}{e}" for e in WRITTEN_EXTENSIONS]
    alike = stem in (bare, os.path.splitext(bare)[0])  # noqa: PTH122
    names = [*named, *own] if alike else [*own, *named]
    if written.folder:
        names += [f"{written.folder}/{name}" for name in names]
    for name in names:
        for folder in folders:
            path = f"{folder}{os.sep}{name}"
            if path in cached:
                return os.path.normpath(path)
    return written.path if written.path and Path(written.path).is_file() else None
