"""`SegmentationEvaluator`: figures of predicted label maps that come batch by batch, from any process."""

from collections.abc import Iterable, Sequence
from itertools import count, zip_longest
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.metrics.detection.records import whole_numbers
from detseg.metrics.evaluator import Evaluator, State
from detseg.metrics.segmentation.boundary import boundary_counts
from detseg.metrics.segmentation.label_maps import check_classes, count_pairs, read_prediction, read_target
from detseg.metrics.segmentation.mean_iou import ImageCounts, SegmentationMetrics, measure_segmentation


class SegmentationEvaluator(Evaluator):
    """Count which class the pixels of images are and which one was predicted.

        evaluator = SegmentationEvaluator(["background", "flower"])
        evaluator.update(predictions, targets, image_ids)
        metrics = evaluator.compute()

    Of each image it keeps how often each pair of a true and a predicted class meets in it; never the maps.

    `names` are those of the classes 0..K-1, at least one and at most 255; target pixels of `ignore_index`, any whole
    number, do not count; Boundary IoU, if asked for, takes most of the time.
    """

    _counted_by: ClassVar = dict.fromkeys(("pairs", "pixels"), "pair_counts") | dict.fromkeys(
        ("edge_labels", "edge_pixels"), "edge_counts"
    )

    def __init__(self, names: Sequence[str], *, ignore_index: int = 255, boundary: bool = True) -> None:
        super().__init__()
        check_classes(len(names))
        self.names, self.ignore_index, self.boundary = tuple(map(str, names)), int(ignore_index), bool(boundary)

    def update(self, predictions: Sequence[Any], targets: Sequence[Any], image_ids: Sequence[int]) -> None:
        """Add some images.

        Args:
            predictions: for each image its label map (H, W) of whole numbers 0..K-1, or all as one array
                (N, H, W). Torch on any device, or numpy.
            targets: for each image the true label map of the same size, 0..K-1 or `ignore_index`.
            image_ids: for each image a number of its own.

        Raises:
            ValueError: something does not fit; the message names image and pixel. Nothing of this call is kept then.
        """
        ids = whole_numbers(image_ids, "image_ids").tolist()
        if not len(predictions) == len(targets) == len(ids):
            raise ValueError(
                f"{len(predictions)} predictions, {len(targets)} targets and {len(ids)} image ids: "
                "give one of each for each image"
            )
        rows: dict[int, State] = {}
        for i, (prediction, target, image_id) in enumerate(zip(predictions, targets, ids, strict=True)):
            if image_id not in self._seen and image_id not in rows:
                rows[image_id] = self._count(prediction, target, i, image_id)
        for row in rows.values():
            self._add(row)

    def compute(self) -> SegmentationMetrics:
        """The metrics of everything that came so far; more may follow. Raises ValueError where no image came."""
        state, classes = self._collected(), len(self.names)
        order = np.argsort(state["image_ids"])
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        true, found = np.divmod(state["pairs"].astype(np.int64), 256)
        row, hit = np.repeat(place, state["pair_counts"]) * classes, true == found
        pixels, images = state["pixels"], len(order)

        def table(where: NDArray[np.int64], values: NDArray[np.int64], rows: int = images) -> NDArray[np.int64]:
            """(rows, K) sums; float64 holds them exactly up to 2^53."""
            return np.bincount(where, values, rows * classes).astype(np.int64).reshape(rows, classes)

        edges = None
        if self.boundary:
            at = np.repeat(place, state["edge_counts"]) * classes + state["edge_labels"]
            edges = np.stack([table(at, column) for column in state["edge_pixels"].T])
        counts = table(row + true, pixels), table(row + found, pixels), table((row + true)[hit], pixels[hit])
        confusion = table(true * classes + found, pixels, classes)
        return measure_segmentation(self.names, confusion, ImageCounts(state["image_ids"][order], *counts, edges))

    def _settings(self) -> State:
        return {"names": self.names, "ignore_index": self.ignore_index, "boundary": self.boundary}

    def _empty(self) -> State:
        """N images have P pairs and E classes with a boundary, in the images' order."""
        none = np.zeros(0, np.int64)
        # A pair is 256 · true class + predicted class.
        state: State = {"image_ids": none, "pair_counts": none, "pairs": none.astype(np.uint16), "pixels": none}
        if self.boundary:  # the pixels (E, 3) see `boundary_counts`
            edges = {"edge_labels": none.astype(np.uint8), "edge_pixels": np.zeros((0, 3), np.int64)}
            state |= {"edge_counts": none} | edges
        return state

    def _count(self, prediction: Any, target: Any, i: int, image_id: int) -> State:
        """The state of one image."""
        classes, place = len(self.names), f"[{i}] (image {image_id})"
        found = read_prediction(prediction, classes, f"predictions{place}")
        true = read_target(target, classes, self.ignore_index, f"targets{place}")
        if found.shape != true.shape:
            raise ValueError(
                f"predictions{place} is {found.shape} (height, width), its target {true.shape}: scale the logits to "
                "the size of the target before the argmax"
            )
        table = count_pairs(true, found, classes)[:classes]
        pairs = np.nonzero(table)
        state = {
            "image_ids": np.array([image_id]),
            "pair_counts": np.array([len(pairs[0])]),
            "pairs": (256 * pairs[0] + pairs[1]).astype(np.uint16),
            "pixels": table[pairs],
        }
        if self.boundary:
            edges = boundary_counts(true, found, classes)
            labels = np.flatnonzero(edges.any(axis=0))
            state |= {
                "edge_counts": np.array([len(labels)]),
                "edge_labels": labels.astype(np.uint8),
                "edge_pixels": edges[:, labels].T,
            }
        return state


def evaluate_segmentation(
    targets: Iterable[ArrayLike],
    predictions: Iterable[ArrayLike],
    names: Sequence[str],
    *,
    image_ids: Iterable[int] | None = None,
    ignore_index: int = 255,
    boundary: bool = True,
) -> SegmentationMetrics:
    """Evaluate predicted label maps; generators are taken image by image.

    The (H, W) label maps and the options are as for `SegmentationEvaluator`; the ids are 0, 1, … if not given, and an
    image that comes twice counts once. Raises ValueError where there is no image, or more of one than of the others.
    """
    evaluator = SegmentationEvaluator(names, ignore_index=ignore_index, boundary=boundary)
    ids = count() if image_ids is None else image_ids
    sides: dict[str, Iterable[Any]] = {"predictions": predictions, "targets": targets, "image_ids": ids}
    nothing = object()
    for number, row in enumerate(zip_longest(*sides.values(), fillvalue=nothing)):
        ended = [name for name, entry in zip(sides, row, strict=True) if entry is nothing]
        if image_ids is None and len(ended) == 2:
            break
        if ended:
            raise ValueError(f"{ended[0]} end after {number}, there are more of the others: give one for each image")
        evaluator.update(row[:1], row[1:2], row[2:])
    return evaluator.compute()
