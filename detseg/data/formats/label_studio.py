"""Label Studio: tasks as JSON, and its short form JSON-MIN; reader and writer, also of predictions to correct.

Coordinates are percents of the image, from 0 to 100. Of an image with several annotations one counts: the ground truth,
else the last that was not cancelled. Predictions are nobody's annotations, and are not read.
Format: https://labelstud.io/guide/task_format, https://labelstud.io/guide/export
"""

import csv
import html
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree.ElementTree import ParseError

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.json_files import (
    LeftOut,
    class_name,
    file_sources,
    flat,
    given_size,
    json_list,
    of_form,
    placed_names,
    read_objects,
    tell_drawn,
    write_json,
)
from detseg.data.formats.label_studio_brush import decode_brush, encode_brush
from detseg.data.formats.layout import beginning
from detseg.data.formats.locate import IMAGE_EXTENSIONS, PlaceImages, read_text
from detseg.data.formats.outlines import drawn, ellipse, own_mask, rotated_box, run_lengths
from detseg.data.formats.records import Fault, Item, Record
from detseg.files import write_atomically
from detseg.json_text import parse_json

log = logging.getLogger(__name__)

CONFIG = "label_config.xml"
TABLES = (".csv", ".tsv")
LOCAL = "/data/local-files/?d="
TASK_KEYS = ("annotations", "completions", "predictions")
TOOLS = {"rectanglelabels": "RectangleLabels", "polygonlabels": "PolygonLabels", "brushlabels": "BrushLabels"}

# ------------------------------------------------------------------ finding


def is_label_studio(file: Path) -> bool:
    """Whether a file is a list of Label Studio's tasks, or its table of them, by its beginning."""
    text = beginning(file)
    if file.suffix.lower() in TABLES:
        heading = text.partition(b"\n")[0]
        return b"annotation_id" in heading and (b"annotator" in heading or b"lead_time" in heading)
    if text.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
        return False
    signs = (
        (rb'"data"\s*:\s*\{', rb'"(annotations|completions|predictions)"\s*:'),
        (rb'"result"\s*:\s*\[', rb'"(from_name|to_name|original_width|\w+labels)"'),
        (rb'"annotation_id"\s*:', rb'"(annotator|lead_time|created_at)"\s*:'),
        (rb'"(rectangle|polygon|brush|ellipse)labels"\s*:',),
    )
    return any(all(re.search(sign, text) for sign in together) for together in signs)


def _find(path: Path, images: str | Path | None) -> Sources | None:
    return file_sources(path, images, (".json", *TABLES), is_label_studio, _records, _config_names)


def _config_names(folder: Path) -> list[str] | None:
    """The classes of a labelling configuration, in its order; None without one."""
    import defusedxml.ElementTree
    from defusedxml.common import DefusedXmlException

    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        root = defusedxml.ElementTree.parse(file).getroot()
    except (ParseError, DefusedXmlException, OSError, ValueError, LookupError) as error:
        raise AnnotationError(f"{file}: cannot be read as XML: {error}") from error
    names = [element.get("value", "").strip() for element in root.iter("Label")] if root is not None else []
    return list(dict.fromkeys(name for name in names if name)) or None


# ------------------------------------------------------------------ reading


