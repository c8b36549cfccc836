"""VGG Image Annotator: projects of version 2 and 3, their exports as JSON and CSV; reader, and writer of version 2.

Formats: https://www.robots.ox.ac.uk/~vgg/software/via/, its sources at https://gitlab.com/vgg/via
"""

import csv
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.json_files import (
    ODD,
    LeftOut,
    class_name,
    json_object,
    listed_sources,
    of_form,
    placed_names,
    read_objects,
    read_part,
    single_polygons,
    write_json,
)
from detseg.data.formats.layout import beginning, files_by_split
from detseg.data.formats.locate import PlaceImages, image_folders
from detseg.data.formats.outlines import ellipse
from detseg.data.formats.records import Item, Record
from detseg.json_text import parse_json
from detseg.reading import require_file

log = logging.getLogger(__name__)

UNNAMED = "object"  # the class of regions without attributes, as those of one class often are
CLASS_ATTRIBUTES = ("class", "classes", "label", "label_id", "category", "name", "object", "species", "type")
WITHOUT_AREA = ("point", "polyline", "line")
SHAPES = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon", 8: "extreme rect"}
IMAGE, IN_FILES = 2, (1, 4)  # version 3: the type of a file, and places where `fname` is its name, not `src`
SECOND_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
THIRD_COLUMNS = ("file_list", "spatial_coordinates", "metadata")
MOST_CHARACTERS = 2**27  # in a field of a CSV file


class Image(NamedTuple):
    """An image and its regions, as version 2 writes them: {"shape_attributes": ..., "region_attributes": ...}."""

    name: str
    regions: Sequence[Any]


class Classes(NamedTuple):
    """How regions are classed: by an attribute, whose values may have names; None where regions have none at all."""

    attribute: str | None
    options: Mapping[str, str]  # value -> name


# ------------------------------------------------------------------ finding


def is_via(file: Path) -> bool:
    """Whether a JSON or CSV file is one of VIA's, by its beginning."""
    text = beginning(file)
    if file.suffix.lower() == ".csv":
        return b"region_shape_attributes" in text or bool(re.search(rb"#\s*CSV_HEADER\s*=\s*metadata_id", text))
    export = text.lstrip()[:1] == b"{" and b'"filename"' in text and b'"regions"' in text and b"_attributes" in text
    return export or b'"_via_' in text or (b'"vid_list"' in text and b'"project"' in text)


def _find(path: Path, images: str | Path | None) -> Sources | None:
    splits = files_by_split(path, (".json", ".csv"), is_via)
    splits = {split: [file for file in files if is_via(file)] for split, files in splits.items()}
    if not splits:
        return None
    places = {split: files[0].parent for split, files in splits.items()}

    @cache
    def classes() -> tuple[Classes, list[str] | None]:
        return _classes([file for files in splits.values() for file in files], path)

    readers = {split: lambda files=files: _records(files, path, classes()[0]) for split, files in splits.items()}
    folders = lambda split: image_folders(places[split], images, split)  # noqa: E731
    return listed_sources(readers, path, folders, lambda: classes()[1])


# ------------------------------------------------------------------ reading


def _records(files: Sequence[Path], source: Path, classes: Classes) -> Iterator[Record]:
    left_out = LeftOut(source)
    for file in files:
        for image in _images(file, left_out):
            items = read_objects(image.regions, lambda region: _item(region, classes, left_out), "region")
            yield Record(image.name, items, file=str(file))
    left_out.tell()


def _item(region: Any, classes: Classes, left_out: LeftOut) -> Item | None:
    shape = region["shape_attributes"]
    kind = shape["name"]
    points = [float(v) for pair in zip(*_sides(shape), strict=True) for v in pair] if "all_points_x" in shape else []
    closed = kind == "polyline" and len(points) >= 8 and points[:2] == points[-2:]
    if kind in WITHOUT_AREA and not closed:
        left_out.add(f"regions of the shape {kind}, without an area, left out")
        return None
    name = _class_of(region.get("region_attributes") or {}, classes)
    if kind == "rect":
        x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return Item(name, (x, y, x + width, y + height))
    if kind == "extreme rect":
        return Item(name, (min(points[0::2]), min(points[1::2]), max(points[0::2]), max(points[1::2])))
    if kind in ("circle", "ellipse"):
        x, y = float(shape["cx"]), float(shape["cy"])
        rx, ry = (float(shape[key]) for key in (("r", "r") if kind == "circle" else ("rx", "ry")))
        return Item(name, polygons=[ellipse(x, y, rx, ry, math.degrees(shape.get("theta") or 0))])
    if kind != "polygon" and not closed:
        raise ValueError(f"the shape {kind!r} is not known")
    return Item(name, polygons=[points])


def _sides(shape: Mapping[str, Any]) -> tuple[Any, Any]:
    return shape["all_points_x"], shape["all_points_y"]


