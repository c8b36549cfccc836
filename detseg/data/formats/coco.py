"""COCO JSON: reader and writer.

The reader turns the file into flat arrays a few thousand annotations at a time, so that a million boxes
never exist as Python objects together. `detseg.data.coco_json` has the records, which metrics read too.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from detseg.box_formats import convert_boxes
from detseg.data.annotations import AnnotationError, Annotations, Category, Problem
from detseg.data.coco_json import (
    MISSING,
    CocoAnnotation,
    CocoCategory,
    CocoImage,
    CocoRle,
    box_column,
    load_file,
    parse_chunk,
)
from detseg.data.formats.assemble import box_areas
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.locate import (
    PlaceImages,
    image_folders,
    image_targets,
    locate_images,
    measure_images,
    place_images,
    require_writable,
    unique_stems,
)
from detseg.data.polygons import FAR, SegmentsBuilder, can_be_drawn
from detseg.files import write_atomically

CHUNK = 8192  # annotations parsed at a time: a few MB of Python objects
NO_BOX = (math.nan,) * 4


# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None) -> Sources | None:
    if path.is_dir():
        return {split: partial(read_coco, file, images) for split, file in _splits(path).items()} or None
    return {"": partial(read_coco, path, images)} if path.suffix.lower() == ".json" and looks_like_coco(path) else None


def _guess(path: Path, images: str | Path | None) -> Sources | None:
    """A JSON file, or the only one of a folder, without the usual marks: the reader says what is wrong with it."""
    files = [path] if path.is_file() else sorted([*path.glob("*.json"), *(path / "annotations").glob("*.json")])
    files = [file for file in files if file.suffix.lower() == ".json" and not file.name.startswith(".")]
    return {"": partial(read_coco, files[0], images)} if len(files) == 1 else None


def looks_like_coco(file: Path, length: int = 65536) -> bool:
    """Whether one of COCO's lists is named near the file's beginning or end."""
    with file.open("rb") as opened:
        text = opened.read(length)
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - length))
        text += opened.read()
    text = text.replace(b"\0", b"")  # UTF-16
    # Label Studio and CreateML have "annotations" too, Datumaro has "categories", an object.
    return bool(re.search(rb'"(images|categories)"\s*:\s*\[', text)) or (
        b'"annotations"' in text and b'"image_id"' in text
    )


def _splits(folder: Path) -> dict[str, Path]:
    splits = {}
    for split, spellings in SPLITS.items():
        forms = ("{}.json", "instances_{}.json", "instances_{}*.json", "{}*.json")
        names = [form.format(name) for name in spellings for form in forms]
        file = _first_match([folder, folder / "annotations"], names)
        file = file or _first_match([folder / name for name in spellings], ["_annotations.coco.json"])
        if file is not None:
            splits[split] = file
    return splits


def _first_match(folders: Sequence[Path], patterns: Sequence[str]) -> Path | None:
    """The file that fits the first pattern that fits any (Train.json too); content counts where the name is unsure."""
    for folder in folders:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".json") if folder.is_dir() else []
        for pattern in patterns:
            matches = [file for file in files if fnmatchcase(file.name.lower(), pattern)]
            matches = [file for file in matches if "*" not in pattern or looks_like_coco(file)]
            if len(matches) > 1:
                names = ", ".join(match.name for match in matches)
                raise AnnotationError(f"{folder}: several files could be meant ({names}); give the file itself")
            if matches:
                return matches[0]
    return None


# ------------------------------------------------------------------ reading


def read_coco(path: str | Path, images: str | Path | None = None) -> Annotations:
    """Read a COCO JSON file; AnnotationError, for what is none, names the place in it.

    Without `images`, their folder, they are looked for beside the JSON file, in `images/`, and in folders named after
    the split ("train2017" for instances_train2017.json), here and one up.
    """
    path = Path(path)
    content = load_file(path)
    image_ids = _int64([image.id for image in content.images], f"{path}: images[].id")
    objects, items = _Objects(path, image_ids, content.categories), content.annotations or []
    for start in range(0, max(1, len(items)), CHUNK):
        objects.add(parse_chunk(items[start : start + CHUNK], start, path, objects.problems))
    columns = objects.columns()

    split = re.sub(r"^(instances|annotations|_annotations\.coco|person_keypoints)_?", "", path.stem)
    paths = locate_images(_file_names(content.images, path), image_folders(path.parent, images, split))
    sizes = _int64([(i.width or 0, i.height or 0) for i in content.images], f"{path}: image sizes")
    categories = tuple(Category(c.id, c.name) for c in content.categories)
    del content, items  # the whole file; the arrays that follow take its place in memory
    order = np.argsort(columns["image_index"], kind="stable")
    built = objects.segments.build()
    if (np.diff(order) < 0).any():
        for name, values in columns.items():
            columns[name] = values[order]
        built = built and built.take(order)
    annotations = Annotations(
        categories=categories,
        image_ids=image_ids,
        paths=np.array(paths, dtype=np.str_),
        sizes=measure_images(paths, sizes.astype(np.int32).reshape(-1, 2)),
        segments=built,
        source=str(path),
        **columns,
    )
    # The problems know their image by its id only.
    where = {int(number): row for row, number in enumerate(image_ids)} if objects.problems else {}
    rows = [where.get(problem.image_index, -1) for problem in objects.problems]
    problems = tuple(
        replace(problem, image=paths[row] if row >= 0 else "", image_index=row)
        for problem, row in zip(objects.problems, rows, strict=True)
    )
    return replace(_fill_gaps(annotations), read_problems=problems)


def _int64(values: Sequence[Any], place: str) -> NDArray[np.int64]:
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as error:
        raise AnnotationError(f"{place}: a number is too large for 64 bits") from error


def _file_names(images: list[CocoImage], path: Path) -> list[str]:
    names = [image.file_name for image in images]
    for position, name in enumerate(names):
        if not name or "\0" in name:
            what = "has no file_name" if not name else f"has a file_name with a NUL character, {name!r}"
            raise AnnotationError(f"{path}: images[{position}] (id {images[position].id}) {what}; give the image's")
    return names


class _Objects:
    """Collects annotations as columns, in file order, without those that cannot be used; and what is wrong."""

    def __init__(self, path: Path, image_ids: NDArray[np.int64], categories: Sequence[CocoCategory]) -> None:
        self.segments = SegmentsBuilder()
        self.problems: list[Problem] = []
        self._path = path
        self._images = np.unique(image_ids, return_index=True)  # of several with the same id the first counts
        self._labels: dict[int, int] = {}
        self._chunks: list[dict[str, NDArray[Any]]] = []
        for label, category in enumerate(categories):
            if self._labels.setdefault(category.id, label) != label:
                what = f"category id {category.id} is given twice, the second time to {category.name!r}"
                problem = Problem(str(path), "", None, what, "give every category its own id", kind="category")
                self.problems.append(problem)

    def columns(self) -> dict[str, Any]:
        """The arrays over objects, by their names in `Annotations`."""
        return {name: np.concatenate([chunk[name] for chunk in self._chunks]) for name in self._chunks[0]}

    def add(self, chunk: list[CocoAnnotation]) -> None:
        """Add annotations, with what is wrong with them."""
        image_index = self._rows([a.image_id for a in chunk])
        if (image_index < 0).any():
            for row in np.flatnonzero(image_index < 0):
                what = f"image id {chunk[row].image_id} is not in the file's list of images"
                self._problem(chunk[row], what, "add the image, or remove the object", "unknown-image")
            chunk = [a for a, row in zip(chunk, image_index, strict=True) if row >= 0]
        labels = np.array([self._labels.get(a.category_id, -1) for a in chunk], np.int32)
        for row in np.flatnonzero(labels < 0):
            what = f"category id {chunk[row].category_id} is not in the file's list of categories"
            self._problem(chunk[row], what, "add the category, or remove the object", "unknown-category")
        boxes = box_column((a.bbox or NO_BOX for a in chunk), len(chunk))
        with np.errstate(invalid="ignore"):  # infinite numbers; validation reports such boxes
            boxes = convert_boxes(boxes, "xywh", "xyxy")
        self._chunks.append(
            {
                "image_index": image_index[image_index >= 0].astype(np.int32),
                "boxes": boxes,
                "labels": labels,
                "iscrowd": np.array([bool(a.iscrowd) for a in chunk], np.bool_),
                "ids": _int64([a.id for a in chunk], f"{self._path}: annotations[].id"),
                "areas": np.array([np.nan if a.area is None else a.area for a in chunk], np.float64),
            }
        )
        if any(a.segmentation for a in chunk):
            for annotation in chunk:
                self._add_segment(annotation)
        else:
            self.segments.add_nothing(len(chunk))

    def _rows(self, image_ids: list[int]) -> NDArray[np.int64]:
        """The position of each image, -1 where the file does not list it."""
        ids = _int64(image_ids, f"{self._path}: annotations[].image_id")
        known, first = self._images
        if not len(known):
            return np.full(len(ids), -1)
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[place] == ids, first[place], -1)

    def _add_segment(self, a: CocoAnnotation) -> None:
        segmentation = a.segmentation
        if not segmentation:
            return self.segments.add_nothing()
        if isinstance(segmentation, CocoRle):
            (height, width), counts = segmentation.size, segmentation.counts
            if height > 0 and width > 0 and _fills(height, width, counts):
                return self.segments.add_rle(height, width, counts)
            what = f"the run lengths do not fill the mask of {height} x {width} pixels"
            self._problem(a, what, "correct the mask; it is left out", "malformed-outline", "warning")
            return self.segments.add_nothing()
        # Fewer than three points enclose nothing, and pycocotools takes four numbers for a box.
        shaped = [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
        usable = [polygon for polygon in shaped if can_be_drawn(polygon)]
        remedy = "correct the segmentation; these polygons are left out"
        if len(shaped) < sum(1 for polygon in segmentation if polygon):
            count = f"{len(segmentation) - len(shaped)} of {len(segmentation)} polygons"
            what = f"{count} have fewer than 6 numbers or an odd count of them"
            self._problem(a, what, remedy, "malformed-outline", "warning")
        if len(usable) < len(shaped):
            what = f"a polygon holds NaN, infinity or numbers beyond {FAR:,.0f}"
            self._problem(a, what, remedy, "malformed-outline")
        return self.segments.add_polygons(usable)

    def _problem(
        self, a: CocoAnnotation, what: str, remedy: str, kind: str, severity: Literal["error", "warning"] = "error"
    ) -> None:
        number = None if a.id == MISSING else a.id
        # The image id stands in for its position until that is known.
        problem = Problem(str(self._path), "", number, what, remedy, severity, kind, image_index=a.image_id)
        self.problems.append(problem)


def _fills(height: int, width: int, counts: str | list[int]) -> bool:
    """Whether run lengths, compressed or not, are those of a mask of that size."""
    from pycocotools import mask

    if not isinstance(counts, str):
        return min(counts, default=-1) >= 0 and sum(counts) == height * width
    try:
        mask.decode({"size": [height, width], "counts": counts.encode("ascii")})  # raises where they go beyond its end
    except (ValueError, UnicodeEncodeError):
        return False
    return bool(counts)


def _fill_gaps(annotations: Annotations) -> Annotations:
    """Compute the ids, boxes and areas that the file leaves out."""
    ids, boxes, areas = annotations.ids, annotations.boxes, annotations.areas
    missing = ids == MISSING
    if missing.any():
        first = max(int(ids.max(initial=0)), 0) + 1
        ids = ids.copy()
        ids[missing] = np.arange(first, first + int(missing.sum()))
    no_box = np.asarray(np.isnan(boxes).all(axis=1))
    no_area = np.isnan(areas)
    if not missing.any() and not no_box.any() and not no_area.any():
        return annotations
    boxes, areas = boxes.copy(), areas.copy()
    for row in np.flatnonzero(annotations.drawn & (no_box | no_area)):
        box, area = _measure_segment(annotations, int(row))
        if no_box[row]:
            boxes[row] = box
        if no_area[row]:
            areas[row] = area
    plain = np.isnan(areas)
    areas[plain] = box_areas(boxes[plain])
    return replace(annotations, ids=ids, boxes=boxes, areas=areas)


def _measure_segment(annotations: Annotations, row: int) -> tuple[Any, float]:
    """Box xyxy and area of an object's polygons or mask, as pycocotools measures them."""
    from pycocotools import mask

    assert annotations.segments is not None
    width, height = (int(v) for v in annotations.sizes[annotations.image_index[row]])
    rle = annotations.segments.rle(row, height, width)
    polygons = annotations.segments.polygons(row)
    area = float(mask.area(rle))
    if polygons:
        points = np.concatenate(polygons)
        return np.concatenate([points.min(axis=0), points.max(axis=0)]), area
    x, y, w, h = mask.toBbox(rle)
    return (x, y, x + w, y + h), area


