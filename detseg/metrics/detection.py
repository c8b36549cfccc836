"""How good are these detections? COCO average precision: the 12 figures, per class, and the curves.

The figures are pycocotools' own. One thing is mended: pycocotools takes an annotation with the id 0 for "not
matched", so that even perfect detections of it count as false; here the ids play no part.
"""

import contextlib
import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.inputs import Detections, Found, IoUType, Truth, read_found, read_truth

__all__ = [
    "FIGURES",
    "ClassMetrics",
    "DetectionMetrics",
    "Detections",
    "PrecisionRecall",
    "evaluate_detections",
]

# The 12 figures in COCO's order. AP: mean over IoU 0.50, 0.55, … 0.95; AR1, AR10, AR100: recall with at most
# so many detections a picture and class; small up to 32², medium up to 96² square pixels.
FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)


@dataclass(frozen=True)
class ClassMetrics:
    """One class. The figures are NaN when it has no objects; crowd regions do not count as objects."""

    name: str
    category_id: int
    ap: float  # mean over the IoU thresholds
    ap50: float
    ar: float  # mean recall with at most 100 detections a picture
    objects: int
    pictures: int  # pictures with at least one of the objects


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision at R = 101 levels of recall, for T IoU thresholds and K classes.

    A precision is the best one at this recall or any higher, 0 where the recall is never reached, and NaN for
    a class without objects.
    """

    recall: NDArray[np.float64]  # (R,) 0, 0.01, … 1
    precision: NDArray[np.float64]  # (T, K, R)
    scores: NDArray[np.float64]  # (T, K, R) score of the detection that first reaches the recall
    mean: NDArray[np.float64]  # (T, R) over the classes


@dataclass(frozen=True, eq=False)
class DetectionMetrics:
    """What `evaluate_detections` found.

    `stats` holds the 12 figures in COCO's order, -1 where there are no objects to judge by, exactly as
    pycocotools prints them; the properties and `figures()` say NaN there instead.
    """

    iou_type: IoUType
    stats: tuple[float, ...]  # (12,), see FIGURES
    per_class: tuple[ClassMetrics, ...]  # (K,) in the order of the ground truth's categories
    precision_recall: PrecisionRecall
    iou_thresholds: NDArray[np.float64]  # (T,)
    pictures: int
    objects: int  # without crowd regions
    detections: int

    @property
    def map(self) -> float:
        """mAP@[.5:.95], the mean over classes and IoU thresholds."""
        return self.figures()["AP"]

    @property
    def map50(self) -> float:
        """mAP at IoU 0.50."""
        return self.figures()["AP50"]

    @property
    def map75(self) -> float:
        """mAP at IoU 0.75."""
        return self.figures()["AP75"]

    def figures(self) -> dict[str, float]:
        """The 12 figures by name; NaN where there is nothing to judge by."""
        return {n: math.nan if v == -1 else v for n, v in zip(FIGURES, self.stats, strict=True)}

    def to_dict(self, *, curves: bool = False) -> dict[str, Any]:
        """Everything as plain Python for `json.dump`, NaN as None; `curves` adds those of every class."""
        curve = self.precision_recall
        content: dict[str, Any] = {
            "iou_type": self.iou_type,
            "pictures": self.pictures,
            "objects": self.objects,
            "detections": self.detections,
            "stats": list(self.stats),
            "figures": self.figures(),
            "per_class": [asdict(row) for row in self.per_class],
            "iou_thresholds": self.iou_thresholds.tolist(),
            "precision_recall": {"recall": curve.recall.tolist(), "mean": curve.mean.tolist()},
        }
        if curves:
            content["precision_recall"] |= {
                "precision": curve.precision.tolist(),
                "scores": curve.scores.tolist(),
            }
        without_nan: dict[str, Any] = _none_for_nan(content)
        return without_nan


def evaluate_detections(
    ground_truth: str | Path | dict[str, Any] | Any,
    detections: str | Path | list[dict[str, Any]] | Detections,
    iou_type: IoUType = "bbox",
) -> DetectionMetrics:
    """Compare detections with the ground truth the COCO way.

    Args:
        ground_truth: path to a COCO JSON file, its content as a dict, or `detseg.data.Annotations`.
        detections: path to a COCO results JSON file, its content as a list of dicts, or `Detections`. None at
            all is fine and gives zeros.
        iou_type: "bbox" compares boxes; "segm" compares masks, where both sides have a `segmentation`.

    Raises:
        ValueError: a file cannot be read, lacks something, holds NaN, or the detections belong to images or
            categories that the ground truth does not list; the message names the item.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type must be 'bbox' or 'segm', got {iou_type!r}")
    truth = read_truth(ground_truth, iou_type)
    found = read_found(detections, truth, iou_type)
    return _collect(_run_pycocotools(truth, found, iou_type), truth, found, iou_type)


