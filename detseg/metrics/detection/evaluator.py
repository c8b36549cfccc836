"""`DetectionEvaluator`: COCO average precision of predictions that come batch by batch, from any process."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.metrics.arrays import as_numpy
from detseg.metrics.detection.average_precision import DetectionMetrics, measure
from detseg.metrics.detection.batches import prediction_columns, target_columns
from detseg.metrics.detection.inputs import Found, IoUType, Truth, check_iou_type, read_truth
from detseg.metrics.detection.matching import IOU_THRESHOLDS, MAX_DETECTIONS
from detseg.metrics.detection.records import check_known, positions, read_masks, to_xywh, whole_numbers
from detseg.metrics.evaluator import Evaluator, State


class DetectionEvaluator(Evaluator):
    """Collect the detections of images and evaluate them as `evaluate_detections` does; options as there.

    With the ground truth known from the start:

        evaluator = DetectionEvaluator(annotations)
        evaluator.update(predictions, image_ids)
        metrics = evaluator.compute()

    Or give it along: `DetectionEvaluator(["rose", "tulip"])`, then `update(predictions, targets, image_ids)`. The
    categories of the labels 0..K-1 are names, pairs of the dataset's own id and a name, or COCO's dicts of both.
    """

    _counted_by = dict.fromkeys(("boxes", "labels", "scores", "masks"), "counts") | dict.fromkeys(
        [f"object_{name}" for name in ("boxes", "labels", "iscrowd", "areas", "masks")], "object_counts"
    )

    def __init__(
        self,
        ground_truth: Any,
        iou_type: IoUType = "bbox",
        *,
        iou_thresholds: ArrayLike | None = None,
        max_detections: Sequence[int] = MAX_DETECTIONS,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        check_iou_type(iou_type)
        self.iou_type: IoUType = iou_type
        self._options: dict[str, Any] = {
            "iou_thresholds": IOU_THRESHOLDS if iou_thresholds is None else iou_thresholds,
            "max_detections": tuple(max_detections),
            "class_agnostic": class_agnostic,
        }
        self._truth: Truth | None = None
        if isinstance(ground_truth, list | tuple):
            self._category_ids, self._names = _categories(ground_truth)
        else:
            self._truth = read_truth(ground_truth, iou_type)
            self._category_ids, self._names = self._truth.category_ids, self._truth.names

    def update(self, predictions: Iterable[Mapping[str, Any]], targets: Any, image_ids: Any = None) -> None:
        """Add the predictions of some images.

        Args:
            predictions: for each image a dict of `boxes` (M, 4) xyxy in the image's own pixels, `scores`
                (M,), `labels` (M,) in 0..K-1, and unless iou_type="bbox" `masks`, (M, H, W) bool or M COCO run
                lengths. Torch on any device, or numpy.
            targets: for each image a dict of `boxes`, `labels`, `iscrowd` (False if missing), `area` (if missing: of
                the box or mask) and `masks`, in the same pixels as the predictions. Where the ground truth is known
                from the start they are not looked at, and may be None.
            image_ids: for each image its id. Where it is None, the targets are the ids, or have one as `image_id`.

        Raises:
            ValueError: something is missing or wrong; the message names the image. Nothing of this call is kept then.
        """
        rows, targets = list(predictions), None if targets is None else list(targets)
        ids = _ids_of(targets or ()) if image_ids is None else whole_numbers(image_ids, "image_ids")
        for what, given in (("targets", targets), ("image ids", ids)):
            if given is not None and len(rows) != len(given):
                raise ValueError(f"{len(rows)} predictions for {len(given)} {what}: give one for each image")
        part = self._read(rows, targets, ids)
        self._check_images(ids, "targets" if image_ids is None else "image_ids")
        self._add(part)

    def compute(self, *, partial: bool = False) -> DetectionMetrics:
        """The metrics of all images so far; more may follow.

        Where the ground truth is known from the start, all of its images must have come, so that none is forgotten
        silently; with `partial` those that came are evaluated. Raises ValueError where some, or all, are missing.
        """
        truth, found = self._compared(partial)
        return measure(truth, found, self.iou_type, **self._options)

    def _compared(self, partial: bool) -> tuple[Truth, Found]:
        """Ground truth and detections of all images so far; see `compute`."""
        state = self._collected()
        truth = self._truth_of(state)
        missing = truth.image_ids[positions(truth.image_ids, state["image_ids"]) < 0]
        if len(missing) and not partial:
            raise ValueError(
                f"{len(missing)} of {len(truth.image_ids)} images of the ground truth had no update, the first is "
                f"image {missing[0]}; give predictions for all (empty ones where nothing was found), or "
                "compute(partial=True) to evaluate only the others"
            )
        if len(missing):
            truth = subset_of(truth, state["image_ids"])
        return truth, self._found_of(state, truth)

    def _settings(self) -> State:
        own = {"names": self._names, "category_ids": self._category_ids, "iou_type": self.iou_type}
        return own | self._options | {"known_ground_truth": self._truth is not None}

    def _empty(self) -> State:
        return self._read([], [], np.zeros(0, np.int64))

    def _check(self, state: State) -> None:
        self._check_images(state["image_ids"], "the other state's image_ids")
        remedy, known = f"it is outside 0..{len(self._names) - 1}", np.arange(len(self._names))
        for name in [name for name in ("labels", "object_labels") if name in state]:
            check_known(state[name], known, partial("the other state's {}[{}]".format, name), "label", remedy)

    def _read(self, predictions: Sequence[Mapping[str, Any]], targets: Any, image_ids: NDArray[np.int64]) -> State:
        """The columns of these images alone."""
        classes, masks = len(self._names), self.iou_type != "bbox"
        part = {"image_ids": image_ids} | prediction_columns(predictions, image_ids, classes, masks=masks)
        if self._truth is None:
            if targets is None:
                raise ValueError("targets are None, but the ground truth is not known from the start: give both")
            objects = target_columns(targets, image_ids, classes, masks=masks)
            part |= {f"object_{name}": values for name, values in objects.items()}
        return part

    def _check_images(self, image_ids: NDArray[np.int64], place: str) -> None:
        """Stop at an image that the ground truth does not list: compiled loops would read beyond their arrays."""
        if self._truth is not None:
            remedy = "the ground truth lists no such image"
            check_known(image_ids, self._truth.image_ids, lambda i: f"{place}[{i}]", "image id", remedy)

    def _found_of(self, state: State, truth: Truth) -> Found:
        image_ids = np.repeat(state["image_ids"], state["counts"])
        boxes, masks = to_xywh(state["boxes"]), None
        if self.iou_type != "bbox":
            masks = read_masks(state["masks"], image_ids, truth, lambda i: f"image {image_ids[i]}: a prediction")
        categories, areas = self._category_ids[state["labels"]], boxes[:, 2] * boxes[:, 3]
        return Found(image_ids, categories, boxes, areas, state["scores"], masks)

    def _truth_of(self, state: State) -> Truth:
        """The ground truth: known from the start, or what came with the targets."""
        if self._truth is not None:
            return self._truth
        return Truth(
            image_ids=state["image_ids"],
            sizes=_sizes(state),
            category_ids=self._category_ids,
            names=self._names,
            object_images=np.repeat(state["image_ids"], state["object_counts"]),
            object_categories=self._category_ids[state["object_labels"]],
            boxes=to_xywh(state["object_boxes"]),
            areas=state["object_areas"],
            iscrowd=state["object_iscrowd"],
            masks=state.get("object_masks"),
        )


def _categories(given: Sequence[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Ids (K,) and names of categories given as names, or as pairs of id and name."""
    if not given:
        raise ValueError("the list of categories is empty: give a name, or a pair of id and name, for each label")
    pairs: list[Any] = []
    for label, entry in enumerate(given):
        if isinstance(entry, str):
            pairs.append((label, entry))
        elif isinstance(entry, Mapping) and {"id", "name"} <= entry.keys():
            pairs.append((entry["id"], entry["name"]))
        elif isinstance(entry, list | tuple) and len(entry) == 2:
            pairs.append(entry)
        else:
            what = "is no name, no pair of id and name, and no dict of both"
            raise ValueError(f"categories[{label}] = {entry!r:.80} {what}")
    ids = np.array([int(pair[0]) for pair in pairs], dtype=np.int64)
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"the ids of the categories must differ, got {ids.tolist()}")
    return ids, tuple(str(pair[1]) for pair in pairs)


