"""What nearly all objects of a set have in common and is wrong: told as one cause, not repaired object by object.

`--repair` would clip, leave out and go on with what is wrong in the same way and happens to fit: a cause is an error
that it leaves alone. A set without single errors is never accused, but for boxes that are all as small as shares.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.box_formats import convert_boxes
from detseg.data.annotations import Annotations
from detseg.data.checks.problems import Problem

NEARLY = 0.95  # share of the objects
SEVERAL = 0.25  # share of the objects with an error: a cause gives some objects what happens to fit
OVER = 1.0 + 1e-6  # pixels over the border that rounding explains
SHARES = 1.5  # boxes as shares of the image end at 1, with some dust
ABSURD = 1e12  # pixels
FEW = 4  # objects of a class or set: of fewer nothing is said


Rows = NDArray[np.float64]


class Cause(NamedTuple):
    """A cause, and the kinds of single problems that it explains."""

    problem: Problem
    explains: tuple[str, ...]


def tell_causes(a: Annotations, problems: list[Problem]) -> list[Problem]:
    """The problems with those that have one cause replaced by it, which comes first."""
    boxes, sizes = _placed(a)
    causes = [*_shares(a, boxes, sizes), *_corners(a, boxes, sizes), *_counting(a), *_malformed(a)]
    explained = {kind for cause in causes for kind in cause.explains}
    told = [cause.problem for cause in causes]
    return [*told, *(problem for problem in problems if problem.kind not in explained), *_mostly_ignored(a)]


def _cause(a: Annotations, what: str, remedy: str, explains: tuple[str, ...]) -> Cause:
    return Cause(Problem(a.source, "", None, what, remedy, kind="common-cause"), explains)


def _placed(a: Annotations) -> tuple[Rows, Rows]:
    """The boxes (n, 4) in images of known size, without those that are not finite or absurd, and these sizes (n, 2)."""
    sizes = a.sizes[a.image_index].astype(np.float64)
    if (a.sizes > 0).all() and np.abs(a.boxes).max(initial=0) < ABSURD:
        return a.boxes, sizes
    usable = (np.abs(a.boxes) < ABSURD).all(axis=1) & (sizes > 0).all(axis=1)
    return a.boxes[usable], sizes[usable]


# ------------------------------------------------------------------ boxes in other units and orders


def _shares(a: Annotations, boxes: Rows, sizes: Rows) -> Iterator[Cause]:
    if len(boxes) and boxes.max() <= SHARES and boxes.min() >= -SHARES and sizes.min() > 2 * SHARES:
        what = f"no box reaches beyond {boxes.max():.4g} px: the {len(boxes)} boxes seem to be shares of the image"
        remedy = "multiply x and width by the image's width, y and height by its height"
        yield _cause(a, what, remedy, ("zero-size-box", "reversed-box", "box-over-border"))


SIZES, CORNERS = "x, y, width, height", "x1, y1, x2, y2"
# What was written, what belongs there, and the four numbers again of a box that was read so.
EXCHANGED: tuple[tuple[str, str, Callable[[Rows], Rows]], ...] = (
    (CORNERS, SIZES, lambda boxes: convert_boxes(boxes, "xyxy", "xywh")),
    (CORNERS, "centre x, centre y, width, height", lambda boxes: convert_boxes(boxes, "xyxy", "cxcywh")),
    (SIZES, CORNERS, lambda boxes: convert_boxes(boxes, "xywh", "xyxy")),
)


def _corners(a: Annotations, boxes: Rows, sizes: Rows) -> Iterator[Cause]:
    """Boxes that are at fault as they were read, and nearly all of which fit if their four numbers meant others."""
    enough = max(2, SEVERAL * len(boxes))
    over, reversed_ = int(_over(boxes, sizes).sum()), int((boxes[:, 2:] < boxes[:, :2]).any(axis=1).sum())
    for written, belong, numbers in EXCHANGED:
        count, fault = (
            (over, "reach over the border of their image") if written == CORNERS else (reversed_, "are reversed")
        )
        if count < enough:
            continue
        meant = numbers(boxes)
        if ((meant[:, 2:] > meant[:, :2]).all(axis=1) & ~_over(meant, sizes)).mean() >= NEARLY:
            what = f"{count} of {len(boxes)} boxes {fault}, and nearly all fit if read as {written}"
            remedy = f"write {belong}, which belong there"
            yield _cause(a, what, remedy, ("box-over-border", "box-outside", "reversed-box", "zero-size-box"))
            return


def _over(boxes: Rows, sizes: Rows) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = boxes.T
    return np.asarray((x1 < -OVER) | (y1 < -OVER) | (x2 > sizes[:, 0] + OVER) | (y2 > sizes[:, 1] + OVER))


# ------------------------------------------------------------------ classes, and objects that cannot be read


def _counting(a: Annotations) -> Iterator[Cause]:
    """Classes that are all one too high or too low: the next to the list occurs, that at its other end does not."""
    unknown = [p.category for p in a.read_problems if p.kind == "unknown-category"]
    ids = sorted(category.id for category in a.categories)
    if len(unknown) < 2 or not ids or ids != list(range(ids[0], ids[0] + len(ids))):
        return
    present = {category.id for label, category in enumerate(a.categories) if (a.labels == label).any()}
    name_of = dict(a.categories)
    for beyond, absent, step, change in (
        (ids[-1] + 1, ids[0], 1, "subtract 1 from"),
        (ids[0] - 1, ids[-1], -1, "add 1 to"),
    ):
        if set(unknown) == {beyond} and absent not in present:
            what = (
                f"{len(unknown)} of {len(a.ids)} objects are of class {beyond}, which the list ({ids[0]} to {ids[-1]}) "
                f"does not have, and none is of class {absent} ({name_of[absent]!r}): counted from "
                f"{ids[0] + step}, where the list counts from {ids[0]}?"
            )
            remedy = f"{change} every object's class; or add the missing class to the list, if it is one"
            yield _cause(a, what, remedy, ("unknown-category",))


def _malformed(a: Annotations) -> Iterator[Cause]:
    found = [problem for problem in a.read_problems if problem.kind == "malformed-object"]
    everything = len(a.ids) + len(found)
    if len(found) >= max(FEW, NEARLY * everything):
        place = f" in {found[0].file}" if found[0].file not in ("", a.source) else ""
        what = f"{len(found)} of {everything} objects cannot be read, the first{place}: {found[0].what}"
        yield _cause(a, what, "correct the files, or the tool that writes them", ("malformed-object",))


def _of_every_class(a: Annotations) -> NDArray[np.bool_]:
    """(M,) whether each object stands, with others, for a region that is ignored for every class (KITTI's DontCare)."""
    found = np.zeros(len(a.ids), bool)
    rows = np.flatnonzero(a.iscrowd)
    if len(rows) and len(a.categories) > 1:
        places = np.column_stack([a.image_index[rows], a.boxes[rows]])
        _, place, counts = np.unique(places, axis=0, return_inverse=True, return_counts=True)
        found[rows] = (counts == len(a.categories))[place.ravel()]
    return found


def _mostly_ignored(a: Annotations) -> Iterator[Problem]:
    """Classes half of whose objects are ignored, as a tool marks them and not an annotator."""
    known = (a.labels >= 0) & (a.labels < len(a.categories)) & ~_of_every_class(a)
    labels, ignored = a.labels[known], a.iscrowd[known]
    total = np.bincount(labels, minlength=len(a.categories))
    crowds = np.bincount(labels[ignored], minlength=len(a.categories))
    rows = np.flatnonzero((total >= FEW) & (2 * crowds >= total))
    if len(rows):
        shown = ", ".join(f"{a.names[row]!r} {crowds[row]} of {total[row]}" for row in rows[:10])
        what = f"many objects are marked iscrowd or difficult, so they are ignored: {shown}"
        remedy = "set the mark to 0 where it is the tool's (CVAT gives iscrowd 1 to every brush mask)"
        yield Problem(a.source, "", None, what, remedy, "warning", "mostly-ignored")
