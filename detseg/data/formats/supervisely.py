"""Supervisely projects: meta.json and folders of data sets, each with ann/ and img/; reader and writer.

A rectangle's last row and column are inside it, so that its right and bottom are one less than here.
Format: https://docs.supervisely.com/data-organization/annotation-json-format
"""

import base64
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.colours import class_color
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.json_files import (
    LeftOut,
    class_name,
    flat,
    given_size,
    listed_sources,
    of_form,
    placed_names,
    read_objects,
    tell_drawn,
    write_json,
)
from detseg.data.formats.layout import TRIED, beginning, split_of
from detseg.data.formats.locate import IMAGE_EXTENSIONS, FolderCache, PlaceImages, image_folders
from detseg.data.formats.outlines import cropped, drawn, from_base64, mask_png, own_mask, pasted, png_mask, run_lengths
from detseg.data.formats.records import Item, Record
from detseg.json_text import parse_json, read_bytes

log = logging.getLogger(__name__)

META = "meta.json"
SHAPES = ("rectangle", "polygon", "bitmap")
WITHOUT_AREA = ("point", "line", "graph", "cuboid")
PNG = b"\x89PNG"
MOST_BYTES = 2**28  # of an unpacked bitmap


# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None) -> Sources | None:
    root = path.parent if path.name == META else path
    if (path != root and not _is_meta(path)) or not root.is_dir():
        return None
    if _is_dataset(root):
        sets, root = [root], root.parent
    else:
        sets = _datasets(root)
    if not sets:
        return None
    splits: dict[str, list[Path]] = {}
    for folder in sets:
        splits.setdefault(split_of(folder.name) or "", []).append(folder)
    if "train" not in splits and "val" not in splits:
        splits = {"": sets}
    elif "" in splits:
        names = ", ".join(folder.name for folder in splits.pop(""))
        log.warning("%s: the data sets %s are named after no split and were left out", path, names)
    folders = [root] if images is None else image_folders(root, images)
    readers = {split: partial(_records, members, root, path) for split, members in splits.items()}
    return listed_sources(readers, path, lambda _: folders, partial(_class_names, root))


def _datasets(root: Path) -> list[Path]:
    """The data sets in a folder, and those within them, which lie in datasets/."""
    found = []
    for folder in sorted(e for e in root.iterdir() if e.is_dir() and not e.name.startswith((".", "__"))):
        found += [folder] if _is_dataset(folder) else []
        found += _datasets(folder / "datasets") if (folder / "datasets").is_dir() else []
    return found


def _is_dataset(folder: Path) -> bool:
    """Whether a folder has annotations of Supervisely in ann/, by the beginnings of the first of them."""
    found = (file for file in sorted((folder / "ann").glob("*.json"))[:TRIED] if not file.name.startswith("."))
    return any(b'"objects"' in text and b'"size"' in text for text in map(beginning, found))


def _is_meta(file: Path) -> bool:
    return file.name == META and bool(re.search(rb'"classes"\s*:\s*\[', beginning(file)))


def _class_names(root: Path) -> list[str] | None:
    """The classes of meta.json in their order; None without that file."""
    file = root / META
    if not file.is_file():
        return None
    with of_form(file, FORMAT.title):
        names = [class_name(entry["title"]) for entry in parse_json(read_bytes(file), file)["classes"]]
        return list(dict.fromkeys(names))


# ------------------------------------------------------------------ reading


def _records(sets: Sequence[Path], root: Path, source: Path) -> Iterator[Record]:
    left_out, cache = LeftOut(source), FolderCache()
    for folder in sets:
        names = cache.names(str(folder / "img"))
        bare = {Path(name).stem: name for name in names}
        annotated = set()
        for file in sorted((folder / "ann").glob("*.json")):
            if file.name.startswith("."):
                continue
            name = file.name[: -len(".json")]
            if name not in names and not name.lower().endswith(IMAGE_EXTENSIONS):
                name = bare.get(name, name)  # the first versions left the image's extension out
            annotated.add(name)
            with of_form(file, FORMAT.title):
                content = parse_json(read_bytes(file), file)
                size = given_size(content["size"]["width"], content["size"]["height"])
                items = read_objects(content["objects"], partial(_item, size=size, left_out=left_out))
            yield Record(f"{folder.relative_to(root).as_posix()}/img/{name}", items, size, str(file))
        for name in sorted(names - annotated):
            if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith("."):
                left_out.add("images without a file in ann/, left out", name)
    left_out.tell()


