"""`DetectionEvaluator`: COCO average precision of predictions that come batch by batch, from any process."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.metrics.detection.average_precision import DetectionMetrics, measure
from detseg.metrics.detection.batches import prediction_columns, target_columns
from detseg.metrics.detection.inputs import Found, IoUType, Truth, read_truth
from detseg.metrics.detection.matching import IOU_THRESHOLDS, MAX_DETECTIONS
from detseg.metrics.detection.records import Rle, as_numpy, check_known, positions, read_masks, to_xywh, without_labels

State = dict[str, Any]  # arrays by name, and lists of masks


class DetectionEvaluator:
    """Collect what a detector found in images and judge it as `evaluate_detections` does.

    With the ground truth known from the start, tell which images the predictions belong to:

        evaluator = DetectionEvaluator(annotations)
        evaluator.update(predictions, image_ids)
        metrics = evaluator.compute()

    Or give it along: `DetectionEvaluator(["rose", "tulip"])`, then `update(predictions, targets)`.

    In several processes each has an evaluator of its own. It can be pickled, so
    `torch.distributed.all_gather_object` brings them, or the smaller `state()`, together, and `merge` joins
    them. An image that came more than once, as distributed samplers repeat some to fill the last batch,
    counts once.

    Args:
        ground_truth: `detseg.data.Annotations` or anything else that `evaluate_detections` takes; or the
            categories of the labels 0..K-1: names, pairs of the dataset's own id and a name, or COCO's dicts of both.
        iou_type, iou_thresholds, max_detections, class_agnostic: as for `evaluate_detections`.

    Raises:
        ValueError: the ground truth is at fault; the message names the item.
    """

    def __init__(
        self,
        ground_truth: Any,
        iou_type: IoUType = "bbox",
        *,
        iou_thresholds: ArrayLike | None = None,
        max_detections: Sequence[int] = MAX_DETECTIONS,
        class_agnostic: bool = False,
    ) -> None:
        if iou_type not in ("bbox", "segm"):
            raise ValueError(f"iou_type must be 'bbox' or 'segm', got {iou_type!r}")
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
        self._parts: list[State] = []

    def __len__(self) -> int:
        """Images seen so far, each counted once."""
        return len(np.unique(np.concatenate([np.zeros(0, np.int64), *(p["image_ids"] for p in self._parts)])))

    def update(self, predictions: Iterable[Mapping[str, Any]], targets: Iterable[Any]) -> None:
        """Add the predictions of some images.

        Args:
            predictions: for each image a dict of `boxes` (M, 4) xyxy in the image's own pixels, `scores`
                (M,), `labels` (M,) in 0..K-1, and for iou_type="segm" `masks`, (M, H, W) bool or M COCO run
                lengths. Torch on any device, or numpy.
            targets: for each image its id; or a dict of `image_id` and, where the ground truth is not known
                from the start, `boxes`, `labels`, `iscrowd` (False if missing), `area` (if missing: of the box
                or mask) and `masks`, in the same pixels as the predictions.

        Raises:
            ValueError: lengths or shapes do not fit, a number is not finite, a label is outside 0..K-1, or a
                image is unknown; the message names the image.
        """
        found, given = list(predictions), list(targets)
        if len(found) != len(given):
            raise ValueError(f"{len(found)} predictions for {len(given)} targets: give one for each image")
        part = self._read(found, given)
        self._check_images(part["image_ids"], "targets")
        if len(given):
            self._parts.append(part)

    def compute(self, *, partial: bool = False) -> DetectionMetrics:
        """The metrics of everything that came so far; more may follow.

        Args:
            partial: judge only the images that came. Otherwise, where the ground truth is known from the
                start, all of its images must have come, so that none is forgotten silently.

        Raises:
            ValueError: no image came, or some are missing.
        """
        state = _once(self._joined())
        if not len(state["image_ids"]):
            raise ValueError("no images to judge: call update first")
        truth = self._truth_of(state)
        missing = truth.image_ids[positions(truth.image_ids, state["image_ids"]) < 0]
        if len(missing) and not partial:
            raise ValueError(
                f"{len(missing)} of {len(truth.image_ids)} images of the ground truth had no update, the first is "
                f"image {missing[0]}; give predictions for all (empty ones where nothing was found), or "
                "compute(partial=True) to judge only the others"
            )
        if len(missing):
            truth = _subset(truth, state["image_ids"])
        return measure(truth, self._found_of(state, truth), self.iou_type, **self._options)

    def state(self) -> State:
        """Everything that came, as one dict of flat arrays (and lists of run-length masks)."""
        return {"names": np.array(self._names), "category_ids": self._category_ids} | self._joined()

    def _joined(self) -> State:
        if not self._parts:
            return {"image_ids": np.zeros(0, np.int64)}
        state: State = {}
        for name, first in self._parts[0].items():
            values = [part[name] for part in self._parts]
            state[name] = [m for v in values for m in v] if isinstance(first, list) else np.concatenate(values)
        return state

    def merge(self, other: "DetectionEvaluator | State") -> None:
        """Add what another evaluator, or the `state()` of one, has seen.

        Raises:
            ValueError: the other evaluator has other categories, options or images. A state does not know its
                evaluator's options.
        """
        if isinstance(other, DetectionEvaluator):
            same = (
                self._names == other._names
                and np.array_equal(self._category_ids, other._category_ids)
                and (self._truth is None) == (other._truth is None)
                and self.iou_type == other.iou_type
                and all(np.array_equal(value, other._options[name]) for name, value in self._options.items())
            )
            if not same:
                raise ValueError("the other evaluator has other categories, other options or no ground truth")
            other = other.state()
        other = without_labels(other, names=self._names, category_ids=self._category_ids)
        if not len(other["image_ids"]):
            return
        wanted = self._read([], [])
        if wanted.keys() != other.keys():
            raise ValueError(f"the other state holds {', '.join(other)}; this evaluator has {', '.join(wanted)}")
        self._check_images(other["image_ids"], "the other state's image_ids")
        for name in [name for name in ("labels", "object_labels") if name in other]:
            _check_labels(other[name], len(self._names), f"the other state's {name}")
        self._parts.append(dict(other))

    def reset(self) -> None:
        """Forget all images."""
        self._parts = []

    def _read(self, predictions: Sequence[Mapping[str, Any]], targets: Sequence[Any]) -> State:
        """The state of these images alone."""
        image_ids, classes = _image_ids(targets), len(self._names)
        part = {"image_ids": image_ids} | prediction_columns(predictions, image_ids, classes, self.iou_type)
        if self._truth is None:
            objects = target_columns(targets, image_ids, classes, self.iou_type)
            part |= {f"object_{name}": values for name, values in objects.items()}
        return part

    def _check_images(self, image_ids: NDArray[np.int64], place: str) -> None:
        """Stop at an image that the ground truth does not list: compiled loops would read beyond their arrays."""
        if self._truth is not None:
            remedy = "the ground truth lists no such image"
            check_known(image_ids, self._truth.image_ids, lambda i: f"{place}[{i}]", "image id", remedy)

    def _found_of(self, state: State, truth: Truth) -> Found:
        image_ids = np.repeat(state["image_ids"], state["counts"])
        boxes = to_xywh(state["boxes"])
        masks = None
        if self.iou_type == "segm":
            sizes = dict(zip(truth.image_ids.tolist(), truth.sizes, strict=True))
            masks = read_masks(state["masks"], image_ids, sizes, lambda i: f"image {image_ids[i]}: a prediction")
        return Found(
            image_ids=image_ids,
            category_ids=self._category_ids[state["labels"]],
            boxes=boxes,
            areas=boxes[:, 2] * boxes[:, 3],
            scores=state["scores"],
            masks=masks,
        )

    def _truth_of(self, state: State) -> Truth:
        """The ground truth: known from the start, or what came with the targets."""
        if self._truth is not None:
            return self._truth
        boxes = to_xywh(state["object_boxes"])
        images, counts = state["image_ids"], state["object_counts"]
        masks = state.get("object_masks")
        return Truth(
            image_ids=images,
            sizes=_sizes(images, [(counts, masks), (state["counts"], state.get("masks"))]),
            category_ids=self._category_ids,
            names=self._names,
            object_images=np.repeat(images, counts),
            object_categories=self._category_ids[state["object_labels"]],
            boxes=boxes,
            areas=state["object_areas"],
            iscrowd=state["object_iscrowd"],
            masks=masks,
        )


def _categories(given: Sequence[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Ids (K,) and names of categories given as names, or as pairs of id and name."""
    if not given:
        raise ValueError("the list of categories is empty: give a name, or a pair of id and name, for each label")
    pairs = [_category(i, entry) for i, entry in enumerate(given)]
    ids = np.array([pair[0] for pair in pairs], dtype=np.int64)
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"the ids of the categories must differ, got {ids.tolist()}")
    return ids, tuple(str(pair[1]) for pair in pairs)


