"""On what wrong detections rest: heat over the images in which a detector was sure of something that is not there."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from detseg.boxes import box_iou
from detseg.predict.explain_detections import explain_detections
from detseg.predict.predictor import Predictor
from detseg.visualize.compare import Objects, match_objects
from detseg.visualize.detection_heat import small_detection_heat
from detseg.visualize.heat import TEXT, heat_heading, stack, tile_width
from detseg.visualize.sheets import grid
from detseg.visualize.text import Image

# So many images are looked at again, which takes a detection and a step back each.
MOST = 8
COLUMNS = 4
# A box that overlaps every object by less than this is on the background.
LOOSE, RIGHT = 0.1, 0.5


def wrong_rows(truth: Objects, found: Objects) -> list[int]:
    """The detections, best first, that are neither right nor ignored, by their boxes; see `match_objects`."""
    match = match_objects(_boxes_alone(truth), _boxes_alone(found), iou_threshold=RIGHT)
    rows: list[int] = match.kept[~match.right & ~match.ignored].tolist()
    return rows


def surest_mistakes(truths: Sequence[Objects], predictions: Sequence[Objects]) -> list[int]:
    """The images, at most `MOST`, with wrong detections, those of the highest score first."""
    scores = {}
    for i, (truth, found) in enumerate(zip(truths, predictions, strict=True)):
        rows = wrong_rows(truth, found)
        if rows:
            scores[i] = float(np.asarray(found["scores"])[rows[0]])
    return sorted(scores, key=lambda i: -scores[i])[:MOST]


def mistake_sheet(
    predictor: Predictor, images: Iterable[Image], truths: Sequence[Objects], files: Sequence[str]
) -> Image | None:
    """Each image under the heat of its surest wrong detection; None where the detector finds no wrong ones.

    Args:
        predictor: the detector, which looks at the images again.
        images: (H, W, 3) uint8 RGB.
        truths: the objects of each, as `match_objects` takes them.
        files: the name of each.
    """
    cells, captions = [], []
    tile = tile_width(COLUMNS)
    for image, truth, file in zip(images, truths, files, strict=True):

        def wrong(found: Any, truth: Objects = truth) -> list[int]:
            return wrong_rows(truth, found)

        seen = explain_detections(predictor, image, top=1, choose=wrong)
        if len(seen.found):
            box, label, score = seen.found.boxes[0], int(seen.found.labels[0]), float(seen.found.scores[0])
            cells.append(small_detection_heat(image, seen.heat[0], box, seen.area, tile))
            what = verdict(truth, box, label, predictor.names)
            captions.append(f"{predictor.names[label]} {score:.2f}, {what}: {file}")
    if not cells:
        return None
    title = heat_heading("What speaks for wrong detections", "the surest one of each image")
    return stack([title, grid(cells, min(COLUMNS, len(cells)), tile, captions, text=TEXT)])


def verdict(truth: Objects, box: Any, label: int, names: Sequence[str]) -> str:
    """What is wrong with a detection (4,) xyxy that matches no object."""
    boxes, labels = np.asarray(truth["boxes"], np.float64).reshape(-1, 4), np.asarray(truth["labels"]).reshape(-1)
    ious = np.asarray(box_iou(np.asarray(box, np.float64)[None], boxes))[0]
    own, others = (np.where(keep, ious, 0).max(initial=0) for keep in (labels == label, labels != label))
    if max(own, others) < LOOSE:
        return "background"
    if own >= RIGHT:
        return "found twice"
    if others >= RIGHT or others > own:
        other = names[labels[np.where(labels != label, ious, 0).argmax()]]
        return f"is {other}" if others >= RIGHT else f"part of {other}"
    return f"loose box, IoU {own:.2f}"


def _boxes_alone(objects: Objects) -> Objects:
    return {name: values for name, values in objects.items() if name != "masks"}
