"""Pascal VOC: finding, reading and writing folders of XML files, of which each has its image.

`detseg.data.formats.voc_xml` reads a file.
"""

import html
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.console import one_line
from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.layout import beginning, split_of
from detseg.data.formats.locate import (
    IMAGE_EXTENSIONS,
    PlaceImages,
    first_file,
    image_targets,
    place_images,
    read_lines,
    read_names,
    unique_stems,
    write_names,
)
from detseg.data.formats.records import Record, record_sources
from detseg.data.formats.voc_images import OTHER_XML_FOLDERS, SPELLED, XML_FOLDERS, find_voc_images, subfolders
from detseg.data.formats.voc_masks import VocMasks, has_masks
from detseg.data.formats.voc_xml import ImageNames, VocFile, parse_voc
from detseg.files import write_atomically

log = logging.getLogger(__name__)

CLASS_FILES = ("labels.txt", "classes.txt", "label_list.txt", "predefined_classes.txt")
TRIED = 100  # XML files that are looked into before a folder is not of this form

# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None, weak: bool = False) -> Sources | None:
    path = path if path.name else path.absolute()  # of "." the folder above is asked for
    place = path.parent.parent if path.parent.name == "Main" or has_masks(path.parent) else path.parent
    if path.suffix.lower() == ".txt" and place.name == "ImageSets" and path.is_file():
        root = place.parent
        lists = voc_splits(root) | {path.stem: path}
        return {"": _sources(root, _listed(lists, _every_file(root)), images, listed=True)[path.stem]}
    found = _xml_files(path, weak)
    if found and (lists := voc_splits(path) or (_lists_beside(path, found[""]) if list(found) == [""] else {})):
        chosen = _listed(lists, list(chain.from_iterable(found.values())))
        return _sources(path, chosen, images, listed=True)
    return _sources(path, found, images) if found else None


def _xml_files(path: Path, weak: bool) -> dict[str, list[Path]]:
    """The XML files of each split at a path, those of none as "" beside them; empty if none is VOC.

    They lie in a folder with a usual name (with all folders below it), in folders named after splits, and, where weak
    signs will do, beside the images or in the only folder with such files.
    """
    if path.is_file():
        return {"": [path]} if path.suffix.lower() == ".xml" and _is_voc(path) else {}
    below = subfolders(path)
    top, files = _in_named_folder(path, below, weak)
    if files:
        return _by_folder(top, files)
    found: dict[str, list[Path]] = {}
    for folder in below:
        if split := split_of(folder.name):
            inside = _in_named_folder(folder, subfolders(folder), weak)[1] or (_voc_files(folder) if weak else [])
            found[split] = found.get(split, []) + inside
    found = {split: files for split, files in found.items() if files}
    own = _voc_files(path) if weak else []
    if own and not {"train", "val"} & set(found):
        return {"": own}
    if found:
        return found | ({"": own} if own else {})
    only = [files for folder in below if (files := _voc_files(folder))] if weak else []
    return {"": only[0]} if len(only) == 1 else {}


def _in_named_folder(path: Path, below: Sequence[Path], weak: bool) -> tuple[Path, list[Path]]:
    """The XML files of a folder if it, or else one in it, has a usual name for them."""
    for name in OTHER_XML_FOLDERS if weak else XML_FOLDERS:
        for folder in (path, *below):
            if folder.name.lower() == name and (files := _voc_files(folder, deep=True, alone=not weak)):
                return folder, files
    return path, []


def _voc_files(folder: Path, deep: bool = False, alone: bool = False) -> list[Path]:
    """The XML files in a folder, without hidden ones (macOS packs one beside each file), if one is VOC.

    `alone`: none where .txt files are with them in a folder of labels, which may be meant for YOLO.
    """
    alone = alone and folder.name.lower().startswith("label")
    files = []
    for where, below, names in os.walk(folder):
        below[:] = [name for name in sorted(below) if deep and not name.startswith((".", "__"))]
        if alone and any(name.endswith(".txt") and name not in CLASS_FILES for name in names):
            return []
        place = Path(where)
        files += [place / name for name in sorted(names) if name[-4:].lower() == ".xml" and not name.startswith(".")]
    return files if any(map(_is_voc, files[:TRIED])) else []


def _is_voc(file: Path) -> bool:
    """Whether the outermost element is <annotation>: that of CVAT is <annotations>."""
    head = re.sub(rb"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>]*>", b"", beginning(file, 4096), flags=re.DOTALL)
    return re.match(rb"[^<]*<annotation[\s/>]", head) is not None