def _item(entry: Any, size: tuple[int, int], left_out: LeftOut) -> Item | None:
    kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else entry.get("shape", "polygon"))
    if kind not in SHAPES:
        left_out.add(f"objects of the geometry {kind}, left out; convert them to polygons or bitmaps")
        return None
    name = class_name(entry.get("classTitle"))
    if kind == "bitmap":
        x, y = (int(value) for value in entry["bitmap"]["origin"])
        return Item(name, mask=pasted(_bitmap(entry["bitmap"]["data"]), x, y, size))
    points = flat(entry["points"]["exterior"])
    if kind == "rectangle":
        if len(points) != 4:
            raise ValueError(f"a rectangle has {len(points) // 2} points")
        (x1, x2), (y1, y2) = sorted(points[0::2]), sorted(points[1::2])
        return Item(name, (x1, y1, x2 + 1, y2 + 1))
    holes = [flat(hole) for hole in entry["points"].get("interior") or []]
    if not holes:
        return Item(name, polygons=[points])
    return Item(name, mask=run_lengths(drawn([points], size) & ~drawn(holes, size)))


def _bitmap(text: Any) -> NDArray[np.bool_]:
    png = from_base64(text)
    if png.startswith(PNG):  # older versions did not pack it
        return png_mask(png)
    unpacker = zlib.decompressobj()
    png = unpacker.decompress(png, MOST_BYTES)
    if unpacker.unconsumed_tail:
        raise ValueError("its bitmap is too large")
    return png_mask(png)


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: the data set <split>/ with ann/ and img/, and meta.json with the categories in order.

    Objects of several polygons become bitmaps. The images must be placed: a project has them in img/.
    """
    if images == "keep":
        raise AnnotationError(f"{folder}: a Supervisely project holds its images; copy or link them (images=)")
    _write_meta(annotations, folder)
    tell_drawn(annotations, folder, FORMAT.title)
    names = placed_names(annotations, folder / split, "img", images)
    for row, name in enumerate(names):
        owned = annotations.objects(row)
        width, height = annotations.sizes[row].tolist()
        objects = [_object(annotations, position, (width, height)) for position in range(owned.start, owned.stop)]
        content = {"description": "", "tags": [], "size": {"height": height, "width": width}, "objects": objects}
        write_json(folder / split / "ann" / f"{Path(name).name}.json", content)


def _write_meta(annotations: Annotations, folder: Path) -> None:
    names, file = list(annotations.names), folder / META
    if len(set(names)) < len(names) or any(not name.strip() for name in names):
        raise AnnotationError(f"{file}: the format knows categories by name only, so names must differ: {names}")
    if file.is_file() and _class_names(folder) != names:
        raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    colours = ["#{:02X}{:02X}{:02X}".format(*class_color(label)) for label in range(len(names))]
    classes = [{"title": name, "shape": "any", "color": colour} for name, colour in zip(names, colours, strict=True)]
    write_json(file, {"classes": classes, "tags": [], "projectType": "images"})


def _object(annotations: Annotations, row: int, size: tuple[int, int]) -> dict[str, Any]:
    common = {"description": "", "tags": [], "classTitle": annotations.names[annotations.labels[row]]}
    segments = annotations.segments
    polygons = [] if segments is None else segments.polygons(row)
    mask = own_mask(segments, row)
    if len(polygons) > 1:
        mask = drawn([polygon.ravel().tolist() for polygon in polygons], size)
    if mask is not None:
        part, x, y = cropped(mask)
        data = base64.b64encode(zlib.compress(mask_png(part))).decode("ascii")
        return common | {"geometryType": "bitmap", "bitmap": {"data": data, "origin": [x, y]}}
    if polygons:
        return common | {"geometryType": "polygon", "points": {"exterior": polygons[0].tolist(), "interior": []}}
    x1, y1, x2, y2 = annotations.boxes[row].tolist()
    exterior = [[x1, y1], [x2 - 1, y2 - 1]]
    return common | {"geometryType": "rectangle", "points": {"exterior": exterior, "interior": []}}


FORMAT = Format(
    name="supervisely",
    title="Supervisely",
    looks_for="meta.json and folders of data sets, such as train/ and val/, with ann/*.json and img/",
    find=_find,
    write=_write,
    holds=frozenset({"polygons", "masks"}),
)