# ------------------------------------------------------------------ writing


def write_coco(annotations: Annotations, path: str | Path) -> None:
    """Write a COCO JSON file: boxes, polygons, masks, crowd, ids and areas, in one step.

    Images stay where they are; their names are written relative to the JSON file when they lie near it. AnnotationError
    is raised for a box that is not finite and an object without category.
    """
    path = Path(path)
    require_writable(annotations, path)
    here = path.resolve().parent
    numbers, sizes = annotations.image_ids.tolist(), annotations.sizes.tolist()
    images = [
        CocoImage(number, _relative(name, here), *size)
        for number, name, size in zip(numbers, annotations.paths.tolist(), sizes, strict=True)
    ]
    categories = [CocoCategory(*category) for category in annotations.categories]
    content = {"images": images, "annotations": _written_objects(annotations), "categories": categories}
    write_atomically(path, msgspec.json.encode(content))


def _relative(name: str, here: Path) -> str:
    """Relative to the JSON file's folder for images under the folder above it, absolute otherwise."""
    full = os.path.abspath(name)  # noqa: PTH100 - keeps links as they are
    if here.parent != here and full.startswith(f"{here.parent}{os.sep}"):
        return Path(os.path.relpath(full, here)).as_posix()
    return full


def _written_objects(annotations: Annotations) -> list[dict[str, Any]]:
    # x2 - x1 leaves dust like 113.00000000000001; ten digits are far finer than any annotation.
    columns = {
        "id": annotations.ids,
        "image_id": annotations.image_ids[annotations.image_index],
        "category_id": np.array([c.id for c in annotations.categories], np.int64)[annotations.labels],
        "bbox": np.round(convert_boxes(annotations.boxes, "xyxy", "xywh"), 10),
        "area": annotations.areas,
        "iscrowd": annotations.iscrowd.astype(int),
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    written = [dict(zip(columns, row, strict=True)) for row in rows]
    segments = annotations.segments
    for row, item in enumerate(written if segments is not None else []):
        assert segments is not None
        if polygons := segments.polygons(row):
            item["segmentation"] = [polygon.ravel().tolist() for polygon in polygons]
        elif rle := segments.rle(row, 0, 0):
            item["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return written


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    if images != "keep":
        targets = image_targets(annotations, unique_stems(annotations, set()), folder / "images" / split)
        place_images(annotations.paths.tolist(), targets, images)
        annotations = replace(annotations, paths=np.array([str(target) for target in targets], np.str_))
    write_coco(annotations, folder / f"{split}.json")


FORMAT = Format(
    name="coco",
    title="COCO",
    looks_for="train.json and val.json, or instances_train*.json and instances_val*.json, here or in annotations/; "
    "train/_annotations.coco.json; a single .json file",
    find=_find,
    guess=_guess,
    read=read_coco,
    write=_write,
    holds=frozenset({"polygons", "masks", "crowd", "category ids", "image ids"}),
)