def _category(label: int, entry: Any) -> tuple[int, str]:
    """Id and name of one entry of the list."""
    if isinstance(entry, str):
        return label, entry
    if isinstance(entry, Mapping) and {"id", "name"} <= entry.keys():
        return int(entry["id"]), str(entry["name"])
    if isinstance(entry, list | tuple) and len(entry) == 2:
        return int(entry[0]), str(entry[1])
    raise ValueError(f"categories[{label}] = {entry!r:.80} is no name, no pair of id and name, and no dict of both")


def _check_labels(labels: NDArray[np.int64], classes: int, place: str) -> None:
    remedy = f"it is outside 0..{classes - 1}"
    check_known(labels, np.arange(classes), lambda i: f"{place}[{i}]", "label", remedy)


def _image_ids(targets: Sequence[Any]) -> NDArray[np.int64]:
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


def _once(state: State) -> State:
    """The state with only the first appearance of each image."""
    image_ids = state["image_ids"]
    first = np.zeros(len(image_ids), bool)
    first[np.unique(image_ids, return_index=True)[1]] = True
    if first.all():
        return state
    kept = {"": first, "object_": first}
    for side in [side for side in kept if f"{side}counts" in state]:
        kept[side] = np.repeat(first, state[f"{side}counts"])
    result: State = {}
    for name, values in state.items():
        rows = kept["object_" if name.startswith("object_") else ""]
        if name in ("image_ids", "counts", "object_counts"):
            rows = first
        if isinstance(values, list):
            result[name] = [value for value, keep in zip(values, rows, strict=True) if keep]
        else:
            result[name] = values[rows]
    return result


