"""Why a trained detector finds what it finds in an image: for each detection the places that its score rests on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detseg.data.letterbox import letterbox_image
from detseg.detect.calibration import calibrated
from detseg.detect.model import DetectionModel
from detseg.detect.odam import evidence, heat, look
from detseg.options import check_score_threshold
from detseg.predict.predictor import Predictor, model_input
from detseg.results import Results
from detseg.sharing import sharing_cores
from detseg.sources import Image, open_one
from detseg.visualize.heat import Box, spread

TOP, LEAST_SCORE = 5, 0.3

Choose = Callable[[Results], Sequence[int]]


@dataclass(frozen=True)
class DetectionExplanation:
    """What `explain_detections` found of T detections in one image."""

    found: Results  # the detections, as `predict` gives them, without masks
    seen: NDArray[np.uint8]  # (S, S, C) the square that the network was given
    area: Box  # xyxy of that square in the image's pixels; where the square has a border, it sticks out
    heat: NDArray[np.float32]  # (T, S, S) of each over that square, at least 0; all 0 where nothing speaks for it
    strides: tuple[int, ...]  # of the maps that it was taken from

    def in_image(self, row: int) -> NDArray[np.float32]:
        """The heat (H, W) of one detection at the image's own pixels."""
        height, width = self.found.image.shape[:2]
        return spread(self.heat[row], self.area, (height, width))[0]

    def shares(self) -> NDArray[np.float64]:
        """(T,) how much of each heat lies in its detection's own box; NaN where there is none.

        The rest is context, or something else that the network takes for the object.
        """
        x1, y1, x2, y2 = self.area
        side = self.heat.shape[-1]
        boxes = (self.found.boxes.astype(np.float64) - (x1, y1) * 2) * side / ((x2 - x1, y2 - y1) * 2)
        across, down = (_covered(boxes[:, axis::2], side) for axis in (0, 1))
        inside = np.einsum("tyx,ty,tx->t", self.heat, down, across, dtype=np.float64)
        total = self.heat.sum((1, 2), dtype=np.float64)
        return np.divide(inside, total, out=np.full(len(total), np.nan), where=total > 0)


def has_detections(predictor: Predictor) -> bool:
    """Whether `explain_detections` explains what a model answers: that of one detector."""
    return isinstance(predictor.model, DetectionModel) and predictor.task == "detect"


def explain_detections(
    predictor: Predictor,
    image: Image,
    *,
    top: int = TOP,
    score_threshold: float = LEAST_SCORE,
    choose: Choose | None = None,
) -> DetectionExplanation:
    """Look at an image as `predict` does, and note on what the best detections rest, see `detseg.detect.odam`.

    Args:
        predictor: a detector of `detseg.load`, of one run.
        image: as `predict` takes them.
        top: so many detections are explained, the best.
        score_threshold: lowest score of a detection.
        choose: which of the detections (rows of what it is given, best first) are explained, of these the first `top`.

    Raises:
        ValueError: the model is no detector, `top` is below 1, the threshold is no share, or it is no image.
    """
    model = predictor.model
    if not has_detections(predictor) or not isinstance(model, DetectionModel):
        raise ValueError(
            f"only a detector has detections to explain, not a {type(model).__name__}; give the run of one detector, "
            "or for classifiers and localizers `detseg.predict.explain.explain`"
        )
    check_score_threshold(score_threshold)
    if top < 1:
        raise ValueError(f"top must be at least 1, the number of detections to explain, not {top}")
    opened = open_one(image, predictor.channels)
    height, width = opened.pixels.shape[:2]
    seen, box = letterbox_image(opened.pixels, predictor.size)
    with sharing_cores():
        sight = look(model, model_input(model, seen[None]))
        scores = calibrated(model, sight.found["scores"])
        every = {
            "boxes": box.to_original(sight.found["boxes"], (width, height)).cpu().numpy(),
            "scores": scores.cpu().numpy(),
            "labels": sight.found["labels"].cpu().numpy(),
        }
        found = Results(every, opened.source, predictor.categories).select(every["scores"] >= score_threshold)
        rows = list(range(len(found)) if choose is None else choose(found))[:top]
        # Those below the threshold come last: rows are the same among all.
        parts = [evidence(sight.scores[row], sight.maps) for row in rows]
        square = (predictor.size, predictor.size)
        heats = [heat(part, sight.strides, square).float().cpu().numpy() for part in parts]
    left, upper = -box.pad_x / box.scale_x, -box.pad_y / box.scale_y
    return DetectionExplanation(
        found=found.select(rows),
        seen=seen,
        area=(left, upper, left + predictor.size / box.scale_x, upper + predictor.size / box.scale_y),
        heat=np.array(heats, np.float32).reshape(-1, *square),
        strides=tuple(sight.strides),
    )


def _covered(spans: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(T, count) how much of each pixel of an axis lies in spans (T, 2)."""
    places = np.arange(count)
    return np.clip(np.minimum(spans[:, 1:], places + 1) - np.maximum(spans[:, :1], places), 0, 1)
