"""Where the label files of YOLO images lie, and which of them fit no image.

By rule `images` in an image's path is replaced by `labels`. Tools and people put them elsewhere too: beside the images,
beside any folder of images, all into one folder; and name them by other spellings, or with digits of an upload before.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from detseg.data.annotations import AnnotationError, Problem
from detseg.data.formats.find_images import FolderCache, join
from detseg.data.formats.image_files import IMAGE_EXTENSIONS, list_images
from detseg.data.formats.layout import TRIED, beginning, split_of
from detseg.data.formats.same_name import LOOSE, NameIndex, stem
from detseg.reading import content_of

IMAGE_FOLDERS = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures")
LABEL_FOLDERS = ("labels", "label", "annotations", "yolo", "txt")
SPEAKS_OF_LABELS = re.compile(r"label|annot|yolo|txt$")


class Labels(NamedTuple):
    """The label file of each image, with the path it should have where there is none; and what to tell of them."""

    files: list[str]
    there: list[bool]
    problems: list[Problem]


def find_labels(images: Sequence[str], source: Path) -> Labels:
    """Find the label files of images of a set; label files of images that are not asked for fit as well."""
    cache = FolderCache()
    rows: dict[str, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(os.path.dirname(image), []).append(row)  # noqa: PTH120 - speed
    files, there = [""] * len(images), [False] * len(images)
    looked_in: dict[str, None] = {}
    for folder, members in rows.items():
        holding = [place for place in label_places(folder, cache) if any(map(is_text, cache.names(place)))]
        places = list({os.path.realpath(place): place for place in reversed(holding)}.values())[::-1]
        looked_in |= dict.fromkeys(places)
        expected = _parallel(folder) or folder
        stems = {row: os.path.splitext(os.path.basename(images[row]))[0] for row in members}  # noqa: PTH119, PTH122
        for row, name in stems.items():
            place = next((place for place in places if f"{name}.txt" in cache.names(place)), None)
            files[row], there[row] = join(place or expected, f"{name}.txt"), place is not None
        left = {row: os.path.basename(images[row]) for row in members if not there[row]}  # noqa: PTH119
        for place in places if left else ():
            for row, name in _in_other_spelling(left, place, cache, set(files)).items():
                files[row], there[row] = join(place, name), True
                del left[row]
        for row in _of_several([row for row in members if there[row]], images, files, folder):
            files[row], there[row] = join(expected, f"{stems[row]}.txt"), False
    return Labels(files, there, _problems(images, files, there, list(looked_in), list(rows), source, cache))


def _of_several(rows: Sequence[int], images: Sequence[str], files: Sequence[str], folder: str) -> list[int]:
    """Those of some images whose label file lies in one folder for several of images, and may be another image's."""
    flat = [row for row in rows if files[row].count(os.sep) <= folder.count(os.sep)]
    counts: Counter[str] = Counter()
    for place in {os.path.dirname(files[row]) for row in flat}:  # noqa: PTH120
        top = Path(*Path(folder).parts[: len(Path(place).parts)])  # the folder of all images beside that of labels
        counts.update(stem(os.path.basename(path)) for path in list_images(top))  # noqa: PTH119
    return [row for row in flat if counts[stem(os.path.basename(images[row]))] > 1]  # noqa: PTH119


def is_text(name: str) -> bool:
    """Whether a file may be one of labels by its name."""
    return name.lower().endswith(".txt") and not name.startswith(".")


def looks_like_labels(file: Path) -> bool:
    """Whether a text file begins with a line of a class and four or more numbers."""
    first = next((line for line in beginning(file, 4096).splitlines() if line.strip()), b"").split()
    return len(first) > 4 and all(_is_number(word) for word in first[:5])


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def has_labels(images: Path, inside: bool = False) -> bool:
    """Whether there is a label file where those of a folder of images may lie, or `inside` that folder."""
    cache, folder = FolderCache(), str(images)
    for place in label_places(folder, cache, far=False):
        if place == folder:
            names = cache.names(folder)
            labelled = {name[:-4] for name in names if is_text(name)}
            stems = (os.path.splitext(name)[0] for name in names if name.lower().endswith(IMAGE_EXTENSIONS))  # noqa: PTH122
            if labelled and not labelled.isdisjoint(stems):
                return True
        elif place.startswith(folder + os.sep) or not inside:
            texts = (Path(where, min(filter(is_text, cache.names(where)))) for where in _text_folders(Path(place)))
            if any(looks_like_labels(file) for file in islice(texts, TRIED)):
                return True
    return False