def _records(files: Sequence[Path], left_out: LeftOut) -> Iterator[Record]:
    for file in files:
        before: tuple[Any, Record] | None = None  # the short form has a row for each annotation of an image
        tasks = _rows(file) if file.suffix.lower() in TABLES else json_list(file)
        for number, task in enumerate(tasks, 1):
            with of_form(f"{file}: task {number}", FORMAT.title):
                is_task = isinstance(task.get("data"), Mapping)
                record = _task(task, file, left_out) if is_task else _short(task, file, left_out)
            key = None if is_task else task.get("id")
            if before is not None and (key is None or key != before[0]):
                yield before[1]
            elif before is not None:
                left_out.add("earlier annotations of an image, left out for its last", before[1].image)
            before = None if record is None else (key, record)
        if before is not None:
            yield before[1]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of the export as CSV or TSV: JSON-MIN, whose lists are JSON in a cell."""
    text = read_text(file)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    try:
        for row in rows:
            yield {k: parse_json(v.encode(), file) if v and v[0] in "[{" else v for k, v in row.items() if k}
    except csv.Error as error:
        raise AnnotationError(f"{file}: line {rows.line_num}: cannot be read as CSV: {error}") from error


def _task(task: Mapping[str, Any], file: Path, left_out: LeftOut) -> Record | None:
    image = _image(task["data"])
    given = task.get("annotations", task.get("completions")) or []
    if task.get("predictions"):
        left_out.add("tasks with predictions, which are not read as annotations", image)
    kept = [annotation for annotation in given if not annotation.get("was_cancelled")]
    if not kept:
        left_out.add("tasks skipped by people, left out" if given else "tasks never annotated, left out", image)
        return None
    if len(kept) > 1:
        left_out.add("images with several annotations, of which the ground truth counts, else the last", image)
    truths = [annotation for annotation in kept if annotation.get("ground_truth")]
    return _record(image, (truths or kept)[-1].get("result") or [], file, left_out)


def _short(task: Mapping[str, Any], file: Path, left_out: LeftOut) -> Record:
    """A row of JSON-MIN: values without their surroundings, listed under the name of the tool."""
    lists = (values for values in task.values() if isinstance(values, list))
    values = (value for listed in lists for value in listed if isinstance(value, Mapping))
    results = [{"value": v, **{key: v[key] for key in v if key.startswith("original_")}} for v in values]
    return _record(_image(task), results, file, left_out)


def _image(data: Mapping[str, Any]) -> str:
    """The image among the data of a task, whatever its key is."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    paths = {key: _path(value) for key, value in texts.items()}
    found = [key for key, path in paths.items() if path.lower().endswith(IMAGE_EXTENSIONS)]
    key = "image" if "image" in paths else found[0] if len(found) == 1 else None
    if key is None:
        raise ValueError(f"which of its data is the image cannot be told: {', '.join(map(repr, texts)) or 'none'}")
    return paths[key]


def _path(text: str) -> str:
    """The file that an address means: of local storage its own path, of the web without what follows the name."""
    if LOCAL in text:
        return unquote(text.partition(LOCAL)[2].partition("&")[0])
    return text.partition("?")[0] if "://" in text else text


def _record(image: str, results: Sequence[Any], file: Path, left_out: LeftOut) -> Record:
    sizes = (given_size(r.get("original_width"), r.get("original_height")) for r in results)
    size = next((size for size in sizes if size != (0, 0)), (0, 0))
    labels: dict[Any, list[str]] = {}  # of a region, whose shape and label may be two results of one id
    shapes: dict[Any, Any] = {}
    for number, result in enumerate(results):
        key, value = result.get("id", f"result {number}"), result.get("value")
        value = value if isinstance(value, Mapping) else {}
        named = next((v for k, v in value.items() if k.endswith("labels") and isinstance(v, list)), [])
        if named:
            labels[key] = list(dict.fromkeys([*labels.get(key, []), *named]))
        if any(part in value for part in ("x", "points", "rle", "imageDataURL")):
            shapes.setdefault(key, value)
        elif not named:
            left_out.add(f"results of the type {result.get('type')}, no objects, left out", image)
    for _ in labels.keys() - shapes.keys():
        left_out.add("labels without a region, left out", image)

    def read(key: Any) -> Item | None:
        return _item(shapes[key], labels.get(key, []), size, left_out)

    items: list[Item | Fault] = read_objects(shapes, read, "region")
    return Record(image, items, size, str(file), shares=size == (0, 0))


def _item(value: Mapping[str, Any], labels: Sequence[str], size: tuple[int, int], left_out: LeftOut) -> Item | None:
    sx, sy = (side / 100 if side else 0.01 for side in size)  # percents to pixels, or to shares
    degrees = float(value.get("rotation") or 0)
    no_area = "imageDataURL" in value or ("x" in value and "radiusX" not in value and "height" not in value)
    if no_area or (value.get("closed") is False and "points" in value):
        left_out.add("regions without an area (points, open lines) or with an image as mask, left out", str(labels))
        return None
    if len(labels) != 1:
        raise ValueError(f"it has {len(labels)} labels ({', '.join(map(repr, labels)) or 'none'}); give it one")
    name = class_name(labels[0])
    if "rle" in value:
        return Item(name, mask=run_lengths(decode_brush(value["rle"], size)))
    if "points" in value:
        points = flat(value["points"])
        return Item(name, polygons=[[v * (sy if place % 2 else sx) for place, v in enumerate(points)]])
    if degrees and size == (0, 0):
        raise ValueError("it is rotated, and 'original_width' and 'original_height' are missing")
    x, y = float(value["x"]) * sx, float(value["y"]) * sy
    if "radiusX" in value:
        radii = float(value["radiusX"]) * sx, float(value["radiusY"]) * sy
        return Item(name, polygons=[ellipse(x, y, *radii, degrees=degrees)])
    width, height = float(value["width"]) * sx, float(value["height"]) * sy
    if degrees:
        return Item(name, polygons=[rotated_box(x, y, width, height, degrees)])
    return Item(name, (x, y, x + width, y + height))


