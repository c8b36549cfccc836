"""Doubtful boxes: two on one object, of unusual size or shape, tiny, or over the whole image. No image is opened."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from detseg.box_formats import overlap
from detseg.data.annotations import Annotations
from detseg.data.checks.doubts import Box, Doubt, Kind, robust_z, sound_objects

COINCIDE = 0.9  # IoU
BLOCK = 256  # objects of an image that are compared with all others at a time
EXAMPLES = 30  # objects of a class from which what is usual can be told
SIZE_Z, SIZE_RATIO = 5.0, 4.0
ASPECT_Z, ASPECT_RATIO = 5.0, 2.0
LEAST_DEVIATION = 0.1  # of logarithms: a tenth more or less is never unusual
TINY = 4.0  # pixels
WHOLE = 0.98  # of the image's area
RARE = 0.05  # of the objects; what more of them are is how the set is

KINDS = {
    "coinciding": Kind("boxes that nearly coincide", f"IoU of {COINCIDE} or more; score: the IoU"),
    "size": Kind(
        "objects of unusual size for their class",
        f"{SIZE_Z:g} or more robust standard deviations from the median log size of at least {EXAMPLES} objects, and "
        f"{SIZE_RATIO:g} times larger or smaller; score: the deviations",
    ),
    "aspect": Kind(
        "objects of unusual shape for their class",
        f"{ASPECT_Z:g} or more robust standard deviations from the median log width/height of at least {EXAMPLES} "
        f"objects, and {ASPECT_RATIO:g} times it; not at the border of the image; score: the deviations",
    ),
    "tiny": Kind("tiny boxes", f"shorter side below {TINY:g} pixels, in a set where less than {RARE:.0%} have that"),
    "whole-image": Kind(
        "boxes over the whole image", f"{WHOLE:.0%} of it or more, in a set where less than {RARE:.0%} of the boxes are"
    ),
}


def box_doubts(split: str, data: Annotations) -> list[Doubt]:
    """Everything doubtful about the boxes of a split; crowd objects and boxes with problems are left out."""
    rows = np.flatnonzero(sound_objects(data))
    doubts = list(_coinciding(split, data, rows))
    sizes = data.sizes[data.image_index[rows]].astype(np.float64)
    rows, sizes = rows[(sizes > 0).all(1)], sizes[(sizes > 0).all(1)]
    if len(rows):
        doubts += _unusual(split, data, rows, sizes)
        doubts += _extreme(split, data, rows, sizes)
    return doubts


def _coinciding(split: str, data: Annotations, rows: NDArray[np.int64]) -> Iterator[Doubt]:
    """Objects whose box is nearly that of an earlier one in the image; equal boxes of one class are a problem already.
    Of several such ones the nearest is told: of a thousand in one place there are half a million pairs."""
    owners, starts = np.unique(data.image_index[rows], return_index=True)
    for image, own in zip(owners.tolist(), np.split(rows, starts[1:]), strict=False):
        for one, other, iou in _nearly_same(data.boxes[own], data.labels[own]):
            one, other = int(own[one]), int(own[other])
            names = [data.names[data.labels[row]] for row in (one, other)]
            same = f"a second {names[1]} with nearly the same box" if names[0] == names[1] else ""
            what = same or f"{names[1]}, and {names[0]} with nearly the same box"
            what += f" (object {data.ids[one]}, IoU {iou:.2f})"
            yield Doubt("coinciding", what, iou, split, image, other, (as_box(data.boxes[one]),))


def _nearly_same(boxes: NDArray[np.float64], labels: NDArray[np.signedinteger]) -> Iterator[tuple[int, int, float]]:
    """(earlier one, object, IoU) of boxes (M, 4); a block of objects at a time, for memory."""
    for start in range(0, len(boxes), BLOCK):
        block = slice(start, start + BLOCK)
        ious = overlap(boxes[block], boxes[: start + BLOCK])
        equal = (boxes[block, None] == boxes[: start + BLOCK]).all(2) & (labels[block, None] == labels[: start + BLOCK])
        ious[equal | (np.arange(len(boxes))[block, None] <= np.arange(len(boxes[: start + BLOCK])))] = 0
        nearest = ious.argmax(1)
        best = ious[np.arange(len(nearest)), nearest]
        for row in np.flatnonzero(best >= COINCIDE).tolist():
            yield int(nearest[row]), start + row, float(best[row])


def as_box(values: NDArray[np.float64]) -> Box:
    """A row of boxes as a tuple."""
    x1, y1, x2, y2 = values.tolist()
    return x1, y1, x2, y2


def _unusual(split: str, data: Annotations, rows: NDArray[np.int64], sizes: NDArray[np.float64]) -> Iterator[Doubt]:
    """Objects much larger, smaller, flatter or steeper than those of their class; sizes are shares of the image."""
    boxes = data.boxes[rows]
    sides = boxes[:, 2:] - boxes[:, :2]
    cut_off = (boxes[:, :2] <= 1).any(1) | (boxes[:, 2:] >= sizes - 1).any(1)  # those have any shape
    log_size = np.log(sides.prod(1) / sizes.prod(1)) / 2
    log_aspect = np.log(sides[:, 0] / sides[:, 1])
    for label in np.unique(data.labels[rows]).tolist():
        of_class = np.flatnonzero(data.labels[rows] == label)
        for kind, values, own, least, factor, words in (
            ("size", log_size, of_class, SIZE_Z, SIZE_RATIO, ("larger", "smaller")),
            (
                "aspect",
                log_aspect,
                of_class[~np.asarray(cut_off)[of_class]],
                ASPECT_Z,
                ASPECT_RATIO,
                ("wider", "narrower"),
            ),
        ):
            if len(own) < EXAMPLES:
                continue
            away = values[own] - np.median(values[own])
            z = robust_z(values[own], LEAST_DEVIATION)
            for k in np.flatnonzero((z >= least) & (np.abs(away) >= np.log(factor))).tolist():
                row = int(rows[own[k]])
                times = f"{np.exp(abs(away[k])):.3g} times {words[0] if away[k] > 0 else words[1]}"
                shape = "" if kind == "size" else " for its height"
                width, height = sides[own[k]]
                what = f"{data.names[label]} of {width:.4g} x {height:.4g} pixels, {times}{shape} than usual"
                yield Doubt(kind, what, float(z[k]), split, int(data.image_index[row]), row)


def _extreme(split: str, data: Annotations, rows: NDArray[np.int64], sizes: NDArray[np.float64]) -> Iterator[Doubt]:
    """Boxes of a few pixels, and those over the whole image, where few are."""
    sides = data.boxes[rows, 2:] - data.boxes[rows, :2]
    shorter, shares = sides.min(1), sides.prod(1) / sizes.prod(1)
    for kind, chosen, scores in (("tiny", shorter < TINY, TINY - shorter), ("whole-image", shares >= WHOLE, shares)):
        if chosen.mean() >= RARE and chosen.sum() > 1:
            continue
        for k in np.flatnonzero(chosen).tolist():
            row, name = int(rows[k]), data.names[data.labels[rows[k]]]
            size = f"{sides[k, 0]:.4g} x {sides[k, 1]:.4g} pixels"
            what = f"{name} of {size}" if kind == "tiny" else f"the box of {name} is the whole image, {size}"
            yield Doubt(kind, what, float(scores[k]), split, int(data.image_index[row]), row)
