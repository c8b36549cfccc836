"""Ground truth and detections, from whatever form they come in, checked and brought to flat arrays.

Ground truth: a COCO JSON file, its content as a dict, or `detseg.data.Annotations`.
Detections: a COCO results JSON file, its content as a list of dicts, or `Detections`.
Boxes stay (x, y, width, height) in float64 here, as COCO files have them: going to corners and back would
cost the last digit, and an IoU that equals a threshold would fall to the other side.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detseg import json_text
from detseg.data import coco_json
from detseg.data.coco_ids import NUMBERS, TextIds
from detseg.data.coco_json import FoundColumns, TruthColumns
from detseg.metrics.arrays import as_numpy
from detseg.metrics.detection import records
from detseg.metrics.detection.batches import prediction_columns
from detseg.metrics.detection.records import Label, Rle, to_xywh, whole_numbers
from detseg.metrics.detection.run_lengths import mask_areas

IoUType = Literal["bbox", "segm", "boundary"]
"""What is compared: boxes, masks, or masks and their boundaries."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in many images, as flat arrays over D detections, in any order.

    `image_ids` and `category_ids` are the dataset's own ids, not positions; boxes are xyxy in the images'
    pixels. Lists and torch tensors are turned into arrays; ValueError is raised where lengths differ.
    """

    image_ids: NDArray[np.int64]  # (D,)
    category_ids: NDArray[np.int64]  # (D,)
    boxes: NDArray[np.float64]  # (D, 4) xyxy
    scores: NDArray[np.float64]  # (D,)
    masks: Sequence[Rle] | None = None  # (D,) COCO run lengths, unless iou_type="bbox"

    def __post_init__(self) -> None:
        count = len(self.scores)
        for name, shape in {"image_ids": (), "category_ids": (), "boxes": (4,), "scores": ()}.items():
            values = getattr(self, name)
            whole = name in ("image_ids", "category_ids")
            values = whole_numbers(values, f"Detections.{name}") if whole else as_numpy(values).astype(np.float64)
            values = values if values.size else values.reshape(0, *shape)
            if values.shape != (count, *shape):
                raise ValueError(
                    f"Detections.{name} must have shape {(count, *shape)} like the scores, got {values.shape}"
                )
            object.__setattr__(self, name, values)
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"Detections.masks must have {count} entries, got {len(self.masks)}")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_predictions(
        cls, predictions: Iterable[Mapping[str, Any]], image_ids: Iterable[int], category_ids: Sequence[int]
    ) -> "Detections":
        """From one prediction an image, as a model returns it (torch or numpy).

        Args:
            predictions: dicts of `boxes` (M, 4) xyxy, `scores` (M,), `labels` (M,) in 0..K-1 and, for all images with
                detections or for none, `masks`: (M, H, W) bool or whole numbers, or M COCO run lengths.
            image_ids, category_ids: the dataset's own ids of the images, and of the labels (K,).

        Raises ValueError where a prediction is missing or at fault; the message names the image.
        """
        ids, rows = whole_numbers(list(image_ids), "image_ids"), list(predictions)
        if len(rows) != len(ids):
            raise ValueError(f"{len(rows)} predictions for {len(ids)} image ids: give one for each image")
        columns = prediction_columns(rows, ids, len(category_ids), masks=any("masks" in row for row in rows))
        owners, labels = np.repeat(ids, columns["counts"]), columns["labels"]
        categories = np.array(category_ids, dtype=np.int64)[labels]
        return cls(owners, categories, columns["boxes"], columns["scores"], columns.get("masks"))

    def to_results(self) -> list[dict[str, Any]]:
        """The same as COCO results, ready for `json.dump`: image_id, category_id, bbox (xywh), score."""
        columns = [c.tolist() for c in (self.image_ids, self.category_ids, to_xywh(self.boxes), self.scores)]
        names = ("image_id", "category_id", "bbox", "score")
        results = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        for result, mask in zip(results, self.masks or (), strict=False):
            counts = mask["counts"]
            text = counts.decode("ascii") if isinstance(counts, bytes) else counts
            result["segmentation"] = {"size": list(mask["size"]), "counts": text}
        return results


@dataclass(frozen=True, eq=False)
class Truth:
    """Checked ground truth: N images, K categories, M objects."""

    image_ids: NDArray[np.int64]  # (N,)
    sizes: list[tuple[int, int]]  # (N,) height, width; 0 where unknown
    category_ids: NDArray[np.int64]  # (K,) in the dataset's own order
    names: tuple[str, ...]  # (K,)
    object_images: NDArray[np.int64]  # (M,) image ids
    object_categories: NDArray[np.int64]  # (M,) category ids
    boxes: NDArray[np.float64]  # (M, 4) xywh
    areas: NDArray[np.float64]  # (M,) decides between small, medium and large
    iscrowd: NDArray[np.bool_]  # (M,)
    masks: Sequence[Rle] | None  # (M,), not for bbox
    image_texts: TextIds = NUMBERS
    category_texts: TextIds = NUMBERS


@dataclass(frozen=True, eq=False)
class Found:
    """Checked detections, D of them, all of known images and categories."""

    image_ids: NDArray[np.int64]  # (D,)
    category_ids: NDArray[np.int64]  # (D,)
    boxes: NDArray[np.float64]  # (D, 4) xywh
    areas: NDArray[np.float64]  # (D,)
    scores: NDArray[np.float64]  # (D,)
    masks: Sequence[Rle] | None  # (D,), not for bbox


def check_iou_type(iou_type: str) -> None:
    """Raise ValueError for another type than those of `IoUType`."""
    if iou_type not in get_args(IoUType):
        *names, last = map(repr, get_args(IoUType))
        raise ValueError(f"iou_type must be {', '.join(names)} or {last}, got {iou_type!r}")


# ------------------------------------------------------------------ ground truth


def read_truth(ground_truth: Any, iou_type: IoUType) -> Truth:
    """Ground truth in any of its forms, or read already; raises ValueError that names file, item and what is wrong."""
    if isinstance(ground_truth, Truth):
        return ground_truth
    place = "ground truth"
    if isinstance(ground_truth, str | Path):
        place = str(ground_truth)
        content = json_text.read_bytes(Path(ground_truth))
        columns = coco_json.quick_truth(content, iou_type != "bbox")
        if columns is not None:
            with suppress(ValueError):  # below it happens again, with the item's own id in the message
                _check_lists(columns.image_ids, columns.category_ids, place)
                if columns.boxes is None:
                    records.check_sizes(columns.sizes, columns.image_ids, place)
                return _checked_truth(columns, label=str)
        ground_truth = json_text.parse_json(content, place)
    if isinstance(ground_truth, dict):
        return _truth_from_coco(ground_truth, place, iou_type)
    if isinstance(ground_truth, list):
        raise ValueError(
            f"{place} holds a list, as detections do; ground truth is a COCO dict of images, annotations and "
            "categories (were the two exchanged?)"
        )
    if not hasattr(ground_truth, "image_index"):
        raise ValueError(
            f"{place} must be a path to COCO JSON, a COCO dict or detseg.data.Annotations, got "
            f"{type(ground_truth).__name__}"
        )
    return _truth_from_annotations(ground_truth, iou_type)


def _truth_from_coco(content: dict[str, Any], place: str, iou_type: IoUType) -> Truth:
    for part in ("images", "annotations", "categories"):
        if not isinstance(content.get(part), list):
            raise ValueError(f"{place}: no list {part!r}; it has {', '.join(map(str, content)) or 'nothing'}")
    images, objects, categories = content["images"], content["annotations"], content["categories"]
    image_ids, image_texts = records.own_ids(images, f"{place}: images")
    category_ids, category_texts = records.own_ids(categories, f"{place}: categories")
    where = f"{place}: annotations"

    def label(i: int) -> str:
        return f"{where}[{i}] (id {objects[i].get('id', 'missing')})"

    # Before the boxes: a list of images that is empty explains more than what follows from it.
    _check_lists(image_ids, category_ids, place)
    sizes = [_size(image, f"{place}: images[{i}]") for i, image in enumerate(images)]
    if iou_type != "bbox":
        records.check_sizes(sizes, image_ids, place)
    columns = TruthColumns(
        image_ids=image_ids,
        sizes=sizes,
        category_ids=category_ids,
        names=tuple(str(c.get("name", c["id"])) for c in categories),
        object_images=records.read_ids(objects, "image_id", where, image_texts),
        object_categories=records.read_ids(objects, "category_id", where, category_texts),
        boxes=records.read_boxes(objects, label) if iou_type == "bbox" else None,
        outlines=[item.get("segmentation") for item in objects] if iou_type != "bbox" else None,
        areas=[item.get("area") for item in objects],
        iscrowd=np.array([_is_crowd(item, label, i) for i, item in enumerate(objects)], dtype=bool),
        image_texts=image_texts,
        category_texts=category_texts,
    )
    return _checked_truth(columns, label)


def _size(image: dict[str, Any], place: str) -> tuple[int, int]:
    try:
        return int(image.get("height") or 0), int(image.get("width") or 0)
    except (TypeError, ValueError, OverflowError):
        sides = f"{image.get('width')!r:.40} x {image.get('height')!r:.40}"
        raise ValueError(f"{place}: width and height must be whole numbers, got {sides}") from None


def _is_crowd(item: dict[str, Any], label: Label, i: int) -> bool:
    """Some tools write "0" for 0, and null."""
    try:
        return int(item.get("iscrowd") or 0) != 0
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{label(i)}: iscrowd must be 0 or 1, got {item['iscrowd']!r:.80}") from None


def _truth_from_annotations(annotations: Any, iou_type: IoUType) -> Truth:
    place = getattr(annotations, "source", "") or "ground truth"
    image_ids = np.asarray(annotations.image_ids, dtype=np.int64)
    category_ids = np.array([category.id for category in annotations.categories], dtype=np.int64)
    _check_lists(image_ids, category_ids, place)

    def label(i: int) -> str:
        return f"{place}: object {annotations.ids[i]}"

    labels = np.asarray(annotations.labels, dtype=np.int64)
    records.check_known(labels, np.arange(len(category_ids)), label, "label", "there is no such category")
    sizes = [(int(height), int(width)) for width, height in np.asarray(annotations.sizes).tolist()]
    masks = None
    if iou_type != "bbox":
        records.check_sizes(sizes, image_ids, place)
        owners, segments = annotations.image_index.tolist(), annotations.segments
        masks = [None if segments is None else segments.rle(i, *sizes[image]) for i, image in enumerate(owners)]
    columns = TruthColumns(
        image_ids=image_ids,
        sizes=sizes,
        category_ids=category_ids,
        names=tuple(annotations.names),
        object_images=image_ids[annotations.image_index],
        object_categories=category_ids[labels],
        boxes=to_xywh(np.asarray(annotations.boxes, dtype=np.float64)) if masks is None else None,
        outlines=masks,
        areas=annotations.areas,
        iscrowd=np.asarray(annotations.iscrowd, dtype=bool),
        image_texts=getattr(annotations, "image_texts", NUMBERS),
        category_texts=getattr(annotations, "category_texts", NUMBERS),
    )
    return _checked_truth(columns, label)


def _checked_truth(columns: TruthColumns, label: Label) -> Truth:
    c = columns
    records.check_known(c.object_images, c.image_ids, label, "image_id", "the file lists no such image")
    records.check_known(c.object_categories, c.category_ids, label, "category_id", "the file lists no such category")
    masks, boxes, areas = None, c.boxes, c.areas
    if boxes is None:
        masks = records.read_masks(c.outlines or [], c.object_images, c, label)
        boxes = np.zeros((len(masks), 4))  # not used
    else:
        records.check_boxes(boxes, label)
    if None in areas:
        with np.errstate(over="ignore"):  # an area that is not finite is told below
            measured = (boxes[:, 2] * boxes[:, 3] if masks is None else mask_areas(masks)).tolist()
        areas = [m if area is None else area for area, m in zip(areas, measured, strict=True)]
    same = ("image_ids", "sizes", "category_ids", "names", "object_images", "object_categories", "iscrowd")
    values = {name: getattr(c, name) for name in (*same, "image_texts", "category_texts")}
    return Truth(**values, boxes=boxes, areas=records.read_numbers(areas, label, "area"), masks=masks)


def _check_lists(image_ids: NDArray[np.int64], category_ids: NDArray[np.int64], place: str) -> None:
    for what, ids in (("images", image_ids), ("categories", category_ids)):
        if len(ids) == 0:
            raise ValueError(f"{place}: it lists no {what}, so there is nothing to evaluate")
        values, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"{place}: {what}: the id {values[counts > 1][0]} appears more than once")


# ------------------------------------------------------------------ detections


def read_found(detections: Any, truth: Truth, iou_type: IoUType) -> Found:
    """Detections in any of their forms; raises ValueError that names the file, the item and what is wrong."""
    place, masks = "detections", iou_type != "bbox"
    if isinstance(detections, str | Path):
        place = str(detections)
        content = json_text.read_buffer(Path(detections))
        columns = coco_json.quick_results(content, masks)
        if columns is not None:
            return _checked_found(columns, truth, place)
        detections = json_text.parse_json(bytes(content), place)
    if isinstance(detections, Detections):
        d, every = detections, np.arange(len(detections))
        outlines = None if not masks else [None] * len(d) if d.masks is None else d.masks
        columns = FoundColumns(d.image_ids, d.category_ids, d.scores, every, to_xywh(d.boxes), outlines)
    elif isinstance(detections, list):
        columns = _result_columns(detections, truth, place, masks)
    else:
        raise ValueError(
            f"{place} must hold a list of COCO results (image_id, category_id, bbox, score), got "
            f"{type(detections).__name__}"
        )
    return _checked_found(columns, truth, place)


def _result_columns(results: list[Any], truth: Truth, place: str, masks: bool) -> FoundColumns:
    def label(i: int) -> str:
        return f"{place}[{i}]"

    image_ids = records.read_ids(results, "image_id", place, truth.image_texts, in_results=True)
    category_ids = records.read_ids(results, "category_id", place, truth.category_texts, in_results=True)
    scores = records.read_numbers(records.read_column(results, "score", label), label, "score")
    boxed, chosen = list(range(len(results))), results
    if masks:
        boxed = [i for i, result in enumerate(results) if result.get("bbox")]
        chosen = [results[i] for i in boxed]
    boxes = records.read_boxes(chosen, lambda row: label(boxed[row]))
    outlines = [result.get("segmentation") for result in results] if masks else None
    return FoundColumns(image_ids, category_ids, scores, np.array(boxed, dtype=np.int64), boxes, outlines)


def _checked_found(columns: FoundColumns, truth: Truth, place: str) -> Found:
    def label(i: int) -> str:
        return f"{place}[{i}]"

    c = columns
    records.read_numbers(c.scores, label, "score")
    remedy = "the ground truth lists no such image (another split?)"
    records.check_known(c.image_ids, truth.image_ids, label, "image_id", remedy)
    known = ", ".join(map(str, truth.category_ids[:10])) + (", …" if len(truth.category_ids) > 10 else "")
    remedy = f"the ground truth lists no such category; it has {known}"
    records.check_known(c.category_ids, truth.category_ids, label, "category_id", remedy)
    records.check_boxes(c.boxes, lambda row: label(int(c.boxed[row])))
    with np.errstate(over="ignore"):
        boxes, areas, masks = c.boxes, c.boxes[:, 2] * c.boxes[:, 3], None
    if c.outlines is not None:
        masks = records.read_masks(c.outlines, c.image_ids, truth, label)
        boxes = np.zeros((len(masks), 4))  # not used
        # As COCO's own loadRes has it: a box given beside the mask decides about small, medium and large.
        if len(c.boxed) < len(masks):
            measured = mask_areas(masks)
            measured[c.boxed] = areas
            areas = measured
    return Found(c.image_ids, c.category_ids, boxes, areas, c.scores, masks)
