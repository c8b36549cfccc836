"""LabelMe JSON: one file an image, beside it; reader and writer.

X-AnyLabeling and AnyLabeling write the same, with "difficult" at each shape.
Format: https://github.com/wkentaro/labelme, examples/ and labelme/_label_file.py
"""

import base64
import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.json_files import (
    CLASS_FILES,
    LeftOut,
    class_name,
    flat,
    given_size,
    is_text,
    json_object,
    listed_sources,
    names_beside,
    of_form,
    placed_names,
    read_objects,
    read_part,
    write_json,
)
from detseg.data.formats.layout import ANNOTATION_FOLDERS, beginning, files_by_split
from detseg.data.formats.locate import (
    IMAGE_EXTENSIONS,
    WRITTEN_EXTENSIONS,
    FolderCache,
    PlaceImages,
    image_folders,
    write_names,
)
from detseg.data.formats.outlines import (
    corners,
    cropped,
    decoded,
    drawn,
    ellipse,
    from_base64,
    mask_png,
    own_mask,
    pasted,
    png_mask,
    run_lengths,
)
from detseg.data.formats.records import Fault, Item, Record, RunLengths
from detseg.data.formats.same_name import stem as same_stem

FOLDERS = (*ANNOTATION_FOLDERS, "images", "imgs", "jpegimages")
SPECIAL = ("__ignore__", "_background_")
IGNORED = ("difficult", "crowd", "iscrowd", "ignore")  # flags of a shape, where people set them
WITHOUT_AREA = ("point", "points", "line", "linestrip", "points_with_labels")

# ------------------------------------------------------------------ finding


def is_labelme(file: Path) -> bool:
    """Whether a JSON file holds LabelMe's shapes of an image, by its beginning."""
    text = beginning(file)
    if text.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":  # CVAT has lists of such shapes
        return False
    shapes = re.search(rb'"shapes"\s*:\s*\[', text) and re.search(rb'"(imagePath|imageData|shape_type|points)"', text)
    # An embedded image may stand before the shapes, longer than what was read.
    return bool(shapes or re.search(rb'"imageData"\s*:\s*"', text))


def _find(path: Path, images: str | Path | None) -> Sources | None:
    splits = files_by_split(path, (".json",), is_labelme, inside=FOLDERS)
    if not splits:
        return None
    places = {split: files[0].parent for split, files in splits.items()}
    listed = names_beside(next(iter(places.values())))
    names = None if listed is None else [name for name in listed if name not in SPECIAL]
    folders = {split: image_folders(place, images, split) for split, place in places.items()}
    readers = {split: partial(_records, files, path, names, folders[split]) for split, files in splits.items()}
    return listed_sources(readers, path, folders.__getitem__, lambda: names)


# ------------------------------------------------------------------ reading


def _records(
    files: Sequence[Path], source: Path, names: Sequence[str] | None, folders: Sequence[Path]
) -> Iterator[Record]:
    left_out, cache = LeftOut(source), FolderCache()
    named: set[str] = set()
    for file in files:
        content = json_object(file, file)
        if "shapes" not in content:
            left_out.add("JSON files without 'shapes', not LabelMe's, passed over", file.name)
            continue
        with of_form(file, "LabelMe"):
            image = _image(read_part(content.get("imagePath"), file), file, cache)
            size = given_size(*(read_part(content.get(key), file) for key in ("imageWidth", "imageHeight")))
            shapes = read_part(content["shapes"], file)
            items = _items(shapes, size, names, left_out)
        if is_text(content.get("imageData")) and not _is_there(image, folders, cache):
            what = "images embedded in their JSON file ('imageData') and not found as files; save them beside it"
            left_out.add(what, f"{Path(image).name} in {file.name}")
        named |= {same_stem(Path(image).name), same_stem(file.stem)}
        yield Record(image, items, size, str(file))
    for folder in dict.fromkeys(str(file.parent) for file in files):
        for name in sorted(cache.names(folder)):
            if name.lower().endswith(IMAGE_EXTENSIONS) and name[0] != "." and same_stem(name) not in named:
                left_out.add("images without a JSON file, left out", name)
    left_out.tell()


def _image(name: Any, file: Path, cache: FolderCache) -> str:
    """The image as the file names it; one of the file's own name where it does not."""
    if isinstance(name, str) and name.strip():
        return name.replace("\\", "/")
    own = [f"{file.stem}{extension}" for extension in WRITTEN_EXTENSIONS]
    beside = next((name for name in own if name in cache.names(str(file.parent))), None)
    if beside is None:
        raise AnnotationError(f"{file}: 'imagePath' is missing, and no image of the file's name lies beside it")
    return beside


def _is_there(image: str, folders: Sequence[Path], cache: FolderCache) -> bool:
    places = [str(folder / name) for folder in folders for name in (image, Path(image).name)]
    return any(place in cache for place in places)


def _items(shapes: Any, size: tuple[int, int], names: Sequence[str] | None, left_out: LeftOut) -> list[Item | Fault]:
    if not isinstance(shapes, list):
        raise TypeError("'shapes' is no list")
    groups: dict[Any, list[Any]] = {}
    for number, shape in enumerate(shapes):
        group = shape.get("group_id") if isinstance(shape, dict) else None
        kind = (str(group), str(shape.get("label"))) if group is not None else number
        groups.setdefault(kind, []).append(shape)
    items = []
    for item in read_objects(groups.values(), lambda members: _item(members, size, left_out)):
        if isinstance(item, Fault) or item.name not in SPECIAL:
            items.append(item)
        elif item.name == SPECIAL[0] and names:
            items += [item._replace(name=name, iscrowd=True) for name in names]  # ignored whatever it is
        else:
            remedy = "" if item.name != SPECIAL[0] else "; list the classes in labels.txt to have them ignored"
            left_out.add(f"shapes labelled {item.name}, left out{remedy}")
    return items


