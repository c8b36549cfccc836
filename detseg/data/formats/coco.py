"""COCO JSON: reader and writer.

The reader turns the file into flat arrays a few thousand annotations at a time, so that a million boxes
never exist as Python objects together. `detseg.data.coco_json` has the records, which metrics read too.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from detseg.box_formats import convert_boxes
from detseg.data.annotations import AnnotationError, Annotations, Category, Problem
from detseg.data.coco_ids import MISSING, NUMBERS, TextIds
from detseg.data.coco_json import (
    CocoAnnotation,
    CocoCategory,
    CocoFile,
    CocoImage,
    CocoRle,
    Id,
    OddObject,
    as_polygons,
    box_column,
    load_file,
    parse_chunk,
)
from detseg.data.formats.assemble import box_areas
from detseg.data.formats.coco_find import find, guess, split_word
from detseg.data.formats.format import Format, Sources
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
from detseg.data.formats.outlines import is_mask
from detseg.data.polygons import FAR, SegmentsBuilder, can_be_drawn
from detseg.files import write_atomically

CHUNK = 8192  # annotations parsed at a time: a few MB of Python objects
NO_BOX = (math.nan,) * 4


def _find(path: Path, images: str | Path | None) -> Sources | None:
    return {split: partial(read_coco, file, images) for split, file in find(path).items()} or None


def _guess(path: Path, images: str | Path | None) -> Sources | None:
    return {split: partial(read_coco, file, images) for split, file in guess(path).items()} or None


# ------------------------------------------------------------------ reading


def read_coco(path: str | Path, images: str | Path | None = None) -> Annotations:
    """Read a COCO JSON file; AnnotationError, for what is none, names the place in it.

    Without `images`, their folder, they are looked for beside the JSON file, in `images/`, and in folders named after
    the split ("train2017" for instances_train2017.json), here and one up.
    """
    path = Path(path)
    content = load_file(path)
    folders = image_folders(path.parent, images, split_word(path))
    folders += [path.parent / "data"] if images is None else []  # FiftyOne's
    return annotations_of(content, path, partial(locate_images, folders=folders))


def annotations_of(content: CocoFile[Any], path: Path, locate: Callable[[Sequence[str]], list[str]]) -> Annotations:
    """The data set that the parts of a file say; `locate` finds the paths of images by their names."""
    image_ids, image_texts = _numbers([image.id for image in content.images], f"{path}: images[].id")
    category_ids, category_texts = _numbers([c.id for c in content.categories], f"{path}: categories[].id")
    categories = [Category(number, c.name) for number, c in zip(category_ids.tolist(), content.categories, strict=True)]
    objects, items = _Objects(path, image_ids, image_texts, categories, category_texts), content.annotations or []
    for start in range(0, max(1, len(items)), CHUNK):
        objects.add(parse_chunk(items[start : start + CHUNK], start, path, objects.odd))
    columns = objects.columns()

    paths = locate(_file_names(content, path))
    sizes = _sizes(content.images)
    del content, items  # the whole file; the arrays that follow take its place in memory
    order = np.argsort(columns["image_index"], kind="stable")
    built = objects.segments.build()
    if (np.diff(order) < 0).any():
        for name, values in columns.items():
            columns[name] = values[order]
        built = built and built.take(order)
    annotations = Annotations(
        categories=tuple(categories),
        image_ids=image_ids,
        paths=np.array(paths, dtype=np.str_),
        sizes=measure_images(paths, sizes),
        segments=built,
        source=str(path),
        image_texts=image_texts,
        category_texts=category_texts,
        **columns,
    )
    return replace(_fill_gaps(annotations), read_problems=objects.problems(paths))


def _numbers(ids: Sequence[Id], place: str) -> tuple[NDArray[np.int64], TextIds]:
    """The numbers of a list's ids, and those that are texts."""
    texts = TextIds.of(ids)
    numbers = texts.column(ids)
    if (numbers == MISSING).any():
        raise AnnotationError(f"{place}: a number is too large for 64 bits")
    return numbers, texts