def _class_of(attributes: Mapping[str, Any], classes: Classes) -> str:
    if classes.attribute is None:
        return UNNAMED
    values = _values(attributes.get(classes.attribute))
    if len(values) != 1:
        found = ", ".join(map(repr, values)) or "no value"
        raise ValueError(f"its attribute {classes.attribute!r} has {found}; give it one")
    return class_name(classes.options.get(values[0], values[0]))


def _values(value: Any) -> list[str]:
    """The values of an attribute: one, or those that are ticked of checkboxes ({"rose": true})."""
    if isinstance(value, Mapping):
        return [str(key) for key, ticked in value.items() if ticked]
    text = "" if value is None else str(value).strip()
    return [text] if text not in ("", "undefined") else []


# ------------------------------------------------------------------ which attribute is the class


def _classes(files: Sequence[Path], source: Path) -> tuple[Classes, list[str] | None]:
    """By which attribute regions are classed, and the classes in the order of a project's options, if they are all."""
    found: dict[str, dict[str, None]] = {}  # attribute -> its values
    for file in files:
        for image in _images(file, LeftOut(source)):
            for region in image.regions:
                attributes = region.get("region_attributes") if isinstance(region, Mapping) else None
                for name, value in (attributes if isinstance(attributes, Mapping) else {}).items():
                    found.setdefault(name, {}).update(dict.fromkeys(_values(value)))
    found = {name: values for name, values in found.items() if values}
    attribute = _class_attribute(list(found), source)
    options: dict[str, str] = {}
    for file in files:
        options |= _options(file, attribute)
    used = {options.get(value, value) for value in found.get(attribute or "", {})}
    listed = list(dict.fromkeys(options.values()))
    return Classes(attribute, options), listed if used <= set(listed) and listed else None


def _class_attribute(names: Sequence[str], source: Path) -> str | None:
    if not names:
        log.warning("%s: its regions have no attributes; all are of one class, %r", source, UNNAMED)
        return None
    known = [name for word in CLASS_ATTRIBUTES for name in names if name.strip().lower() == word]
    if len(names) > 1 and len(known) != 1 and "class" not in names:
        raise AnnotationError(
            f"{source}: its regions have the attributes {', '.join(map(repr, names))}, and it cannot be told which of "
            "them is the class; rename that one to 'class' (in VIA under Attributes)"
        )
    chosen = names[0] if len(names) == 1 else "class" if "class" in names else known[0]
    others = [name for name in names if name != chosen]
    if others:
        shown = ", ".join(map(repr, others))
        log.warning("%s: the class of a region is its attribute %r; %s are not read", source, chosen, shown)
    return chosen


def _options(file: Path, attribute: str | None) -> dict[str, str]:
    """Value -> name of the attribute that a project lists; numbers are named by their description."""
    if file.suffix.lower() == ".csv" or attribute is None:
        return {}
    listed = read_part(json_object(file, file).get("_via_attributes"), file)
    with suppress(*ODD):
        options = listed["region"][attribute]["options"]
        described = all(str(key).strip().isdigit() and str(text).strip() for key, text in options.items())
        return {str(key).strip(): str(text if described else key).strip() for key, text in options.items()}
    return {}


# ------------------------------------------------------------------ the files


def _images(file: Path, left_out: LeftOut) -> Iterator[Image]:
    with of_form(file, "VIA"):
        if file.suffix.lower() == ".csv":
            yield from _csv_images(file)
            return
        content = json_object(file, file)
        if "view" in content and "project" in content:
            yield from _third_images(content, file, left_out)
            return
        members = json_object(content["_via_img_metadata"], file) if "_via_img_metadata" in content else content
        for key, part in members.items():
            image = read_part(part, f"{file}: {key[:100]}")
            regions = image["regions"]
            yield Image(str(image["filename"]), list(regions.values()) if isinstance(regions, dict) else list(regions))


def _third_images(content: Mapping[str, Any], file: Path, left_out: LeftOut) -> Iterator[Image]:
    """Of a project of version 3: views of files, with regions that name their view."""
    attributes, files, views = (read_part(content[key], file) for key in ("attribute", "file", "view"))
    regions: dict[str, list[Any]] = {}
    for part in json_object(content["metadata"], file).values():
        region = read_part(part, file)
        if region.get("xy"):  # else it speaks of the whole file
            regions.setdefault(str(region["vid"]), []).append(_second(region["xy"], region.get("av") or {}, attributes))
    for vid, view in views.items():
        ids = view["fid_list"]
        entry = files[str(ids[0])] if len(ids) == 1 else None
        if entry is None or entry.get("type", IMAGE) != IMAGE:
            left_out.add("views of several files or of a video, left out")
            continue
        name = entry["fname"] if entry.get("loc", IN_FILES[0]) in IN_FILES else entry["src"] or entry["fname"]
        yield Image(str(name), regions.get(vid, []))


