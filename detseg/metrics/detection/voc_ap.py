"""Average precision as the Pascal VOC challenges measured it, by the rules of their development kit.

One IoU threshold. Detections of a class are taken from the highest score down, all images together, equal
scores as given. Each is compared with the object of its class and image that it overlaps most, and with no
other: below the threshold it is false; if the object is `difficult` it is ignored; if the object was found
before it is false; otherwise it is right. Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC)
Challenge"; Everingham et al. 2015 for the area under the curve, in use since 2010.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.arrays import none_for_nan
from detseg.metrics.detection.inputs import Detections, read_found, read_truth
from detseg.metrics.detection.layout import lay_out
from detseg.metrics.detection.loops import HIT, IGNORED, MISS, match_voc
from detseg.metrics.detection.matching import find_box_pairs

VocMethod = Literal["area", "11-point"]


@dataclass(frozen=True, eq=False)
class VocClass:
    """One class; n of its detections count, best score first."""

    name: str
    category_id: int
    ap: float  # NaN without objects
    objects: int  # without difficult ones
    difficult: int
    recall: NDArray[np.float64]  # (n,) NaN without objects
    precision: NDArray[np.float64]  # (n,)
    scores: NDArray[np.float64]  # (n,)


@dataclass(frozen=True, eq=False)
class VocMetrics:
    """Metrics of a set of detections."""

    method: VocMethod
    iou_threshold: float
    per_class: tuple[VocClass, ...]  # (K,) in the order of the ground truth's categories

    @property
    def map(self) -> float:
        """Mean AP of the classes with objects; NaN if there are none."""
        values = [row.ap for row in self.per_class if not math.isnan(row.ap)]
        return sum(values) / len(values) if values else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain Python for `json.dump`, NaN as None; without the curves."""
        columns = ("name", "category_id", "ap", "objects", "difficult")
        rows = [{name: getattr(row, name) for name in columns} for row in self.per_class]
        content = {"method": self.method, "iou_threshold": self.iou_threshold, "map": self.map, "per_class": rows}
        return none_for_nan(content)


def evaluate_voc(
    ground_truth: str | Path | dict[str, Any] | Any,
    detections: str | Path | list[dict[str, Any]] | Detections,
    *,
    iou_threshold: float = 0.5,
    method: VocMethod = "area",
    plus_one: bool = False,
) -> VocMetrics:
    """Compare detections with the ground truth the Pascal VOC way.

    Args:
        ground_truth, detections: as for `evaluate_detections`; `iscrowd` marks the difficult objects.
        iou_threshold: an IoU of this and more is right, in (0, 1].
        method: "area" under the precision envelope (VOC 2010 to 2012), or the mean of the best precisions at
            the "11-point" recalls 0, 0.1, … 1 (VOC 2007). A recall of exactly 3 in 10 reaches 0.3 here.
        plus_one: the last pixel belongs to the box, width = x2 - x1 + 1: for boxes that were copied from VOC files as
            they stand. For those that detseg read from them False gives the development kit's figures.

    Raises:
        ValueError: as for `evaluate_detections`.
    """
    if method not in ("area", "11-point"):
        raise ValueError(f"method must be 'area' or '11-point', got {method!r}")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie above 0 and not above 1, got {iou_threshold}")
    truth = read_truth(ground_truth, "bbox")
    found = read_found(detections, truth, "bbox")
    if plus_one:  # boxes one pixel wider and higher: overlaps and areas then are the devkit's
        wider = np.array([0.0, 0.0, 1.0, 1.0])
        truth, found = replace(truth, boxes=truth.boxes + wider), replace(found, boxes=found.boxes + wider)
    layout = lay_out(truth, found, ties_by_image=False)
    status = np.full(len(layout.source), MISS, np.int8)
    overlaps_like_any = np.zeros(len(layout.objects), np.bool_)  # so do difficult objects
    pairs = find_box_pairs(truth, found, layout, overlaps_like_any, float(iou_threshold))
    match_voc(layout.places, pairs, truth.iscrowd[layout.objects], status)
    objects, difficult = (
        np.bincount(layout.object_labels[these], minlength=len(truth.names))
        for these in (~truth.iscrowd, truth.iscrowd)
    )
    rows = []
    for k, name in enumerate(truth.names):
        of_class = slice(layout.label_start[k], layout.label_start[k + 1])
        counted = status[of_class] != IGNORED
        hits = (status[of_class][counted] == HIT).cumsum()
        count = int(objects[k])
        recall = hits / count if count else np.full(len(hits), np.nan)
        precision = hits / np.arange(1, len(hits) + 1)
        rows.append(
            VocClass(
                name=name,
                category_id=int(truth.category_ids[k]),
                ap=_average_precision(recall, precision, method) if count else math.nan,
                objects=count,
                difficult=int(difficult[k]),
                recall=recall,
                precision=precision,
                scores=found.scores[layout.source[of_class][counted]],
            )
        )
    return VocMetrics(method, float(iou_threshold), tuple(rows))


def _average_precision(recall: NDArray[np.float64], precision: NDArray[np.float64], method: VocMethod) -> float:
    """AP of a class from its curve (n,), best score first."""
    # The best precision at this recall or beyond; 0 behind the last.
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    if method == "11-point":
        # Quotients, not multiples of 0.1: 3 / 10 is the very number that 3 objects of 10 give.
        at = np.searchsorted(recall, np.arange(11) / 10)
        return float(envelope[at].mean())
    return float((np.diff(recall, prepend=0.0) * envelope[:-1]).sum())