def _run_pycocotools(truth: Truth, found: Found, iou_type: IoUType) -> Any:
    """A COCOeval that has evaluated, accumulated and summarised, without a word on stdout."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [
        {"id": i, "height": height, "width": width}
        for i, (height, width) in zip(truth.image_ids.tolist(), truth.sizes, strict=True)
    ]
    categories = [{"id": i} for i in truth.category_ids.tolist()]
    objects = _records(truth.object_images, truth.object_categories, truth.boxes, truth.areas, truth.masks)
    for record, crowd in zip(objects, truth.iscrowd.tolist(), strict=True):
        record["iscrowd"] = int(crowd)
    results = _records(found.image_ids, found.category_ids, found.boxes, found.areas, found.masks)
    for record, score in zip(results, found.scores.tolist(), strict=True):
        record |= {"iscrowd": 0, "score": score}
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (objects, results):
            side = COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        evaluator = COCOeval(*sides, iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _records(
    image_ids: NDArray[np.int64],
    category_ids: NDArray[np.int64],
    boxes: NDArray[np.float64],
    areas: NDArray[np.float64],
    masks: list[Any] | None,
) -> list[dict[str, Any]]:
    columns = zip(image_ids.tolist(), category_ids.tolist(), boxes.tolist(), areas.tolist(), strict=True)
    # Ids from 1: to pycocotools a match with the id 0 is no match.
    records = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area}
        for number, (image, category, box, area) in enumerate(columns, start=1)
    ]
    for record, mask in zip(records, masks or (), strict=False):
        record["segmentation"] = mask
    return records


def _collect(evaluator: Any, truth: Truth, found: Found, iou_type: IoUType) -> DetectionMetrics:
    """From pycocotools' arrays, classes sorted by id and -1 for nothing, to ours, in the dataset's order."""
    order = np.searchsorted(np.sort(truth.category_ids), truth.category_ids)
    whole, most = 0, 2  # area range "all" and 100 detections a picture

    def curves(name: str) -> NDArray[np.float64]:  # (T, R, K, areas, limits) to (T, K, R)
        return evaluator.eval[name][:, :, order, whole, most].transpose(0, 2, 1)

    precision, scores = curves("precision"), curves("scores")
    nothing = precision == -1
    precision, scores = np.where(nothing, np.nan, precision), np.where(nothing, np.nan, scores)
    recall = evaluator.eval["recall"][:, order, whole, most]  # (T, K)
    with_objects = ~nothing.all(axis=(0, 2))
    size = (precision.shape[0], precision.shape[2])
    mean = precision[:, with_objects].mean(axis=1) if with_objects.any() else np.full(size, np.nan)
    objects, pictures = _counts(truth)
    per_class = tuple(
        ClassMetrics(
            name=name,
            category_id=int(truth.category_ids[k]),
            ap=float(precision[:, k].mean()),
            ap50=float(precision[0, k].mean()),
            ar=float(recall[:, k].mean()) if with_objects[k] else math.nan,
            objects=int(objects[k]),
            pictures=int(pictures[k]),
        )
        for k, name in enumerate(truth.names)
    )
    return DetectionMetrics(
        iou_type=iou_type,
        stats=tuple(float(value) for value in evaluator.stats),
        per_class=per_class,
        precision_recall=PrecisionRecall(np.asarray(evaluator.params.recThrs), precision, scores, mean),
        iou_thresholds=np.asarray(evaluator.params.iouThrs),
        pictures=len(truth.image_ids),
        objects=int(objects.sum()),
        detections=len(found.scores),
    )


def _counts(truth: Truth) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Objects (K,) and pictures with them (K,), without crowd regions."""
    real = ~truth.iscrowd
    order = np.argsort(truth.category_ids)
    labels = order[np.searchsorted(truth.category_ids, truth.object_categories[real], sorter=order)]
    pairs = np.unique(np.stack([labels, truth.object_images[real]], axis=1), axis=0)
    count = len(truth.names)
    return np.bincount(labels, minlength=count), np.bincount(pairs[:, 0], minlength=count)


def _none_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _none_for_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_none_for_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
