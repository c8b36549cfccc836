"""COCO JSON as records and as columns: the one reader of such files, for annotations and for evaluation.

Format: https://cocodataset.org/#format-data
"""

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from detseg.data.checks.problems import AnnotationError, Problem
from detseg.data.coco_ids import MISSING, NUMBERS, TextIds, as_number
from detseg.json_text import ODD_JSON, parse_json, read_bytes

Id = int | str  # see `detseg.data.coco_ids`
Box = tuple[float, float, float, float]  # x, y, width, height
T = TypeVar("T")


# ------------------------------------------------------------------ records


class CocoImage(msgspec.Struct, gc=False):
    """An entry of `images`; `file_name` may hold folders."""

    id: Id
    file_name: str = ""
    width: int | None = 0
    height: int | None = 0


class CocoCategory(msgspec.Struct, gc=False):
    """An entry of `categories`."""

    id: Id
    name: str


class CocoRle(msgspec.Struct, gc=False):
    """A run-length mask: `size` is height, width; `counts` are compressed (text) or plain."""

    size: tuple[int, int]
    counts: str | list[int]


class CocoAnnotation(msgspec.Struct, gc=False):
    """An entry of `annotations`, with all that may be missing."""

    image_id: Id
    category_id: Id
    bbox: Box | None = None
    id: Id | None = MISSING
    area: float | None = None
    iscrowd: bool | int | None = 0
    segmentation: list[list[float]] | CocoRle | None = None


class OtherNames(msgspec.Struct, gc=False):
    """What an entry of `images` may have in place of `file_name`."""

    coco_url: Any = None
    filename: Any = None
    name: Any = None
    path: Any = None


class CocoFile(msgspec.Struct, Generic[T], gc=False):
    """A whole file, its annotations in one of the forms of this page or still unread."""

    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[T] | None = None
    other_names: list[OtherNames] | None = None  # of every image, where one has no file_name


class _ImageNames(msgspec.Struct, gc=False):
    images: list[OtherNames]