def is_image_list(file: Path) -> bool:
    """Whether a text file begins with the name of an image."""
    first = next((line.strip() for line in beginning(file, 4096).lower().splitlines() if line.strip()), b"")
    return first.endswith(tuple(extension.encode() for extension in IMAGE_EXTENSIONS))


def read_list(file: Path) -> str:
    """The text of a list of images, in UTF-8, or as Windows writes it: UTF-16, Korean or Western letters."""
    try:
        data = content_of(file)
    except OSError as error:
        raise AnnotationError(f"{file}: cannot be read as text: {error.strerror}") from error
    for encoding in ("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig", "cp949"):
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            break
    else:
        text = data.decode("latin-1")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise AnnotationError(f"{file}: line {line}: holds a zero byte, so it is no text; save it as UTF-8")
    return text


def label_places(folder: str, cache: FolderCache, far: bool = True) -> Iterator[str]:
    """Where the labels of the images in a folder may lie, likeliest first; not all of these folders exist.

    `far`: also where the way there leads out of a folder that has not the name of a split or of images. That may be the
    set itself, with other sets beside it.
    """
    parallel = _parallel(folder)
    found = dict.fromkeys(filter(None, [parallel, *_called_alike(folder, cache), folder]))
    above, below = os.path.abspath(folder) if len(Path(folder).parts) < 3 else folder, ""  # noqa: PTH100 - keeps links
    inside = True  # a part of the set by its name, so that labels for all of it may lie beside
    for level in range(3):
        for place in _named(above, cache) if inside else ():
            found |= dict.fromkeys([join(place, below) if below else place, place])  # the last has the labels of all
        above, name = os.path.split(above)
        if not name:
            break
        inside = inside and (split_of(name) is not None or name.lower() in IMAGE_FOLDERS or level == 0)
        for place in _named(above, cache, odd=inside) if inside or far else ():
            if os.path.basename(place) != name:  # noqa: PTH119
                found[join(place, below) if below else place] = None
        below = f"{name}/{below}" if below else name
    yield from found


def _named(folder: str, cache: FolderCache, odd: bool = True) -> list[str]:
    """The folders of labels in a folder; if `odd`, without a usual name, the only one whose name speaks of labels."""
    names = [name for name in sorted(cache.names(folder)) if SPEAKS_OF_LABELS.search(name.lower())]
    usual = [name for name in names if name.lower() in LABEL_FOLDERS]
    folders = [path for name in usual or (names if odd else []) if cache.names(path := join(folder, name))]
    return folders if usual or len(folders) == 1 else []


def _parallel(folder: str) -> str:
    before, images, after = f"{os.sep}{folder}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
    return f"{before}{os.sep}labels{os.sep}{after}"[1:].rstrip(os.sep) if images else ""


def _called_alike(folder: str, cache: FolderCache) -> list[str]:
    """The folders of labels beside a folder whose names are like its own: train_labels beside train_images."""
    above, name = os.path.split(folder)
    parts = re.split(r"images?|imgs?", name.lower())
    if len(parts) != 2 or parts == ["", ""]:
        return []
    there = {other.lower(): other for other in cache.names(above)}
    return [join(above, there[alike]) for word in LABEL_FOLDERS if (alike := word.join(parts)) in there]


def _in_other_spelling(images: dict[int, str], place: str, cache: FolderCache, taken: set[str]) -> dict[int, str]:
    """Label files in a folder that only one image each can mean, and that no other has by its own name."""
    names = {name[:-4]: name for name in cache.names(place) if is_text(name) and join(place, name) not in taken}
    index = NameIndex(names)
    meant: dict[str, list[int]] = {}
    for row, image in images.items():
        there = index.find(image, LOOSE)
        if len(there) == 1:
            meant.setdefault(there[0], []).append(row)
    return {rows[0]: names[label] for label, rows in meant.items() if len(rows) == 1}


# ------------------------------------------------------------------ what to tell


