"""COCO average precision: the 12 figures, those of each class, and the precision-recall curves.

The figures are pycocotools' own but for one fault: pycocotools takes an annotation with the id 0 for "not matched",
so that even perfect detections of it count as false; here the ids play no part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.metrics.arrays import none_for_nan
from detseg.metrics.detection import loops as kernels
from detseg.metrics.detection.inputs import Detections, Found, IoUType, Truth, check_iou_type, read_found, read_truth
from detseg.metrics.detection.matching import MAX_DETECTIONS, Matches, match
from detseg.metrics.detection.reliability import ECE
from detseg.metrics.figure import Figure, figures_of


def coco_figures(max_detections: Sequence[int] = MAX_DETECTIONS) -> list[Figure]:
    """COCO's figures in its order, 9 and one for each of `max_detections`; the sizes are areas in square pixels."""
    sizes = {"small": "objects to 32² pixels", "medium": "to 96² pixels", "large": "above"}
    rows = [
        ("AP", "mAP@[.5:.95]", "mean AP of the classes over IoU .50 to .95"),
        ("AP50", "mAP@.50", "at IoU .50"),
        ("AP75", "mAP@.75", "at IoU .75"),
        *((f"AP_{size}", f"AP {size}", meaning) for size, meaning in sizes.items()),
        *((f"AR{n}", f"AR {n}", f"recall with at most {n} detections per image and class") for n in max_detections),
    ]
    sizes["small"] = f"with {max_detections[-1]}, {sizes['small']}"
    rows += [(f"AR_{size}", f"AR {size}", meaning) for size, meaning in sizes.items()]
    return [Figure(*row, methodcaller("coco", row[0])) for row in rows]


def figure_names(max_detections: Sequence[int]) -> tuple[str, ...]:
    """Names of COCO's figures in its order."""
    return tuple(figure.name for figure in coco_figures(max_detections))


def of_masks(figure: Figure) -> Figure:
    """A figure of the boxes for the masks, "mask_AP" for "AP"; NaN where no masks were compared."""

    def compute(metrics: DetectionMetrics) -> float:
        return math.nan if metrics.masks is None else figure.compute(metrics.masks)

    return Figure(f"mask_{figure.name}", f"mask {figure.title}", f"of masks: {figure.meaning}", compute)


FIGURES: list[Figure] = [*coco_figures(), ECE]
_COCO = frozenset(figure_names(MAX_DETECTIONS))


def figures_with(max_detections: Sequence[int]) -> list[Figure]:
    """`FIGURES`, with COCO's for these numbers of detections."""
    return coco_figures(max_detections) + [figure for figure in FIGURES if figure.name not in _COCO]


RECALL_LEVELS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ClassMetrics:
    """One class; NaN when it has no objects. Crowd regions do not count as objects."""

    name: str
    category_id: int
    ap: float  # mean over the IoU thresholds
    ap50: float
    ar: float  # mean recall with the most detections an image, COCO: 100
    objects: int
    images: int  # images with at least one of the objects
    figures: Mapping[str, float] = field(default_factory=dict)  # of this class, by the names of the 12


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
    """Metrics of a set of detections.

    `stats` holds the 12 figures in COCO's order, -1 where there are no objects, exactly as pycocotools prints them;
    the properties and `figures()` have NaN there instead. With other `max_detections` there are as many AR figures as
    numbers were given; AP50 and AP75 are NaN when their IoU is not among the thresholds.

    Where boxes and masks of the same detections were compared (`InstanceEvaluator`) these are the metrics of the boxes,
    and `masks` those of the masks; figures of the masks are called "mask_AP" and so on.
    """

    iou_type: IoUType
    stats: tuple[float, ...]  # (12,), see `figure_names`
    per_class: tuple[ClassMetrics, ...]  # (K,) in the order of the ground truth's categories
    precision_recall: PrecisionRecall
    iou_thresholds: NDArray[np.float64]  # (T,)
    images: int
    objects: int  # without crowd regions
    detections: int
    matches: Matches = field(repr=False)  # which detection found an object; not in `to_dict`
    masks: "DetectionMetrics | None" = field(default=None, repr=False)

    @property
    def map(self) -> float:
        """mAP@[.5:.95], the mean over classes and IoU thresholds."""
        return self.coco("AP")

    @property
    def map50(self) -> float:
        """mAP at IoU 0.50."""
        return self.coco("AP50")

    @property
    def map75(self) -> float:
        """mAP at IoU 0.75."""
        return self.coco("AP75")

    def coco(self, name: str) -> float:
        """One of COCO's figures; NaN where there is nothing to judge by, and for `max_detections` not asked for."""
        stats = dict(zip(figure_names(self.matches.max_detections), self.stats, strict=True))
        value = stats.get(name, -1.0)
        return math.nan if value == -1 else value

    def shown(self) -> list[Figure]:
        """COCO's figures with the AR of these `max_detections`, what `FIGURES` has beyond COCO's, and all of masks."""
        own = figures_with(self.matches.max_detections)
        return own if self.masks is None else own + [of_masks(figure) for figure in self.masks.shown()]

    def figures(self) -> dict[str, float]:
        """COCO's 12 figures and any added ones by name, then those of masks; NaN where there are no objects."""
        return figures_of(self, self.shown())

    def to_dict(self, *, curves: bool = False) -> dict[str, Any]:
        """Everything as plain Python for `json.dump`, NaN as None; `curves` adds those of every class."""
        curve = self.precision_recall
        parts = {"recall": curve.recall, "mean": curve.mean}
        if curves:
            parts |= {"precision": curve.precision, "scores": curve.scores}
        content = {
            "iou_type": self.iou_type,
            "images": self.images,
            "objects": self.objects,
            "detections": self.detections,
            "stats": list(self.stats),
            "figures": self.figures(),
            "per_class": [asdict(row) for row in self.per_class],
            "iou_thresholds": self.iou_thresholds.tolist(),
            "precision_recall": {name: values.tolist() for name, values in parts.items()},
        }
        if self.masks is not None:
            content["masks"] = self.masks.to_dict(curves=curves)
        return none_for_nan(content)


