"""What overlapping views of an image found, as one: duplicates suppressed, parts joined."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.box_formats import overlap

Found = dict[str, Any]
"""`boxes` (D, 4), `scores` (D,), `labels` (D,), numpy, and of models that find them `masks`, D COCO run lengths."""

IOU_THRESHOLD = 0.5  # above, boxes of a class in two views are one object
IN_PART = 0.5  # of its score decides with which right an object that no tile sees whole stands against others


def merge(
    views: Sequence[Found],
    rectangles: NDArray[np.integer],
    cuts: Sequence[NDArray[np.bool_]],
    *,
    agnostic: bool = False,
) -> Found:
    """What several views of an image found, as one: of a class and an object the best detection, best first.

    Detections of one view leave each other alone: its detector has decided. Of two views those of a class are one
    object where their IoU is above `IOU_THRESHOLD`; where one of them is cut off, the IoU of what both views can see of
    the two. Better is what has the higher score, of which those that are cut off count `IN_PART`. Two that are cut off
    and one object are joined.

    Args:
        views: boxes and masks are in the image's pixels.
        rectangles: (V, 4) xyxy, what each view shows.
        cuts: of each view (D,), whether the object goes on beyond what it shows.
        agnostic: detections of different classes may be one object too.
    """
    names = views[0].keys()
    found: Found = {name: np.concatenate([view[name] for view in views]) for name in names if name != "masks"}
    masks = [mask for view in views for mask in view.get("masks", ())]
    cut, owners = np.concatenate(cuts), np.repeat(np.arange(len(views)), [len(c) for c in cuts])
    labels = np.zeros_like(found["labels"]) if agnostic else found["labels"]
    pairs = _pairs(found["boxes"].astype(np.float64), labels, owners, rectangles, cut)
    groups = _groups(found["scores"] * np.where(cut, IN_PART, 1.0), pairs, cut)
    groups.sort(key=lambda group: -found["scores"][group[0]])
    result: Found = {name: values[[group[0] for group in groups]] for name, values in found.items()}
    for box, group in zip(result["boxes"], groups, strict=True):
        parts = found["boxes"][group]
        box[:2], box[2:] = parts[:, :2].min(0), parts[:, 2:].max(0)
    if "masks" in names:
        result["masks"] = [_joined([masks[i] for i in group]) for group in groups]
    return result


def _joined(masks: list[Any]) -> Any:
    if len(masks) == 1:
        return masks[0]
    from pycocotools import mask as coco

    return coco.merge(masks)


def _pairs(
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    owners: NDArray[np.int64],
    rectangles: NDArray[np.integer],
    cut: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """(P, 2) the detections of two views that are one object, see `merge`; the views side by side, so all are few."""
    offsets = np.searchsorted(owners, np.arange(len(rectangles) + 1))
    meet = (rectangles[:, None, :2] < rectangles[None, :, 2:]).all(2)
    result = [np.zeros((0, 2), np.int64)]
    for a, b in np.argwhere(np.triu(meet & meet.T, 1)).tolist():
        common = np.concatenate(
            [np.maximum(rectangles[a, :2], rectangles[b, :2]), np.minimum(rectangles[a, 2:], rectangles[b, 2:])]
        )
        rows, columns = (_within(boxes, range(offsets[v], offsets[v + 1]), common) for v in (a, b))
        if not len(rows) or not len(columns):
            continue
        iou = overlap(boxes[rows], boxes[columns])
        in_part = cut[rows][:, None] | cut[columns]
        if in_part.any():
            low, high = np.tile(common[:2], 2), np.tile(common[2:], 2)
            seen = overlap(boxes[rows].clip(low, high), boxes[columns].clip(low, high))
            iou = np.where(in_part, seen, iou)
        i, j = np.nonzero((iou > IOU_THRESHOLD) & (labels[rows][:, None] == labels[columns]))
        result.append(np.column_stack([rows[i], columns[j]]))
    return np.concatenate(result)


def _within(boxes: NDArray[np.float64], rows: range, common: NDArray[np.integer]) -> NDArray[np.int64]:
    """Those of `rows` whose boxes reach into the rectangle `common` (4,)."""
    own = boxes[rows.start : rows.stop]
    return rows.start + np.flatnonzero(((own[:, :2] < common[2:]) & (own[:, 2:] > common[:2])).all(1))


def _groups(ranks: NDArray[np.floating], pairs: NDArray[np.int64], cut: NDArray[np.bool_]) -> list[list[int]]:
    """The detections that stay, by falling rank, each with those that are joined to it.

    Greedy: each takes the place of all that are one with it and have not lost theirs.
    """
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    offsets = np.searchsorted(both[:, 0], np.arange(len(ranks) + 1)).tolist()
    partners, in_part = both[:, 1].tolist(), cut.tolist()
    gone = [False] * len(ranks)
    groups = []
    for first in np.argsort(-ranks, kind="stable").tolist():
        if gone[first]:
            continue
        group = [first]
        for one in group:  # which grows: pieces of pieces belong to it too
            for other in partners[offsets[one] : offsets[one + 1]]:
                if other == first or gone[other] or (one != first and not in_part[other]):
                    continue
                gone[other] = True
                if in_part[first] and in_part[other]:
                    group.append(other)
        groups.append(group)
    return groups
