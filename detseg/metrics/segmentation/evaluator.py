"""`SegmentationEvaluator`: figures of predicted label maps that come batch by batch, from any process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.detection.records import as_numpy, whole_numbers, without_labels
from detseg.metrics.segmentation.boundary import boundary_counts
from detseg.metrics.segmentation.label_maps import check_classes, count_pairs, read_prediction, read_target
from detseg.metrics.segmentation.mean_iou import ImageCounts, SegmentationMetrics, measure_segmentation

State = dict[str, NDArray[Any]]  # arrays by name; see `_empty`

_MOST_PARTS = 1000  # of more, the small arrays would take more memory than what is in them


class SegmentationEvaluator:
    """Count which class the pixels of images are and which one was predicted.

        evaluator = SegmentationEvaluator(["background", "flower"])
        evaluator.update(predictions, targets, image_ids)
        metrics = evaluator.compute()

    Of each image it keeps how often each pair of a true and a predicted class that meet in it does so, a few
    numbers; never the maps. So an image that came more than once, as distributed samplers repeat some to fill the
    last batch, counts once, and the metrics know each image.

    In several processes each has an evaluator of its own. It can be pickled, so `torch.distributed.all_gather_object`
    brings them, or the smaller `state()`, together, and `merge` joins them.

    Args:
        names: of the classes 0..K-1, at most 255.
        ignore_index: of target pixels that are not judged; any whole number.
        boundary: also Boundary IoU, which takes most of the time.

    Raises:
        ValueError: no names, or more than 255.
    """

    def __init__(self, names: Sequence[str], *, ignore_index: int = 255, boundary: bool = True) -> None:
        check_classes(len(names))
        self.names, self.ignore_index, self.boundary = tuple(map(str, names)), int(ignore_index), bool(boundary)
        self._parts: list[State] = []
        self._seen: set[int] = set()

    def __len__(self) -> int:
        """Images seen so far, each counted once."""
        return len(self._seen)

    def update(self, predictions: Sequence[Any], targets: Sequence[Any], image_ids: Sequence[int]) -> None:
        """Add some images.

        Args:
            predictions: for each image its label map (H, W) of whole numbers 0..K-1, or all as one array
                (N, H, W). Torch on any device, or numpy.
            targets: for each image the true label map of the same size, 0..K-1 or `ignore_index`.
            image_ids: for each image a number of its own.

        Raises:
            ValueError: lengths or sizes do not fit, or a value is no class; the message names image and pixel.
                Nothing of this call is kept then.
        """
        ids = whole_numbers(as_numpy(image_ids), "image_ids").tolist()
        if not len(predictions) == len(targets) == len(ids):
            raise ValueError(
                f"{len(predictions)} predictions, {len(targets)} targets and {len(ids)} image ids: "
                "give one of each for each image"
            )
        rows: dict[int, State] = {}
        for i, (prediction, target, image_id) in enumerate(zip(predictions, targets, ids, strict=True)):
            if image_id not in self._seen and image_id not in rows:
                rows[image_id] = self._count(prediction, target, i, image_id)
        self._parts.extend(rows.values())
        self._seen.update(rows)
        if len(self._parts) > _MOST_PARTS:
            self._joined()

    def compute(self) -> SegmentationMetrics:
        """The metrics of everything that came so far; more may follow. The order in which it came does not matter.

        Raises:
            ValueError: no image came.
        """
        if not self._seen:
            raise ValueError("no images to judge: call update first")
        state, classes = self._joined(), len(self.names)
        order = np.argsort(state["image_ids"])
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        true, found = np.divmod(state["pairs"].astype(np.int64), 256)
        row, hit = np.repeat(place, state["pair_counts"]) * classes, true == found
        pixels = state["pixels"]

        def table(where: NDArray[np.int64], values: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
            """(rows, K) sums; float64 holds them exactly up to 2^53."""
            return np.bincount(where, values, rows * classes).astype(np.int64).reshape(rows, classes)

        edges = None
        if self.boundary:
            at = np.repeat(place, state["edge_counts"]) * classes + state["edge_labels"]
            edges = np.stack([table(at, column, len(order)) for column in state["edge_pixels"].T])
        images = ImageCounts(
            image_ids=state["image_ids"][order],
            truth=table(row + true, pixels, len(order)),
            predicted=table(row + found, pixels, len(order)),
            hits=table((row + true)[hit], pixels[hit], len(order)),
            boundary=edges,
        )
        return measure_segmentation(self.names, table(true * classes + found, pixels, classes), images)

    def state(self) -> State:
        """Everything that came, as one dict of flat arrays."""
        return {"names": np.array(self.names)} | self._joined()

    def _joined(self) -> State:
        if len(self._parts) != 1:
            parts = [_empty(self.boundary), *self._parts]
            self._parts = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}]
        return self._parts[0]

    def merge(self, other: "SegmentationEvaluator | State") -> None:
        """Add what another evaluator, or the `state()` of one, has seen.

        Raises:
            ValueError: the other evaluator has other classes or options. A state does not know which pixels its
                evaluator ignored.
        """
        if isinstance(other, SegmentationEvaluator):
            if (self.names, self.ignore_index) != (other.names, other.ignore_index):
                raise ValueError("the other evaluator has other classes or another ignore_index")
            other = other.state()
        other = without_labels(other, names=self.names)
        wanted = _empty(self.boundary)
        if wanted.keys() != other.keys():
            raise ValueError(f"the other state holds {', '.join(other)}; this evaluator has {', '.join(wanted)}")
        new = _without(other, self._seen)
        self._parts.append(new)
        self._seen.update(new["image_ids"].tolist())

    def reset(self) -> None:
        """Forget all images."""
        self._parts, self._seen = [], set()

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


def _empty(boundary: bool) -> State:
    """The state of no images: N images have P pairs and E classes with a boundary, in the images' order."""
    state: State = {
        "image_ids": np.zeros(0, np.int64),  # (N,)
        "pair_counts": np.zeros(0, np.int64),  # (N,) pairs of each image
        "pairs": np.zeros(0, np.uint16),  # (P,) 256 · true class + predicted class
        "pixels": np.zeros(0, np.int64),  # (P,)
    }
    if boundary:
        state |= {
            "edge_counts": np.zeros(0, np.int64),  # (N,) classes of each image
            "edge_labels": np.zeros(0, np.uint8),  # (E,)
            "edge_pixels": np.zeros((0, 3), np.int64),  # (E, 3) see `boundary_counts`
        }
    return state


def _without(state: State, seen: set[int]) -> State:
    """The state without the images that were seen, and with only the first appearance of the others."""
    ids = state["image_ids"]
    kept = np.zeros(len(ids), bool)
    kept[np.unique(ids, return_index=True)[1]] = True
    kept &= np.array([image_id not in seen for image_id in ids.tolist()], bool)
    rows = {"image": kept}
    rows |= {kind: np.repeat(kept, state[f"{kind}_counts"]) for kind in ("pair", "edge") if f"{kind}_counts" in state}
    kinds = {"pairs": "pair", "pixels": "pair", "edge_labels": "edge", "edge_pixels": "edge"}
    return {name: values[rows[kinds.get(name, "image")]] for name, values in state.items()}