class _Boxed(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: Box
    area: float | None = None
    iscrowd: bool | int = 0


class _Masked(msgspec.Struct):
    image_id: int
    category_id: int
    segmentation: Any
    area: float | None = None
    iscrowd: bool | int = 0


class _BoxResult(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    score: float
    bbox: Box


class _MaskResult(msgspec.Struct):
    image_id: int
    category_id: int
    score: float
    segmentation: Any
    bbox: Box | None = None


_UNREAD = msgspec.json.Decoder(CocoFile[msgspec.Raw])
_MANY = msgspec.json.Decoder(list[CocoAnnotation])
_BOXED_TRUTH, _MASKED_TRUTH = msgspec.json.Decoder(CocoFile[_Boxed]), msgspec.json.Decoder(CocoFile[_Masked])
_BOX_RESULTS, _MASK_RESULTS = msgspec.json.Decoder(list[_BoxResult]), msgspec.json.Decoder(list[_MaskResult])


# ------------------------------------------------------------------ annotations with all their faults


def load_file(path: Path) -> CocoFile[Any]:
    """The file's parts, its annotations unread: JSON texts, or what these hold; see `parse_chunk`."""
    content = read_bytes(path)
    file: CocoFile[Any] | None = None
    with contextlib.suppress(*ODD_JSON):
        file = _UNREAD.decode(content)
    parts: dict[str, Any] = {}
    if file is None:
        parts = _parts(parse_json(content, path), path)
        images = [_convert(item, CocoImage, f"{path}: images[{i}]") for i, item in enumerate(parts["images"])]
        categories = [
            _convert(item, CocoCategory, f"{path}: categories[{i}]") for i, item in enumerate(parts["categories"])
        ]
        file = CocoFile(images, categories, parts.get("annotations"))
    if file.annotations and "segments_info" in _keys(file.annotations[0], f"{path}: annotations[0]"):
        raise AnnotationError(
            f"{path}: is a COCO panoptic file, whose masks lie in PNG files of their own; give the file of instances "
            "of the same images (instances_train2017.json for panoptic_train2017.json)"
        )
    file.other_names = None  # whatever a key of this name holds
    if not all(image.file_name for image in file.images):
        names = msgspec.convert(parts, _ImageNames) if parts else msgspec.json.decode(content, type=_ImageNames)
        file.other_names = names.images
    return file


def _parts(parsed: Any, path: Path) -> dict[str, Any]:
    if isinstance(parsed, list):
        raise AnnotationError(
            f"{path}: holds a list, as COCO detection results do. Annotations are an object with "
            '"images", "annotations" and "categories"'
        )
    parts = parsed if isinstance(parsed, dict) else {}
    for key in ("images", "categories", "annotations"):
        if not isinstance(parts.get(key), list) and (key != "annotations" or parts.get(key) is not None):
            raise AnnotationError(f'{path}: no list "{key}"; this is not a COCO annotation file')
    return parts


def _keys(item: Any, place: str) -> Sequence[str]:
    parsed = parse_json(bytes(item), place) if isinstance(item, msgspec.Raw) else item
    return list(parsed) if isinstance(parsed, dict) else []


def _convert(item: Any, kind: type[T], place: str) -> T:
    try:
        return msgspec.convert(item, kind, strict=False)
    except msgspec.ValidationError as error:
        raise AnnotationError(f"{place}: {error}") from error


OddObject = tuple[Problem, Id | None]  # with the image id that the file gives for it


def parse_chunk(items: Sequence[Any], start: int, path: Path, odd: list[OddObject]) -> list[CocoAnnotation]:
    """Read annotations, the first of which is number `start`; adds what is wrong with them to `odd`."""
    if items and isinstance(items[0], msgspec.Raw):
        with contextlib.suppress(*ODD_JSON):
            return _MANY.decode(b"[" + b",".join(items) + b"]")
        items = [parse_json(bytes(item), f"{path}: annotations[{i}]") for i, item in enumerate(items, start)]
    parsed = (_parse_leniently(item, position, path, odd) for position, item in enumerate(items, start))
    return [annotation for annotation in parsed if annotation is not None]


def _parse_leniently(fields: Any, position: int, path: Path, odd: list[OddObject]) -> CocoAnnotation | None:
    """Read an annotation with odd types (numbers as text); without a usable segmentation if that is the fault."""
    fields = _as_meant(fields)
    try:
        return msgspec.convert(fields, CocoAnnotation, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error)
    known = fields if isinstance(fields, dict) else {}
    number = v if type(v := as_number(known.get("id"))) is int else None
    image_id = v if isinstance(v := known.get("image_id"), int | str) else None
    what = f"annotations[{position}] is malformed: {reason}"
    malformed = Problem(str(path), "", number, what, "correct or remove it", kind="malformed-object")
    if "$.segmentation" in reason and known.get("bbox"):
        remedy = "correct the segmentation; the object keeps only its box"
        outline = replace(malformed, remedy=remedy, severity="warning", kind="malformed-outline")
        odd.append((outline, image_id))
        rest = {key: value for key, value in known.items() if key != "segmentation"}
        return _parse_leniently(rest, position, path, odd)
    odd.append((malformed, image_id))
    return None


def _as_meant(fields: Any) -> Any:
    """An annotation without what some tools write in other words: no box as [], an id that is none, other polygons."""
    if not isinstance(fields, dict):
        return fields
    fields = {key: value for key, value in fields.items() if key != "bbox" or value != []}
    if "id" in fields and type(fields["id"]) not in (int, str) and not _is_whole(fields["id"]):
        del fields["id"]
    if isinstance(fields.get("segmentation"), list):
        fields["segmentation"] = as_polygons(fields["segmentation"])
    return fields


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def as_polygons(segmentation: list[Any]) -> list[Any]:
    """Polygons as COCO has them, [[x, y, x, y, ...], ...], from a single one, from points [[x, y], ...] or lists of
    points; anything else as it is.
    """
    if len(segmentation) >= 6 and all(isinstance(value, int | float) for value in segmentation):
        return [segmentation]
    if len(segmentation) >= 3 and all(_is_point(value) for value in segmentation):
        return [[*chain.from_iterable(segmentation)]]
    if segmentation and all(isinstance(part, list) and part and all(map(_is_point, part)) for part in segmentation):
        return [[*chain.from_iterable(part)] for part in segmentation]
    return segmentation


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)


# ------------------------------------------------------------------ columns


@dataclass(frozen=True, eq=False)
class TruthColumns:
    """What a COCO file of N images, K categories and M annotations says, not yet checked."""

    image_ids: NDArray[np.int64]  # (N,)
    sizes: list[tuple[int, int]]  # (N,) height, width; 0 where unknown
    category_ids: NDArray[np.int64]  # (K,)
    names: tuple[str, ...]  # (K,)
    object_images: NDArray[np.int64]  # (M,)
    object_categories: NDArray[np.int64]  # (M,)
    boxes: NDArray[np.float64] | None  # (M, 4) xywh; None when masks are compared
    outlines: list[Any] | None  # (M,) `segmentation`, when masks are compared
    areas: list[Any]  # (M,) None where not given
    iscrowd: NDArray[np.bool_]  # (M,)
    image_texts: TextIds = NUMBERS
    category_texts: TextIds = NUMBERS


@dataclass(frozen=True, eq=False)
class FoundColumns:
    """What a list of D COCO results says, not yet checked."""

    image_ids: NDArray[np.int64]  # (D,)
    category_ids: NDArray[np.int64]  # (D,)
    scores: NDArray[np.float64]  # (D,)
    boxed: NDArray[np.int64]  # (B,) the results with a box, all of them when boxes are compared
    boxes: NDArray[np.float64]  # (B, 4) xywh
    outlines: Sequence[Any] | None  # (D,) `segmentation`, when masks are compared


def quick_truth(content: bytes, masks: bool) -> TruthColumns | None:
    """The columns of a COCO file of annotations; None, for the caller to check item by item, if anything is wrong."""
    with contextlib.suppress(*ODD_JSON), _without_collector():
        truth: Any = _MASKED_TRUTH.decode(content) if masks else _BOXED_TRUTH.decode(content)
        objects = truth.annotations
        if objects is None or any(type(item.id) is str for item in chain(truth.images, truth.categories)):
            return None
        return TruthColumns(
            image_ids=column(truth.images, "id", np.int64),
            sizes=[(image.height or 0, image.width or 0) for image in truth.images],
            category_ids=column(truth.categories, "id", np.int64),
            names=tuple(category.name for category in truth.categories),
            object_images=column(objects, "image_id", np.int64),
            object_categories=column(objects, "category_id", np.int64),
            boxes=None if masks else box_column(map(attrgetter("bbox"), objects), len(objects)),
            outlines=[item.segmentation for item in objects] if masks else None,
            areas=[item.area for item in objects],
            iscrowd=column(objects, "iscrowd", np.bool_),
        )
    return None


def quick_results(content: bytearray, masks: bool) -> FoundColumns | None:
    """The columns of a COCO file of results; None unless everything is as it should be.

    Escapes in run lengths may be undone in `content`, where these stay.
    """
    from detseg.data.coco_scan import scan_results  # here: it loads numba

    scanned = scan_results(content, masks)
    if scanned is not None:
        s, rows = scanned, np.flatnonzero(scanned.has_box)
        boxes = s.boxes if len(rows) == len(s.boxes) else s.boxes[rows]
        return FoundColumns(s.image_ids, s.category_ids, s.scores, rows, boxes, s.masks)
    with contextlib.suppress(*ODD_JSON), _without_collector():
        items: Sequence[Any] = _MASK_RESULTS.decode(content) if masks else _BOX_RESULTS.decode(content)
        boxed = [i for i, item in enumerate(items) if item.bbox is not None] if masks else range(len(items))
        return FoundColumns(
            image_ids=column(items, "image_id", np.int64),
            category_ids=column(items, "category_id", np.int64),
            scores=column(items, "score", np.float64),
            boxed=np.array(boxed, dtype=np.int64),
            boxes=box_column((item.bbox for item in items if item.bbox is not None), len(boxed)),
            outlines=[item.segmentation for item in items] if masks else None,
        )
    return None


def column(items: Sequence[Any], name: str, kind: Any) -> NDArray[Any]:
    """(n,) the attribute of every record; raises OverflowError for whole numbers of more than 64 bits."""
    return np.fromiter(map(attrgetter(name), items), kind, len(items))


def box_column(boxes: Iterable[Box], count: int) -> NDArray[np.float64]:
    """(n, 4) from `count` tuples."""
    return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * count).reshape(count, 4)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's search for cycles pauses: a file makes a million objects and no cycle, and each is looked at often."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
