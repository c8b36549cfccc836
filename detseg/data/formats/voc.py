"""Pascal VOC XML: reader and writer.

VOC counts pixels from 1 and its xmax, ymax are the last pixels inside the box, so a VOC box
(xmin, ymin, xmax, ymax) is (xmin - 1, ymin - 1, xmax, ymax) here. `difficult` becomes `iscrowd` (ignored).
"""

import html
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException

from detseg.data.annotations import AnnotationError, Annotations, Category
from detseg.data.formats.assemble import Assembler
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.locate import (
    WRITTEN_EXTENSIONS,
    FolderCache,
    PlaceImages,
    first_file,
    image_targets,
    measure_images,
    place_images,
    read_lines,
    read_names,
    unique_stems,
    write_names,
)
from detseg.files import write_atomically

CLASS_FILES = ("labels.txt", "classes.txt", "label_list.txt", "predefined_classes.txt")
IMAGE_FOLDERS = ("JPEGImages", "images", "")


# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None) -> Sources | None:
    if path.is_dir():
        if not _xml_files(path / "Annotations", "**/*.xml"):
            return None
        divided: Sources = {split: partial(read_voc, path, split, images) for split in voc_splits(path)}
        return divided or {"": partial(read_voc, path, images=images)}
    if path.suffix.lower() == ".xml":
        return {"": partial(read_voc, path, images=images)}
    if path.suffix.lower() == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main"):
        return {"": partial(read_voc, path.parents[2], path.stem, images)}
    return None


def _guess(path: Path, images: str | Path | None) -> Sources | None:
    return {"": partial(read_voc, path, images=images)} if path.is_dir() and _xml_files(path, "*.xml") else None


def _xml_files(folder: Path, pattern: str) -> list[Path]:
    """XML files, without hidden ones: macOS packs one beside each file."""
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith("."))


def voc_splits(folder: Path) -> dict[str, Path]:
    """The splits ("train", "val", ...) of a VOC folder with their lists in ImageSets/Main, without those per class."""
    lists = {file.stem.lower(): file for file in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}  # or Train.txt
    return {split: lists[split] for split in ("test", "train", "trainval", "val") if split in lists}


# ------------------------------------------------------------------ reading


class _Object(NamedTuple):
    name: str
    corners: tuple[float, ...] | None  # xmin, ymin, xmax, ymax as written
    difficult: bool


class _Record(NamedTuple):
    """What one XML file says."""

    filename: str
    path: str
    size: tuple[int, int]  # width, height; zeros where the file has none
    objects: list[_Object]


def read_voc(path: str | Path, split: str | None = None, images: str | Path | None = None) -> Annotations:
    """Read Pascal VOC annotations; AnnotationError, for what is none, names the file and the line.

    The categories are those of labels.txt or classes.txt (one name per line) where the folder has such a
    file, otherwise all names in the folder's XML files, of any split, in alphabetical order. Ids are 1..K.

    Args:
        path: a VOC folder (Annotations/ with its subfolders, JPEGImages/, ImageSets/Main/), a folder of XML files,
            or one file.
        split: read the images that ImageSets/Main/<split>.txt lists; None reads every XML file.
        images: the folder of the images; without it JPEGImages/, images/ and the XML's folder are tried.
    """
    path = Path(path)
    xml_folder = path.parent if path.is_file() else path / "Annotations"
    xml_folder = xml_folder if xml_folder.is_dir() else path
    root = xml_folder.parent if xml_folder.name == "Annotations" else xml_folder
    everything = [path] if path.is_file() else _xml_files(xml_folder, "**/*.xml" if xml_folder != root else "*.xml")
    if not everything:
        raise AnnotationError(f"{path}: no XML files here and none in Annotations/")
    chosen = everything if split is None else _listed(root, xml_folder, split)
    records = {file: _record(file) for file in chosen}
    file = first_file((root, xml_folder), CLASS_FILES)
    if file is not None:
        names = read_names(file)
    else:
        others = (_record(file) for file in everything if file not in records)
        found = {item.name for record in chain(records.values(), others) for item in record.objects}
        names = sorted(found - {""})

    folders = [Path(images)] if images is not None else [root / f for f in IMAGE_FOLDERS] + [xml_folder]
    cache = FolderCache()
    located = [
        _image(file, file.parent.relative_to(xml_folder), record, folders, cache) for file, record in records.items()
    ]
    declared = np.array([record.size for record in records.values()], dtype=np.int32).reshape(-1, 2)
    sizes = measure_images(located, declared).tolist()
    assembler = Assembler()
    labels = {name: label for label, name in enumerate(names)}
    for (file, record), image, size in zip(records.items(), located, sizes, strict=True):
        assembler.add_image(image, str(file), size)
        for number, item in enumerate(record.objects, 1):
            _add_object(item, number, labels, assembler)
    return assembler.build([Category(number, name) for number, name in enumerate(names, 1)], path)