def _item(shapes: Sequence[Any], size: tuple[int, int], left_out: LeftOut) -> Item | None:
    """The object that shapes of one group and label are together."""
    kept = []
    for shape in shapes:
        kind = shape.get("shape_type") or "polygon"  # the first versions knew polygons only
        if kind in WITHOUT_AREA:
            left_out.add(f"shapes of the type {kind}, without an area, left out")
        else:
            kept.append((kind, shape))
    if not kept:
        return None
    name = class_name(kept[0][1].get("label"))
    crowd = any(_is_ignored(shape) for _, shape in kept)
    if len(kept) == 1 and kept[0][0] == "rectangle":
        return Item(name, _box(flat(kept[0][1]["points"])), iscrowd=crowd)
    masks = [_mask(shape, size) for kind, shape in kept if kind == "mask"]
    polygons = [_polygon(kind, flat(shape["points"])) for kind, shape in kept if kind != "mask"]
    if not masks:
        return Item(name, polygons=polygons, iscrowd=crowd)
    if len(masks) > 1 or polygons:
        parts = [decoded(mask) for mask in masks] + ([drawn(polygons, size)] if polygons else [])
        return Item(name, mask=run_lengths(np.logical_or.reduce(parts)), iscrowd=crowd)
    return Item(name, mask=masks[0], iscrowd=crowd)


def _is_ignored(shape: Any) -> bool:
    flags = shape.get("flags")
    return shape.get("difficult") is True or bool(flags and any(flags.get(flag) is True for flag in IGNORED))


def _box(points: Sequence[float]) -> tuple[float, float, float, float]:
    """Of two corners in any order, or of all four."""
    if len(points) not in (4, 8):
        raise ValueError(f"a rectangle has {len(points) // 2} points")
    return min(points[0::2]), min(points[1::2]), max(points[0::2]), max(points[1::2])


def _polygon(kind: str, points: Sequence[float]) -> Sequence[float]:
    if kind == "rectangle":
        return corners(*_box(points))
    if kind == "circle":
        (x, y), edge = points[:2], points[2:4]
        return ellipse(x, y, *[math.dist((x, y), edge)] * 2)
    if kind not in ("polygon", "oriented_rectangle", "rotation"):
        raise ValueError(f"the shape type {kind!r} is not known")
    return points


def _mask(shape: Any, size: tuple[int, int]) -> RunLengths:
    """A mask is that of its bounding box, whose lower right corner is its last pixel."""
    x, y = (math.floor(value) for value in flat(shape["points"])[:2])
    return pasted(png_mask(from_base64(shape.get("mask"))), x, y, size)


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: <split>/*.json with the images beside them, and labels.txt with the categories in order."""
    write_names(annotations, folder / CLASS_FILES[1])
    place = folder / split
    names = placed_names(annotations, place, "", images)
    stems = _stems(names)
    for row, (name, stem) in enumerate(zip(names, stems, strict=True)):
        width, height = annotations.sizes[row].tolist()
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [shape for owner in _rows(annotations, row) for shape in _shapes(annotations, owner)],
            "imagePath": name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(place / f"{stem}.json", content)


def _stems(names: Sequence[str]) -> list[str]:
    """A JSON's name for each image: its stem, numbered where images that are kept in several folders share one."""
    stems: dict[str, None] = {}
    for name in names:
        stem, number = Path(name).stem, 1
        while stem in stems:
            number += 1
            stem = f"{Path(name).stem}_{number}"
        stems[stem] = None
    return list(stems)


def _rows(annotations: Annotations, image: int) -> range:
    owned = annotations.objects(image)
    return range(owned.start, owned.stop)


def _shapes(annotations: Annotations, row: int) -> list[dict[str, Any]]:
    segments = annotations.segments
    mask = own_mask(segments, row)
    parts: list[dict[str, Any]]
    if mask is not None:
        part, x, y = cropped(mask)
        ends = [[x, y], [x + part.shape[1] - 1, y + part.shape[0] - 1]]
        parts = [{"points": ends, "shape_type": "mask", "mask": base64.b64encode(mask_png(part)).decode("ascii")}]
    elif segments is not None and (polygons := segments.polygons(row)):
        parts = [{"points": polygon.tolist(), "shape_type": "polygon"} for polygon in polygons]
    else:
        x1, y1, x2, y2 = annotations.boxes[row].tolist()
        parts = [{"points": [[x1, y1], [x2, y2]], "shape_type": "rectangle"}]
    common = {
        "label": annotations.names[annotations.labels[row]],
        "group_id": row + 1 if len(parts) > 1 else None,
        "flags": {"difficult": True} if annotations.iscrowd[row] else {},
    }
    return [common | part for part in parts]


FORMAT = Format(
    name="labelme",
    title="LabelMe",
    looks_for='a .json file for each image, with its "shapes": beside the images, or in train/ and val/; labels.txt',
    find=_find,
    write=_write,
    holds=frozenset({"polygons", "masks", "crowd"}),
)
