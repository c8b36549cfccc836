"""Ground truth beside predictions: what was found, what is wrong, what was missed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.letterbox import resize_mask
from detseg.visualize.boxes import draw_boxes
from detseg.visualize.sheets import Entry, check_count, grid, row_width, scaled, side_by_side
from detseg.visualize.text import Color, Image

Objects = Mapping[str, Any]

FOUND: Color = (0, 158, 115)
WRONG: Color = (213, 94, 0)
MISSED: Color = (240, 228, 66)
IGNORED: Color = (190, 190, 190)


@dataclass(frozen=True)
class Match:
    """What became of each object of one image; `kept` are the detections with a score that counts."""

    found: NDArray[np.bool_]  # (M,) ground truth with a detection
    ignored_truth: NDArray[np.bool_]  # (M,) crowd regions, neither found nor missed
    kept: NDArray[np.int64]  # (D,) indices of the detections, best first
    right: NDArray[np.bool_]  # (D,)
    ious: NDArray[np.float64]  # (D,) of those that are right with their object, else 0
    ignored: NDArray[np.bool_]  # (D,) neither right nor wrong: inside a crowd region of their class

    @property
    def hits(self) -> int:
        """Number of objects found."""
        return int(self.found.sum())

    @property
    def missed(self) -> int:
        """Number of objects without a detection."""
        return int((~self.found & ~self.ignored_truth).sum())

    @property
    def wrong(self) -> int:
        """Number of detections without an object: background, another class, loose boxes, doubles."""
        return int((~self.right & ~self.ignored).sum())

    @property
    def f1(self) -> float:
        """2 hits / (2 hits + wrong + missed); 1.0 where there is nothing to find and nothing was found."""
        total = 2 * self.hits + self.wrong + self.missed
        return 2 * self.hits / total if total else 1.0

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the objects found; 1.0 where none is."""
        return float(self.ious[self.right].mean()) if self.right.any() else 1.0


def match_objects(
    truth: Objects, prediction: Objects, *, iou_threshold: float = 0.5, score_threshold: float = 0.3
) -> Match:
    """Give each detection, best score first, the free object of its class with the highest IoU.

    That IoU must reach `iou_threshold`; detections below `score_threshold` are left out. A detection
    without an object is ignored when `iou_threshold` of its own area lies within a crowd region of its class.

    Where both sides have `masks`, the IoU is that of masks.

    Args:
        truth: `boxes` (M, 4) xyxy, `labels` (M,), optional `iscrowd` (M,), optional `masks`: (M, H, W) or M COCO run
            lengths.
        prediction: `boxes` (D, 4) xyxy, `labels` (D,), `scores` (D,), optional `masks`.
    """
    boxes, labels = _boxes(truth), np.asarray(truth["labels"]).reshape(-1)
    crowd = np.asarray(truth.get("iscrowd", np.zeros(len(boxes))), dtype=bool).reshape(-1)
    scores = np.asarray(prediction["scores"], dtype=np.float64).reshape(-1)
    kept = np.argsort(-scores, kind="stable")
    kept = kept[scores[kept] >= score_threshold]
    classes = np.asarray(prediction["labels"]).reshape(-1)[kept]
    overlaps, shares = _overlaps(truth, prediction, kept)

    same = classes[:, None] == labels[None]  # (D, M)
    iou = np.where(same & ~crowd, overlaps, -1.0)
    inside = np.where(same & crowd, shares, -1.0)

    found, right, ious = np.zeros(len(boxes), bool), np.zeros(len(kept), bool), np.zeros(len(kept))
    for d in range(len(kept)):
        candidates = np.where(found, -1.0, iou[d])
        if len(candidates) and candidates.max() >= iou_threshold:
            found[candidates.argmax()] = right[d] = True
            ious[d] = candidates.max()
    ignored = ~right & (inside >= iou_threshold).any(axis=1)
    return Match(found, crowd, kept, right, ious, ignored)


def _overlaps(truth: Objects, prediction: Objects, kept: NDArray[np.int64]) -> tuple[Any, Any]:
    """(D, M) IoU of the detections that are kept with the objects, and the share of each detection in an object."""
    if not _have_masks(truth, prediction):
        from detseg.boxes import box_iou, crowd_iou  # loads torch

        boxes, detected = _boxes(truth), _boxes(prediction)[kept]
        return box_iou(detected, boxes), crowd_iou(detected, boxes)
    from pycocotools import mask as coco_mask

    from detseg.metrics.detection.run_lengths import encode_masks

    objects = encode_masks(truth["masks"], len(_boxes(truth)), "ground truth")
    found = encode_masks([prediction["masks"][i] for i in kept.tolist()], len(kept), "prediction")
    if not objects or not found:
        nothing = np.zeros((len(found), len(objects)))
        return nothing, nothing
    return tuple(coco_mask.iou(found, objects, [crowd] * len(objects)) for crowd in (False, True))