def _listed(root: Path, xml_folder: Path, split: str) -> list[Path]:
    """The XML files of a split. A line holds a name, or a name and 1, 0 or -1 in lists made per class."""
    file = voc_splits(root).get(split, root / "ImageSets" / "Main" / f"{split}.txt")
    if not file.is_file():
        found = ", ".join(voc_splits(root)) or "none"
        raise AnnotationError(f"{file}: no such list; the splits found in ImageSets/Main are: {found}")
    lines = read_lines(file)
    chosen = [first_file([xml_folder], (f"{line}.xml", f"{line.split()[0]}.xml")) for line in lines]
    absent = [line for line, xml in zip(lines, chosen, strict=True) if xml is None]
    if absent:
        raise AnnotationError(
            f"{file}: {len(absent)} listed images have no XML file in {xml_folder}, "
            f"the first is {absent[0]!r}. Remove these lines, or add the files (images without objects "
            "have one without <object>)"
        )
    return [xml for xml in chosen if xml is not None]


def _record(file: Path) -> _Record:
    try:
        tree = defusedxml.ElementTree.parse(file).getroot()
    except ParseError as error:
        line, column = error.position
        raise AnnotationError(f"{file}: line {line}, column {column}: not well-formed XML: {error}") from error
    except (DefusedXmlException, OSError, ValueError, LookupError) as error:
        remedy = "; save it as UTF-8" if "encoding" in str(error) else ""  # the parser knows no gb2312
        raise AnnotationError(f"{file}: cannot be read as XML: {error}{remedy}") from error
    if tree is None or tree.tag != "annotation":
        raise AnnotationError(f"{file}: no VOC annotation, those have <annotation> as the outermost element")
    objects = [_Object(_text(e, "name"), _corners(e), _is_true(_text(e, "difficult"))) for e in tree.findall("object")]
    return _Record(_text(tree, "filename"), _text(tree, "path"), _size(tree, file), objects)


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _is_true(text: str) -> bool:
    """VOC writes difficult as 0 or 1, some tools as False or true, or as "Unspecified"."""
    try:
        return float(text) != 0
    except ValueError:
        return text.lower() in ("true", "yes")


def _corners(element: Element) -> tuple[float, ...] | None:
    try:
        return tuple(float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return None


def _size(tree: Element, file: Path) -> tuple[int, int]:
    texts = [_text(tree, f"size/{side}") for side in ("width", "height")]
    try:
        width, height = (int(float(text)) if text else 0 for text in texts)
    except (ValueError, OverflowError) as error:
        raise AnnotationError(f"{file}: <size> holds {texts}, expected whole numbers of pixels") from error
    return width, height


def _image(file: Path, place: Path, record: _Record, folders: Sequence[Path], cache: FolderCache) -> str:
    """The image of an XML file, which lies at `place` among the XML files: the one of its name, or its <filename>.

    Its name counts for more where the two differ: files are renamed, and nobody corrects what is written in them.
    """
    given = PurePosixPath(record.filename.replace("\\", "/"))
    named = [str(given), given.name, *(f"{given.name}{e}" for e in WRITTEN_EXTENSIONS)] if given.name else []
    own = [f"{file.stem}{e}" for e in WRITTEN_EXTENSIONS]
    names = named + own if file.stem in (given.name, given.stem) else own + named
    for candidate in [place / name for name in names] + [Path(name) for name in names if place.name]:
        for folder in folders:
            path = str(folder / candidate)
            if path in cache:
                return path
    if record.path and Path(record.path).is_file():
        return record.path
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return str(folder / place / (given.name or f"{file.stem}.jpg"))


def _add_object(item: _Object, number: int, labels: dict[str, int], assembler: Assembler) -> None:
    if item.corners is None:
        what = f"<object> {number} ({item.name or 'without name'}) has no <bndbox> with four numbers"
        assembler.add_problem(what, "correct or remove it", "malformed-object")
        return
    label = labels.get(item.name, -1)
    if label < 0:
        what = f"<object> {number} has the name {item.name!r}, which is not in the list of classes"
        remedy = "add the name to the list, correct it, or remove the object"
        assembler.add_problem(what, remedy, "unknown-category", of_next_object=True)
    x1, y1, x2, y2 = item.corners
    assembler.add_object((x1 - 1, y1 - 1, x2, y2), label, item.difficult)
    assembler.segments.add_nothing()


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


def _number(value: Any) -> str:
    """The shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _xml(annotations: Annotations, row: int, filename: str) -> str:
    width, height = annotations.sizes[row].tolist()
    path = Path(str(annotations.paths[row])).absolute()
    lines = [
        "<annotation>",
        f"  <filename>{html.escape(filename, quote=False)}</filename>",
        f"  <path>{html.escape(str(path), quote=False)}</path>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    owned = annotations.objects(row)
    for position in range(owned.start, owned.stop):
        x1, y1, x2, y2 = annotations.boxes[position].tolist()
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        box = "".join(f"<{side}>{_number(value)}</{side}>" for side, value in corners.items())
        lines += [
            "  <object>",
            f"    <name>{html.escape(annotations.names[annotations.labels[position]], quote=False)}</name>",
            f"    <difficult>{int(annotations.iscrowd[position])}</difficult>",
            f"    <bndbox>{box}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


FORMAT = Format(
    name="voc",
    title="VOC",
    looks_for="Annotations/*.xml with JPEGImages/, and ImageSets/Main/train.txt and val.txt; .xml files",
    find=_find,
    guess=_guess,
    read=read_voc,
    write=_write,
    holds=frozenset({"crowd"}),
)
