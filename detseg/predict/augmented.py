"""Detections of several views of an image, or of several detectors, as one: test-time augmentation and fusion."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.detect.nms import nms
from detseg.detect.nms.fusion import fuse

FACTORS = (0.75, 1.0, 1.25)  # of the size, each plain and mirrored
STRIDE = 32
"""Input sizes are multiples of it: the coarsest grid has whole cells then."""
IOU_THRESHOLD = 0.6


class View(NamedTuple):
    """How images are shown to a network."""

    size: int  # side of the square that they are fitted into, pixels
    mirrored: bool = False


def views_of(size: int) -> list[View]:
    """The views that are averaged for images of `size`: smaller and larger ones, each plain and mirrored."""
    sizes = dict.fromkeys(max(STRIDE, round(size * factor / STRIDE) * STRIDE) for factor in FACTORS)
    return [View(side, mirrored) for side in sizes for mirrored in (False, True)]


def unmirrored(found: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """Detections of a mirrored image `width` pixels wide, as they lie in the image; `regions` and `masks` may be there.

    Mirrored twice they are as before.
    """
    result = dict(found)
    for name in ("boxes", "regions"):
        if name in found:
            x1, y1, x2, y2 = found[name].unbind(1)
            result[name] = found[name].new_empty(found[name].shape)
            for side, values in enumerate((width - x2, y1, width - x1, y2)):
                result[name][:, side] = values
    if "masks" in found:
        result["masks"] = found["masks"].flip(-1)
    return result


def fuse_views(
    views: Sequence[dict[str, Any]],
    limit: int | None,
    known: NDArray[np.bool_] | None = None,
    *,
    agnostic: bool = False,
) -> dict[str, Any]:
    """Detections of one image in several views, all in its own pixels, averaged by weighted boxes fusion.

    A fused detection's mask is that of its best detection: its map (h, w) and region (Solovyev et al. 2021 fuse boxes
    only). The `limit` best ones are kept. `known` (views, K) says which labels can be found in each view, all if None.
    `agnostic` then suppresses what overlaps a better one of another class as much as boxes that are averaged do.
    """
    boxes, scores, labels = ([view[name] for view in views] for name in ("boxes", "scores", "labels"))
    boxes, scores, labels, best = fuse(boxes, scores, labels, None, IOU_THRESHOLD, known=known)
    if agnostic:
        kept = nms(boxes, scores, IOU_THRESHOLD)
        boxes, scores, labels, best = boxes[kept], scores[kept], labels[kept], best[kept.numpy()]
    result: dict[str, Any] = {"boxes": boxes[:limit], "scores": scores[:limit], "labels": labels[:limit]}
    if "masks" in views[0]:
        maps = [one for view in views for one in view["masks"]]
        result["masks"] = [maps[i] for i in best[:limit]]  # of several sizes
        result["regions"] = torch.cat([view["regions"] for view in views])[best[:limit]]
    return result