def _problems(
    images: Sequence[str],
    files: Sequence[str],
    there: Sequence[bool],
    places: Sequence[str],
    folders: Sequence[str],
    source: Path,
    cache: FolderCache,
) -> list[Problem]:
    root = source if source.is_dir() else source.parent
    without = [row for row, image in enumerate(images) if not there[row] and image in cache]
    used = {file for file, found in zip(files, there, strict=True) if found}
    known = {os.path.realpath(place) for place in places}
    search = [] if used or not without else [place for place in _text_folders(root) if place not in known]
    orphans = _orphans([*places, *search], folders, root, used, cache)
    told = []
    if without and not used:
        looked = ", ".join(_tried(images[0]))
        what = f"no label file for any of {len(images)} images; looked for {looked}"
        if orphans:
            lies = os.path.dirname(orphans[0])  # noqa: PTH120
            what += f"; there are {len(orphans)} label files that fit none, the first is {orphans[0]}"
            remedy = f"name the files in {lies} like the images, and put them where they are looked for"
            return [Problem(str(source), "", None, what, remedy, "error", "no-label-files")]
        remedy = "put them there"
        if any(
            name.lower().endswith(".png") for place in label_places(folders[0], cache) for name in cache.names(place)
        ):
            remedy += "; if the PNG files there are masks, train a segmenter with --masks and their folder"
        return [Problem(str(source), "", None, what, remedy, "warning", "images-without-labels")]
    others = [path for row in without if (path := _other_file(images[row], cache))]
    if others:
        what = f"{len(others)} images have no label file but a file of another form, the first is {others[0]}"
        remedy = "bring all to one form: detseg convert"
        told.append(Problem(str(source), "", None, what, remedy, "error", "other-annotations"))
    elif without:
        first = without[0]
        verb = "has no label file and counts" if len(without) == 1 else "have no label file and count"
        what = f"{len(without)} of {len(images)} images {verb} as without objects, the first is {images[first]}"
        remedy = f"if it has objects, write {files[first]}"
        told.append(Problem(str(source), "", None, what, remedy, "warning", "images-without-labels"))
    counts = Counter(file for file, found in zip(files, there, strict=True) if found)
    for file in sorted(file for file, count in counts.items() if count > 1):
        names = " and ".join(sorted(image for image, own in zip(images, files, strict=True) if own == file))
        what = f"{file} is the label file of several images: {names}"
        remedy = "remove those that it is not meant for, or give each its own name and labels"
        told.append(Problem(str(source), "", None, what, remedy, "error", "label-file-of-several"))
    if orphans:
        noun = "label file belongs" if len(orphans) == 1 else "label files belong"
        what = f"{len(orphans)} {noun} to no image, the first is {orphans[0]}"
        told.append(
            Problem(
                str(source), "", None, what, "add the images, or name both alike", "warning", "labels-without-images"
            )
        )
    return told


def _other_file(image: str, cache: FolderCache) -> str:
    """The file that LabelImg or LabelMe wrote for an image, in another form than YOLO's; "" if there is none."""
    name = os.path.splitext(image)[0]  # noqa: PTH122
    return next((f"{name}{ending}" for ending in (".xml", ".json") if f"{name}{ending}" in cache), "")


def _tried(image: str) -> Iterator[str]:
    """The usual places of an image's label file."""
    folder, name = os.path.split(image)
    name = f"{os.path.splitext(name)[0]}.txt"  # noqa: PTH122
    above, last = os.path.split(folder)
    parallel = _parallel(folder)
    for place in [parallel] if parallel else [join(above, "labels"), join(os.path.dirname(above), f"labels/{last}")]:  # noqa: PTH120
        yield join(place, name)
    yield join(folder, name)


def _text_folders(root: Path) -> Iterator[str]:
    """The folders below a folder that have text files."""
    for where, folders, names in os.walk(os.path.realpath(root)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(map(is_text, names)):
            yield where


def _orphans(
    places: Sequence[str], folders: Sequence[str], root: Path, used: set[str], cache: FolderCache
) -> list[str]:
    """Label files that fit no image of the set, of any split, sorted."""
    left = [join(place, name) for place in places for name in cache.names(place) if is_text(name)]
    left = [path for path in left if path not in used]
    left = _without(left, [name for folder in folders for name in cache.names(folder)]) if left else []
    left = _without(left, [os.path.basename(path) for path in list_images(root)]) if left else []  # noqa: PTH119
    return sorted(path for path in left if looks_like_labels(Path(path)))


def _without(labels: Sequence[str], names: Sequence[str]) -> list[str]:
    """The label files that mean none of the images among these names."""
    index = NameIndex(name for name in names if name.lower().endswith(IMAGE_EXTENSIONS))
    return [path for path in labels if not index.find(os.path.basename(path)[:-4], LOOSE)]  # noqa: PTH119