# ------------------------------------------------------------------ writing


def _write(
    annotations: Annotations,
    folder: Path,
    split: str,
    images: PlaceImages = "link",
    scores: NDArray[np.floating[Any]] | None = None,
) -> None:
    """One split: <split>.json with its tasks, images/<split>/, and label_config.xml, the project's configuration.

    With `scores` (M,) the objects are written as predictions, for people to correct; else as annotations. Objects of
    several polygons become brush masks. Images are addressed as files of local storage whose root is `folder`.
    AnnotationError: an image of unknown size, or a folder that holds other categories.
    """
    unknown = np.flatnonzero((annotations.sizes <= 0).any(axis=1))
    if len(unknown):
        raise AnnotationError(
            f"{folder}: not written, Label Studio's coordinates are percents of the image and {len(unknown)} sizes are "
            f"unknown; the first is {annotations.paths[unknown[0]]}"
        )
    _write_config(annotations, folder)
    tell_drawn(annotations, folder, FORMAT.title)
    names = placed_names(annotations, folder, f"images/{split}", images)
    tasks = []
    for row, name in enumerate(names):
        owned = annotations.objects(row)
        results = [_result(annotations, row, position, scores) for position in range(owned.start, owned.stop)]
        number = int(annotations.image_ids[row])
        task = {"id": number, "data": {"image": name if images == "keep" else f"{LOCAL}{quote(name)}"}}
        if scores is None:
            task |= {"annotations": [{"id": number, "result": results, "was_cancelled": False}], "predictions": []}
        else:
            mean = float(np.mean(scores[owned])) if results else 0.0
            prediction = {"model_version": "detseg", "score": mean, "result": results}
            task |= {"annotations": [], "predictions": [prediction]}
        tasks.append(task)
    write_json(folder / f"{split}.json", tasks)


def _write_config(annotations: Annotations, folder: Path) -> None:
    names, file = list(annotations.names), folder / CONFIG
    if len(set(names)) < len(names) or any(name != name.strip() or not name for name in names):
        raise AnnotationError(
            f"{file}: categories are known by name only, so names must differ, without blanks at the ends: {names}"
        )
    if file.is_file() and _config_names(folder) != (names or None):
        raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    labels = "".join(f'    <Label value="{html.escape(name)}"/>\n' for name in names)
    tools = "".join(f'  <{tag} name="{kind}" toName="image">\n{labels}  </{tag}>\n' for kind, tag in TOOLS.items())
    write_atomically(file, f'<View>\n  <Image name="image" value="$image"/>\n{tools}</View>\n')


def _result(annotations: Annotations, image: int, row: int, scores: NDArray[np.floating[Any]] | None) -> dict[str, Any]:
    width, height = annotations.sizes[image].tolist()
    segments = annotations.segments
    polygons = [] if segments is None else segments.polygons(row)
    mask = own_mask(segments, row)
    if len(polygons) > 1:
        mask = drawn([polygon.ravel().tolist() for polygon in polygons], (width, height))
    value: dict[str, Any]
    if mask is not None:
        kind, value = "brushlabels", {"format": "rle", "rle": encode_brush(mask)}
    elif polygons:
        kind, value = "polygonlabels", {"points": (polygons[0] / (width / 100, height / 100)).tolist(), "closed": True}
    else:
        x1, y1, x2, y2 = (annotations.boxes[row] / np.array([width, height] * 2) * 100).tolist()
        kind, value = "rectanglelabels", {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
    result: dict[str, Any] = {
        "id": f"object{annotations.ids[row]}",
        "type": kind,
        "from_name": kind,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value | {kind: [annotations.names[annotations.labels[row]]]},
    }
    return result if scores is None else result | {"score": float(scores[row])}


FORMAT = Format(
    name="labelstudio",
    title="Label Studio",
    looks_for="a .json export of tasks, or JSON-MIN: train.json and val.json",
    find=_find,
    write=_write,
    holds=frozenset({"polygons", "masks", "scores"}),
)