def _sizes(images: list[CocoImage]) -> NDArray[np.int32]:
    """(N, 2) width, height; what is beyond any image stays so, for validation."""
    most = np.iinfo(np.int32).max
    sides = [(min(max(i.width or 0, 0), most), min(max(i.height or 0, 0), most)) for i in images]
    return np.array(sides, dtype=np.int32).reshape(-1, 2)


def _file_names(content: CocoFile[Any], path: Path) -> list[str]:
    names = [image.file_name for image in content.images]
    for i, other in enumerate(content.other_names or []):
        if not names[i] and isinstance(other.coco_url, str):  # LVIS has nothing else; it ends in train2017/1.jpg
            names[i] = "/".join(unquote(urlsplit(other.coco_url).path).split("/")[-2:])
        given = [key for key in ("filename", "name", "path") if isinstance(getattr(other, key), str)]
        remedy = f"rename {given[0]!r}, which it has, to 'file_name'" if given else "give the image's"
        if not names[i]:
            raise AnnotationError(f"{path}: images[{i}] (id {content.images[i].id}) has no file_name; {remedy}")
    for i, name in enumerate(names):
        if "\0" in name:
            what = f"has a file_name with a NUL character, {name!r}"
            raise AnnotationError(f"{path}: images[{i}] (id {content.images[i].id}) {what}; give the image's")
    return names


class _Objects:
    """Collects annotations as columns, in file order, without those that cannot be used; and what is wrong."""

    def __init__(
        self,
        path: Path,
        image_ids: NDArray[np.int64],
        image_texts: TextIds,
        categories: Sequence[Category],
        category_texts: TextIds,
    ) -> None:
        self.segments = SegmentsBuilder()
        self.odd: list[OddObject] = []
        self._path = path
        self._images = np.unique(image_ids, return_index=True)  # of several with the same id the first counts
        self._image_texts, self._category_texts = image_texts, category_texts
        self._labels: dict[int, int] = {}
        self._chunks: list[dict[str, NDArray[Any]]] = []
        for label, category in enumerate(categories):
            if self._labels.setdefault(category.id, label) != label:
                what = f"category id {category.id} is given twice, the second time to {category.name!r}"
                problem = Problem(str(path), "", None, what, "give every category its own id", kind="category")
                self.odd.append((problem, None))

    def columns(self) -> dict[str, Any]:
        """The arrays over objects, by their names in `Annotations`."""
        return {name: np.concatenate([chunk[name] for chunk in self._chunks]) for name in self._chunks[0]}

    def add(self, chunk: list[CocoAnnotation]) -> None:
        """Add annotations, with what is wrong with them."""
        image_index = self._rows([a.image_id for a in chunk])
        if (image_index < 0).any():
            for row in np.flatnonzero(image_index < 0):
                what = f"image id {chunk[row].image_id!r} is not in the file's list of images"
                self._problem(chunk[row], what, "add the image, or remove the object", "unknown-image")
            chunk = [a for a, row in zip(chunk, image_index, strict=True) if row >= 0]
        category_ids = self._category_texts.column([a.category_id for a in chunk]).tolist()
        labels = np.array([self._labels.get(number, -1) for number in category_ids], np.int32)
        for row in np.flatnonzero(labels < 0):
            what = f"category id {chunk[row].category_id!r} is not in the file's list of categories"
            self._problem(chunk[row], what, "add the category, or remove the object", "unknown-category")
            problem, image_id = self.odd[-1]
            self.odd[-1] = replace(problem, category=category_ids[row]), image_id
        boxes = box_column((a.bbox or NO_BOX for a in chunk), len(chunk))
        with np.errstate(invalid="ignore", over="ignore"):  # infinite numbers; validation reports such boxes
            boxes = convert_boxes(boxes, "xywh", "xyxy")
        self._chunks.append(
            {
                "image_index": image_index[image_index >= 0].astype(np.int32),
                "boxes": boxes,
                "labels": labels,
                "iscrowd": np.array([bool(a.iscrowd) for a in chunk], np.bool_),
                "ids": NUMBERS.column([a.id for a in chunk]),
                "areas": np.array([np.nan if a.area is None else a.area for a in chunk], np.float64),
            }
        )
        if any(a.segmentation for a in chunk):
            for annotation in chunk:
                self._add_segment(annotation)
        else:
            self.segments.add_nothing(len(chunk))

    def problems(self, paths: Sequence[str]) -> tuple[Problem, ...]:
        """What is wrong, each with its image, of those at `paths` (N,)."""
        rows = self._rows([image_id for _, image_id in self.odd]).tolist() if self.odd else []
        return tuple(
            replace(problem, image=paths[row] if row >= 0 else "", image_index=row)
            for (problem, _), row in zip(self.odd, rows, strict=True)
        )

    def _rows(self, image_ids: Sequence[Any]) -> NDArray[np.int64]:
        """The position of each image, -1 where the file does not list it."""
        ids = self._image_texts.column(image_ids)
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
            if is_mask(height, width, counts):
                return self.segments.add_rle(height, width, counts)
            what = f"the run lengths do not fill the mask of {height} x {width} pixels"
            self._problem(a, what, "correct the mask; it is left out", "malformed-outline", "warning")
            return self.segments.add_nothing()
        if len(segmentation[0]) == 2:
            segmentation = as_polygons(segmentation)
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
        number = int(NUMBERS.column([a.id])[0])
        shown = None if number == MISSING else number
        self.odd.append((Problem(str(self._path), "", shown, what, remedy, severity, kind), a.image_id))


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
    _write_file(annotations, path, path.resolve().parent.parent)