def _by_folder(top: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files grouped by the split that a folder on the way from `top` to them is named after."""
    split = cache(lambda place: next(filter(None, map(split_of, place.relative_to(top).parts)), ""))
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split(file.parent), []).append(file)
    return found if "train" in found or "val" in found else {"": list(files)}


def voc_splits(folder: Path) -> dict[str, Path]:
    """The splits ("train", "val", ...) of a VOC folder with their lists in ImageSets/Main, without those per class."""
    for place in (folder / "ImageSets" / "Main", folder / "ImageSets"):
        lists = {SPELLED.get(file.stem.lower(), ""): file for file in sorted(place.glob("*.txt"))}  # or Train.txt
        if lists := {split: lists[split] for split in sorted(lists) if split}:
            return lists
    return {}


def _lists_beside(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """train.txt and val.txt in the folder itself, as PaddleDetection has them, if they begin with one of its images."""
    by_name = {file.stem: file for file in files}
    lists = {}
    for file in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
        lines = read_lines(file) if file.stem.lower() in SPELLED else []
        if lines and _named(lines[0].split()[0], by_name):
            lists[SPELLED[file.stem.lower()]] = file
    return lists if "train" in lists or "val" in lists else {}


def _listed(lists: Mapping[str, Path], files: Sequence[Path]) -> dict[str, list[Path]]:
    """The XML files of each list. A line holds a name, or a name and 1, 0 or -1 in lists made per class."""
    by_name = {file.stem: file for file in reversed(files)}
    by_name |= {f"{file.parent.name}/{file.stem}": file for file in files}
    chosen: dict[str, list[Path]] = {}
    for split, file in lists.items():
        lines = read_lines(file)
        found = [_named(line, by_name) or _named(line.split()[0], by_name) for line in lines]
        absent = [line for line, xml in zip(lines, found, strict=True) if xml is None]
        if absent:
            raise AnnotationError(
                f"{file}: {len(absent)} listed images have no XML file, the first is {absent[0]!r}. Remove these "
                "lines, or add the files (images without objects have one without <object>)"
            )
        chosen[split] = [xml for xml in found if xml is not None]
    return chosen


def _named(line: str, by_name: Mapping[str, Path]) -> Path | None:
    stem, extension = os.path.splitext(line)  # noqa: PTH122 - a line, not a path
    name = stem if extension.lower() in (*IMAGE_EXTENSIONS, ".xml") else line
    return by_name.get(name) or by_name.get("/".join(name.split("/")[-2:])) or by_name.get(name.split("/")[-1])


# ------------------------------------------------------------------ reading


def read_voc(path: str | Path, split: str | None = None, images: str | Path | None = None) -> Annotations:
    """Read Pascal VOC annotations; AnnotationError, for what is none, names the file and the line.

    The categories are those of labels.txt or classes.txt (one name per line) where the folder has such a
    file, otherwise all names that occur in any split, in alphabetical order. Ids are 1..K.

    Args:
        path: a VOC folder (Annotations/ with its subfolders, JPEGImages/, ImageSets/Main/), a folder of XML files,
            or one file.
        split: read the images that ImageSets/Main/<split>.txt lists; None reads every XML file.
        images: the folder of the images; without it they are looked for beside the XML files, in JPEGImages/, images/
            and the like.
    """
    path = Path(path)
    if split is None:
        return _sources(path, {"": _every_file(path)}, images)[""]()
    sources = _find(path, images, weak=True) or {}
    if split not in sources:
        raise AnnotationError(f"{path}: no split {split!r}; found: {', '.join(filter(None, sources)) or 'none'}")
    read: Callable[[], Annotations] = sources[split]
    return read()


def _every_file(path: Path) -> list[Path]:
    files = list(chain.from_iterable(_xml_files(path, weak=True).values()))
    if not files:
        raise AnnotationError(f"{path}: no VOC annotation here (XML files with <annotation> as the outermost element)")
    return files


Parse = Callable[[Path], VocFile | None]


def _sources(
    path: Path, found: Mapping[str, list[Path]], images: str | Path | None, *, listed: bool = False
) -> Sources:
    """The splits of XML files, each with its reader. Files of no split, beside files of splits, are left out.

    `listed`: the files were chosen by lists, so each must be an annotation.
    """
    place = path if path.is_dir() else path.parent
    splits = {split: files for split, files in found.items() if split} or dict(found)
    if len(splits) < len(found):
        left = found[""]
        log.warning("%s: %d XML files are in no split and left out, the first is %s", path, len(left), left[0])
    chosen = list(chain.from_iterable(splits.values()))
    above = [place.parent] if place.name.lower() in OTHER_XML_FOLDERS else []
    file = first_file([place, *(file.parent for file in chosen[:1]), *above], CLASS_FILES)
    parse = cache(parse_voc) if len(set(chosen)) < len(chosen) else parse_voc  # trainval has what train and val have
    stems = None if listed or path.is_file() else {file.stem for file in chosen}
    given: dict[str, dict[Path, ImageNames]] = {split: {} for split in splits}  # filled as the files are read
    readers = {split: partial(_records, files, parse, listed, given[split], place) for split, files in splits.items()}
    names = None if file is None else read_names(file)
    return record_sources(
        readers, path, lambda split: lambda _: find_voc_images(given[split], place, images, stems), names
    )


def _records(
    files: Sequence[Path], parse: Parse, listed: bool, given: dict[Path, ImageNames], place: Path
) -> Iterator[Record]:
    """The records of files, without their images; `given` gets what each says of it."""
    given.clear()
    masks = VocMasks(place)
    foreign: list[Path] = []
    errors: list[AnnotationError] = []
    for file in dict.fromkeys(files):
        try:
            found = parse(file)
        except AnnotationError as error:
            errors.append(error)
            continue
        if found is None:
            foreign.append(file)
        else:
            given[file] = found.names
            yield Record("", masks.added(file, found), found.size, str(file))
    masks.tell()
    if foreign and (listed or not given):
        errors.append(AnnotationError(f"{foreign[0]}: no VOC annotation, the outermost element is not <annotation>"))
    if errors:
        more = f" ({len(errors) - 1} more files cannot be read)" if len(errors) > 1 else ""
        raise AnnotationError(f"{errors[0]}{more}") from errors[0]
    if foreign:
        log.warning("%d XML files are no VOC annotations and passed over, the first is %s", len(foreign), foreign[0])


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: Annotations/, ImageSets/Main/<split>.txt, JPEGImages/, and labels.txt with the categories in order.

    Fractions of pixels are kept. The images' paths are in the XML, placed or not.
    """
    write_names(annotations, folder / "labels.txt")
    others = (file for other, file in voc_splits(folder).items() if other != split)
    stems = unique_stems(annotations, set(chain.from_iterable(map(read_lines, others))))
    targets = image_targets(annotations, stems, folder / "JPEGImages")
    place_images(annotations.paths.tolist(), targets, images)
    for row, (stem, target) in enumerate(zip(stems, targets, strict=True)):
        write_atomically(folder / "Annotations" / f"{stem}.xml", _xml(annotations, row, target.name))
    write_atomically(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{s}\n" for s in stems))


def _shortest(value: Any) -> str:
    """The shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _polygon(points: NDArray[np.float64]) -> str:
    pairs = [(_shortest(x + 1), _shortest(y + 1)) for x, y in points.tolist()]
    return "".join(f"<x{number}>{x}</x{number}><y{number}>{y}</y{number}>" for number, (x, y) in enumerate(pairs, 1))


def _xml(annotations: Annotations, row: int, filename: str) -> str:
    width, height = annotations.sizes[row].tolist()
    path = Path(str(annotations.paths[row])).absolute()
    lines = [
        "<annotation>",
        f"  <filename>{html.escape(filename, quote=False)}</filename>",
        f"  <path>{html.escape(one_line(str(path)), quote=False)}</path>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    owned = annotations.objects(row)
    for position in range(owned.start, owned.stop):
        x1, y1, x2, y2 = annotations.boxes[position].tolist()
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        box = "".join(f"<{side}>{_shortest(value)}</{side}>" for side, value in corners.items())
        polygons = [] if annotations.segments is None else annotations.segments.polygons(position)
        lines += [
            "  <object>",
            f"    <name>{html.escape(annotations.names[annotations.labels[position]], quote=False)}</name>",
            f"    <difficult>{int(annotations.iscrowd[position])}</difficult>",
            f"    <bndbox>{box}</bndbox>",
            *(f"    <polygon>{_polygon(points)}</polygon>" for points in polygons),
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


FORMAT = Format(
    name="voc",
    title="VOC",
    looks_for="Annotations/*.xml with JPEGImages/ or images/, and ImageSets/Main/train.txt and val.txt; train/*.xml "
    "and valid/*.xml; .xml files",
    find=_find,
    guess=partial(_find, weak=True),
    read=read_voc,
    write=_write,
    holds=frozenset({"crowd", "polygons"}),
)