def _ids_of(targets: Sequence[Any]) -> NDArray[np.int64]:
    """Ids from numbers, tensors of one number, or dicts that hold one as `image_id`."""
    ids = []
    for i, target in enumerate(targets):
        if isinstance(target, Mapping) and "image_id" not in target:
            raise ValueError(f"targets[{i}] has no 'image_id'; it has {', '.join(map(str, target))}")
        value = as_numpy(target["image_id"] if isinstance(target, Mapping) else target)
        if value.size != 1 or value.dtype.kind not in "iu":
            raise ValueError(f"targets[{i}]: the image id must be one whole number, got {value!r:.80}")
        ids.append(int(value.reshape(())))
    return np.array(ids, dtype=np.int64)


def subset_of(truth: Truth, image_ids: NDArray[np.int64]) -> Truth:
    """The ground truth of some images."""
    images = np.flatnonzero(positions(truth.image_ids, image_ids) >= 0)
    objects = np.flatnonzero(positions(truth.object_images, image_ids) >= 0)
    columns = ("object_images", "object_categories", "boxes", "areas", "iscrowd")
    return replace(
        truth,
        image_ids=truth.image_ids[images],
        sizes=[truth.sizes[i] for i in images],
        **{name: getattr(truth, name)[objects] for name in columns},
        masks=None if truth.masks is None else [truth.masks[int(i)] for i in objects],
    )


def _sizes(state: State) -> list[tuple[int, int]]:
    """(height, width) of images by their masks; zeros for those without."""
    ids = state["image_ids"].tolist()
    sizes = dict.fromkeys(ids, (0, 0))
    for counts, masks in (("object_counts", "object_masks"), ("counts", "masks")):
        for i, mask in zip(np.repeat(ids, state[counts]).tolist(), state.get(masks, ()), strict=False):
            size = (int(mask["size"][0]), int(mask["size"][1]))
            if sizes[i] not in ((0, 0), size):
                raise ValueError(
                    f"image {i}: two of its masks have the sizes {sizes[i]} and {size}: they must be equal"
                )
            sizes[i] = size
    return list(sizes.values())