def _write_file(annotations: Annotations, path: Path, root: Path) -> None:
    """Write a file; names of images below `root` are relative to it, others are whole paths."""
    require_writable(annotations, path)
    here = path.resolve().parent
    ids, sizes = annotations.image_texts.written(annotations.image_ids.tolist()), annotations.sizes.tolist()
    images = [
        CocoImage(image_id, _relative(name, here, root), *size)
        for image_id, name, size in zip(ids, annotations.paths.tolist(), sizes, strict=True)
    ]
    ids = annotations.category_texts.written(category.id for category in annotations.categories)
    categories = [CocoCategory(number, name) for number, name in zip(ids, annotations.names, strict=True)]
    content = {"images": images, "annotations": written_objects(annotations), "categories": categories}
    write_atomically(path, msgspec.json.encode(content))


def _relative(name: str, here: Path, root: Path) -> str:
    """Relative to the JSON file's folder for images under the folder `root`, absolute otherwise."""
    full = os.path.abspath(name)  # noqa: PTH100 - keeps links as they are
    if root.parent != root and full.startswith(f"{root}{os.sep}"):
        return Path(os.path.relpath(full, here)).as_posix()
    return full


def written_objects(annotations: Annotations) -> list[dict[str, Any]]:
    """The entries of `annotations`, in the order of the objects."""
    # x2 - x1 leaves dust like 113.00000000000001; ten digits are far finer than any annotation.
    columns = {
        "id": annotations.ids,
        "image_id": annotations.image_ids[annotations.image_index],
        "category_id": np.array([c.id for c in annotations.categories], np.int64)[annotations.labels],
        "bbox": np.round(convert_boxes(annotations.boxes, "xyxy", "xywh"), 10),
        "area": annotations.areas,
        "iscrowd": annotations.iscrowd.astype(int),
    }
    values = {name: column.tolist() for name, column in columns.items()}
    for name, texts in (("image_id", annotations.image_texts), ("category_id", annotations.category_texts)):
        values[name] = texts.written(values[name])
    rows = zip(*values.values(), strict=True)
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
    _write_file(annotations, folder / f"{split}.json", folder.resolve())  # the folder may be moved, kept images stay


FORMAT = Format(
    name="coco",
    title="COCO",
    looks_for="train.json and val.json, or names with train and val in them (instances_train2017.json), here or in "
    "annotations/; train/_annotations.coco.json, train/labels.json; a single .json file; any of them as .json.gz",
    find=_find,
    guess=_guess,
    read=read_coco,
    write=_write,
    holds=frozenset({"polygons", "masks", "crowd", "category ids", "image ids"}),
)