def _second(xy: Sequence[float], values: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A region of version 3 in the form of version 2."""
    kind, numbers = SHAPES.get(int(xy[0]), f"number {xy[0]}"), xy[1:]
    shape: dict[str, Any] = {"name": kind}
    keys = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
    if kind in keys:
        shape |= dict(zip(keys[kind], numbers, strict=False))
    else:
        shape |= {"all_points_x": numbers[0::2], "all_points_y": numbers[1::2]}
    named = {}
    for key, value in values.items():
        attribute = attributes.get(key) or {}
        options = attribute.get("options") or {}
        chosen = [options[part] for part in str(value).split(",") if part in options]
        named[str(attribute.get("aname", key))] = dict.fromkeys(chosen, True) if chosen else value
    return {"shape_attributes": shape, "region_attributes": named}


def _csv_images(file: Path) -> Iterator[Image]:
    images: dict[str, list[tuple[int, str, str]]] = {}  # its rows, not yet read: number, shape and attributes
    limit = csv.field_size_limit(MOST_CHARACTERS)
    try:
        with require_file(file).open(encoding="utf-8-sig", newline="") as opened:
            names, options = _head(opened, file)
            columns = THIRD_COLUMNS if THIRD_COLUMNS[0] in names else SECOND_COLUMNS
            places = [names.index(column) for column in columns]
            for number, row in enumerate(csv.reader(opened), 1):
                if row and len(row) <= max(places):
                    raise AnnotationError(f"{file}: row {number}: {len(row)} fields, expected {len(names)}")
                if row:
                    name, shape, values = (row[place] for place in places)
                    images.setdefault(name, []).append((number, shape, values))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{file}: cannot be read as CSV in UTF-8: {error}") from error
    finally:
        csv.field_size_limit(limit)
    third = columns == THIRD_COLUMNS
    for name, rows in images.items():
        regions = []
        for number, *texts in rows:
            shape, values = (parse_json((text or "{}").encode(), f"{file}: row {number}") for text in texts)
            if shape and third:
                regions.append(_second(shape, values, options))
            elif shape:
                regions.append({"shape_attributes": shape, "region_attributes": values})
        yield Image(_only_file(name, file) if third else name, regions)


def _head(opened: TextIO, file: Path) -> tuple[list[str], Any]:
    """The names of the columns, and what version 3 says in comments before of attributes and their options."""
    options: Any = {}
    for line in opened:
        if found := re.match(r"#\s*ATTRIBUTE\s*=\s*(\{.*\})", line):
            options = parse_json(found[1].encode(), file)
        names = re.sub(r"^#\s*(CSV_HEADER\s*=)?", "", line).split(",")
        names = [name.strip().strip('"').lstrip("#") for name in names]
        if set(names) >= set(SECOND_COLUMNS) or set(names) >= set(THIRD_COLUMNS):
            return names, options
    raise AnnotationError(f"{file}: no line names the columns {', '.join(SECOND_COLUMNS)}")


def _only_file(text: str, file: Path) -> str:
    names = parse_json(text.encode(), file)
    if len(names) != 1:
        raise AnnotationError(f"{file}: a view of {len(names)} files ({text[:100]}); expected one image")
    return str(names[0])


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: via_<split>.json, a project of version 2, and images/<split>/. The class is the attribute "class"."""
    names = placed_names(annotations, folder, f"images/{split}", images)
    polygons = single_polygons(annotations, folder, FORMAT.title)
    entries = {}
    for row, name in enumerate(names):
        owned = annotations.objects(row)
        regions = [_region(annotations, position, polygons) for position in range(owned.start, owned.stop)]
        file = folder / name
        size = file.stat().st_size if file.is_file() else -1
        entries[f"{name}{size}"] = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
    options = dict.fromkeys(annotations.names, "")
    attribute = {"type": "dropdown", "description": "", "options": options, "default_options": {}}
    content = {
        "_via_settings": {"ui": {}, "core": {"buffer_size": 18, "filepath": {}, "default_filepath": ""}},
        "_via_img_metadata": entries,
        "_via_attributes": {"region": {"class": attribute}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(entries),
    }
    write_json(folder / f"via_{split}.json", content)


def _region(annotations: Annotations, row: int, polygons: Mapping[int, Sequence[Sequence[float]]]) -> dict[str, Any]:
    if row in polygons:
        xs, ys = zip(*polygons[row], strict=True)
        shape: dict[str, Any] = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    else:
        x1, y1, x2, y2 = annotations.boxes[row].tolist()
        shape = {"name": "rect", "x": x1, "y": y1, "width": round(x2 - x1, 10), "height": round(y2 - y1, 10)}
    return {"shape_attributes": shape, "region_attributes": {"class": annotations.names[annotations.labels[row]]}}


FORMAT = Format(
    name="via",
    title="VIA",
    looks_for="a project or export of VGG Image Annotator, .json or .csv: via_train.json and via_val.json",
    find=_find,
    write=_write,
    holds=frozenset({"polygons"}),
)