def _subset(truth: Truth, image_ids: NDArray[np.int64]) -> Truth:
    """The ground truth of some images."""
    images = np.flatnonzero(positions(truth.image_ids, image_ids) >= 0)
    objects = np.flatnonzero(positions(truth.object_images, image_ids) >= 0)
    return replace(
        truth,
        image_ids=truth.image_ids[images],
        sizes=[truth.sizes[i] for i in images],
        object_images=truth.object_images[objects],
        object_categories=truth.object_categories[objects],
        boxes=truth.boxes[objects],
        areas=truth.areas[objects],
        iscrowd=truth.iscrowd[objects],
        masks=None if truth.masks is None else [truth.masks[int(i)] for i in objects],
    )


def _sizes(
    image_ids: NDArray[np.int64], sides: Sequence[tuple[NDArray[np.int64], list[Rle] | None]]
) -> list[tuple[int, int]]:
    """(height, width) of images by their masks; zeros for those without."""
    sizes = [(0, 0)] * len(image_ids)
    for counts, masks in sides:
        for i, mask in zip(np.repeat(np.arange(len(sizes)), counts).tolist(), masks or (), strict=False):
            size = (int(mask["size"][0]), int(mask["size"][1]))
            if sizes[i] not in ((0, 0), size):
                raise ValueError(
                    f"image {image_ids[i]}: two of its masks have the sizes {sizes[i]} and {size}: they must be equal"
                )
            sizes[i] = size
    return sizes