def _have_masks(truth: Objects, prediction: Objects) -> bool:
    return truth.get("masks") is not None and prediction.get("masks") is not None


def _boxes(objects: Objects) -> NDArray[np.float64]:
    return np.asarray(objects["boxes"], dtype=np.float64).reshape(-1, 4)


def worst_images(
    truths: Sequence[Objects], predictions: Sequence[Objects], count: int | None = None, **thresholds: float
) -> list[int]:
    """Indices of images, the worst first: the lowest F1, then most mistakes, then the lowest IoU of what was found.

    `thresholds` are those of `match_objects`.
    """
    check_count("predictions", predictions, len(truths), of="truths")
    badness = []
    for i, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        match = match_objects(truth, prediction, **thresholds)
        badness.append((match.f1, -(match.wrong + match.missed), match.mean_iou, i))
    return [i for *_, i in sorted(badness)][:count]


def compare_sheet(
    images: Sequence[Image],
    truths: Sequence[Objects],
    predictions: Sequence[Objects],
    names: Sequence[str],
    *,
    columns: int = 2,
    tile: int = 360,
    captions: Sequence[str] | None = None,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.3,
) -> Image:
    """Pairs of images, ground truth left and predictions right, `columns` pairs to a row, with a legend.

    Green objects were found: a detection of their class has IoU >= `iou_threshold` (see `match_objects`).
    Yellow ones were missed, orange detections are wrong; grey ones are ignored: crowd regions and what lies
    in them.

    Args:
        truths, predictions: as for `match_objects`, in an image's pixels; only scores >= `score_threshold` are shown.
        tile: long side of one image in pixels; a pair is twice as wide.
        captions: a line under each pair, before its counts.
    """
    for name, values in (("truths", truths), ("predictions", predictions), ("captions", captions)):
        check_count(name, values, len(images))
    cells, lines = [], []
    for i, image in enumerate(images):
        match = match_objects(truths[i], predictions[i], iou_threshold=iou_threshold, score_threshold=score_threshold)
        cells.append(_pair(image, truths[i], predictions[i], names, match, tile))
        counts = f"{match.hits} found, {match.wrong} wrong, {match.missed} missed"
        if match.hits and _have_masks(truths[i], predictions[i]):
            counts += f", mask IoU {match.mean_iou:.2f}"
        lines.append(f"{captions[i]}: {counts}" if captions is not None else counts)
    kind = "mask IoU" if any(map(_have_masks, truths, predictions)) else "IoU"
    legend: list[Entry] = [
        (None, "left: ground truth, right: predictions"),
        (FOUND, f"found (right class, {kind} ≥ {iou_threshold:g})"),
        (WRONG, "wrong"),
        (MISSED, "missed"),
        (IGNORED, "ignored"),
        (None, f"scores ≥ {score_threshold:g}"),
    ]
    return grid(cells, columns, row_width(2, tile), lines, legend=legend, text=tile)


def _pair(image: Image, truth: Objects, prediction: Objects, names: Sequence[str], match: Match, tile: int) -> Image:
    small, x, y = scaled(image, tile)  # drawn after scaling: lines and letters fit the tile
    factors = np.array([x, y, x, y])
    kept = match.kept
    left = draw_boxes(
        small,
        _boxes(truth) * factors,
        truth["labels"],
        names,
        colors=np.where(match.ignored_truth[:, None], IGNORED, np.where(match.found[:, None], FOUND, MISSED)),
        iscrowd=match.ignored_truth,
        masks=_masks(truth, range(len(_boxes(truth))), small),
    )
    right = draw_boxes(
        small,
        _boxes(prediction)[kept] * factors,
        np.asarray(prediction["labels"]).reshape(-1)[kept],
        names,
        scores=np.asarray(prediction["scores"]).reshape(-1)[kept],
        colors=np.where(match.ignored[:, None], IGNORED, np.where(match.right[:, None], FOUND, WRONG)),
        masks=_masks(prediction, kept.tolist(), small),
    )
    return side_by_side([left, right], tile)


def _masks(objects: Objects, rows: Sequence[int], small: Image) -> NDArray[np.uint8] | None:
    """The objects' masks, if they have some, at the size of the scaled image; drawn one by one in full size."""
    if objects.get("masks") is None:
        return None
    masks = np.zeros((len(rows), *small.shape[:2]), np.uint8)
    for target, row in zip(masks, rows, strict=True):
        mask = objects["masks"][row]
        if isinstance(mask, Mapping):
            from pycocotools import mask as coco_mask

            mask = np.ascontiguousarray(coco_mask.decode(mask))
        target[:] = resize_mask(np.asarray(mask).astype(np.uint8), small.shape[1::-1])
    return masks