def evaluate_detections(
    ground_truth: str | Path | dict[str, Any] | Any,
    detections: str | Path | list[dict[str, Any]] | Detections,
    iou_type: IoUType = "bbox",
    *,
    iou_thresholds: ArrayLike | None = None,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    class_agnostic: bool = False,
) -> DetectionMetrics:
    """Compare detections with the ground truth the COCO way.

    Args:
        ground_truth: path to a COCO JSON file, its content as a dict, or `detseg.data.Annotations`.
        detections: path to a COCO results JSON file, its content as a list of dicts, or `Detections`.
        iou_type: "bbox" compares boxes; "segm" compares masks, where both sides have a `segmentation`; "boundary"
            takes the smaller IoU of masks and of their boundaries (Boundary AP, Cheng et al. 2021).
        iou_thresholds: rising, in [0, 1]; None takes COCO's 0.50, 0.55, … 0.95.
        max_detections: AR is given for each of these numbers of detections an image and class, the largest
            holds for everything else.
        class_agnostic: leave the classes out: how well are objects found, of whatever class?

    Raises:
        ValueError: the input or an option is at fault; the message names the item.
    """
    check_iou_type(iou_type)
    truth = read_truth(ground_truth, iou_type)
    found = read_found(detections, truth, iou_type)
    options = {"iou_thresholds": iou_thresholds, "max_detections": max_detections, "class_agnostic": class_agnostic}
    return measure(truth, found, iou_type, **options)


def measure(truth: Truth, found: Found, iou_type: IoUType, **options: Any) -> DetectionMetrics:
    """`evaluate_detections` of input that is read and checked already; options as for `match`."""
    matches = match(truth, found, iou_type, **options)
    counts = matches.object_counts()
    limits = np.array(matches.max_detections, dtype=np.int64)
    size = (*matches.status.shape[:2], matches.classes)
    precision, recall = (np.full((*size, n), np.nan) for n in (len(RECALL_LEVELS), len(limits)))
    reached = np.full(precision.shape, -1, np.int64)
    most = int(counts.max(initial=0))
    given = (matches.status, matches.label_start, matches.rank, counts, RECALL_LEVELS, limits)
    kernels.accumulate(*given, np.empty(most), np.empty(most, np.int64), precision, reached, recall)
    table = _class_figures(matches.iou_thresholds, precision, recall)
    with_objects = counts > 0  # (A, K)
    curves = precision[0][:, with_objects[0]]
    scores = np.append(matches.scores, 0.0)[reached[0]]  # where nothing is reached, -1 takes the last one, 0
    scores[:, ~with_objects[0]] = np.nan
    return DetectionMetrics(
        iou_type=iou_type,
        stats=tuple(_means(table, with_objects, len(matches.max_detections))),
        per_class=_per_class(truth, matches, table),
        precision_recall=PrecisionRecall(
            recall=RECALL_LEVELS.copy(),
            precision=precision[0],
            scores=scores,
            mean=curves.mean(axis=1) if curves.size else np.full(precision.shape[1::2], np.nan),
        ),
        iou_thresholds=matches.iou_thresholds,
        images=matches.num_images,
        objects=int((~truth.iscrowd).sum()),
        detections=len(found.scores),
        matches=matches,
    )


def _class_figures(
    thresholds: NDArray[np.float64], precision: NDArray[np.float64], recall: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(F, K) the figures of every class in COCO's order, from (T,), (A, T, K, R), (A, T, K, L); NaN without objects."""
    nothing = np.full(precision.shape[2], np.nan)
    by_threshold = precision.mean(axis=3)  # (A, T, K)
    ap, ar = by_threshold.mean(axis=1), recall.mean(axis=1)  # (A, K), (A, K, L)
    at = [np.flatnonzero(np.isclose(thresholds, value, rtol=0, atol=1e-9)) for value in (0.5, 0.75)]
    single = [by_threshold[0, t[0]] if len(t) else nothing for t in at]
    return np.stack([ap[0], *single, *ap[1:], *ar[0].T, *ar[1:, :, -1]])


def _means(table: NDArray[np.float64], with_objects: NDArray[np.bool_], limits: int) -> list[float]:
    """Figures (F, K) of the classes averaged over those with objects of that size; -1 where there are none."""
    areas = [0, 0, 0, 1, 2, 3, *[0] * limits, 1, 2, 3]
    chosen = [row[with_objects[area]] for row, area in zip(table, areas, strict=True)]
    return [float(row.mean()) if row.size and not np.isnan(row).any() else -1.0 for row in chosen]


def _per_class(truth: Truth, matches: Matches, table: NDArray[np.float64]) -> tuple[ClassMetrics, ...]:
    names, ids = (("all classes",), [-1]) if matches.class_agnostic else (truth.names, truth.category_ids.tolist())
    figure = figure_names(matches.max_detections)
    real = ~truth.iscrowd
    objects = np.bincount(matches.object_labels[real], minlength=len(names)).tolist()
    totals = zip(objects, matches.image_counts(real).tolist(), strict=True)
    rows = []
    for name, category_id, values, counts in zip(names, ids, table.T.tolist(), totals, strict=True):
        figures = dict(zip(figure, values, strict=True))
        ar = figures[f"AR{matches.max_detections[-1]}"]
        rows.append(ClassMetrics(name, category_id, figures["AP"], figures["AP50"], ar, *counts, figures))
    return tuple(rows)
