"""Predictions and targets of a batch, one dict an image, brought to flat arrays and checked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.arrays import as_numpy
from detseg.metrics.detection.records import check_boxes, check_known, read_numbers, to_xywh
from detseg.metrics.detection.run_lengths import encode_masks, mask_areas

Rows = Sequence[Mapping[str, Any]]
Columns = dict[str, Any]  # arrays by name; `masks` is a list


def prediction_columns(rows: Rows, image_ids: NDArray[np.int64], classes: int, *, masks: bool) -> Columns:
    """counts (n,) of n images, and of all D detections boxes (D, 4) xyxy, labels, scores and maybe masks.

    Raises ValueError where something is missing or wrong; the message names the image.
    """
    batch = _Batch(rows, image_ids, "prediction")
    columns = _boxes_and_labels(batch, classes, masks)
    columns["scores"] = read_numbers(batch.flat("scores"), batch.label, "score")
    return columns


def target_columns(rows: Rows, image_ids: NDArray[np.int64], classes: int, *, masks: bool) -> Columns:
    """Like `prediction_columns` for objects; with iscrowd and areas in place of scores."""
    batch = _Batch(rows, image_ids, "target")
    columns = _boxes_and_labels(batch, classes, masks)
    boxes = to_xywh(columns["boxes"])
    areas = boxes[:, 2] * boxes[:, 3] if not masks else mask_areas(columns["masks"])
    own = np.split(areas, np.cumsum(batch.counts)[:-1]) if len(rows) else []
    batch.rows = [
        {"area": area, "iscrowd": np.zeros(len(area), bool), **row} for row, area in zip(rows, own, strict=True)
    ]
    columns["iscrowd"] = batch.flat("iscrowd").astype(bool)
    columns["areas"] = read_numbers(batch.flat("area"), batch.label, "area")
    return columns


class _Batch:
    """The dicts of some images and how a message calls their parts."""

    def __init__(self, rows: Rows, image_ids: NDArray[np.int64], what: str) -> None:
        self.rows, self._image_ids, self._what = rows, image_ids, what
        shapes = [np.shape(self.entry(i, "labels")) for i in range(len(rows))]
        for i, shape in enumerate(shapes):
            if len(shape) != 1:
                raise ValueError(f"{self.place(i)}: labels must have shape (M,), got {tuple(shape)}")
        self.counts = np.array([shape[0] for shape in shapes], dtype=np.int64)

    def place(self, i: int) -> str:
        return f"image {self._image_ids[i]}: the {self._what}"

    def label(self, item: int) -> str:
        ends = np.cumsum(self.counts)
        i = int(np.searchsorted(ends, item, side="right"))
        return f"{self.place(i)}, entry {item - ends[i] + self.counts[i]}"

    def entry(self, i: int, name: str) -> Any:
        row = self.rows[i]
        if not isinstance(row, Mapping):
            raise ValueError(f"{self.place(i)} must be a dict, got {type(row).__name__}")
        if name not in row:
            raise ValueError(f"{self.place(i)} has no {name!r}; it has {', '.join(map(str, row))}")
        return row[name]

    def flat(self, name: str, *shape: int) -> NDArray[Any]:
        """(sum of M, *shape) the entries of all images."""
        values = [self.entry(i, name) for i in range(len(self.rows))]
        for i, (value, count) in enumerate(zip(values, self.counts.tolist(), strict=True)):
            got = tuple(np.shape(value))
            if got != (count, *shape) and not (count == 0 and 0 in got):
                raise ValueError(
                    f"{self.place(i)}: {name} must have shape {(count, *shape)} like the labels, got {got}"
                )
        values = [value for value, count in zip(values, self.counts, strict=True) if count]
        if not values:
            return np.zeros((0, *shape))
        if all(hasattr(value, "detach") for value in values):
            import torch

            return np.asarray(as_numpy(torch.cat(values)))  # one transfer from a GPU, not one an image
        return np.concatenate([as_numpy(value) for value in values])


def _boxes_and_labels(batch: _Batch, classes: int, masks: bool) -> Columns:
    boxes = batch.flat("boxes", 4)
    if boxes.dtype.kind not in "fiub":
        boxes = read_numbers(boxes.ravel(), lambda place: batch.label(place // 4), "a box's side").reshape(-1, 4)
    columns: Columns = {"counts": batch.counts, "boxes": boxes.astype(np.float64)}
    check_boxes(to_xywh(columns["boxes"]), batch.label)
    labels = batch.flat("labels")
    if labels.size and labels.dtype.kind not in "iu":
        raise ValueError(f"{batch.label(0)}: labels must be whole numbers, got {labels.dtype}")
    columns["labels"] = labels.astype(np.int64)
    check_known(columns["labels"], np.arange(classes), batch.label, "label", f"it is outside 0..{classes - 1}")
    if masks:
        images = [i for i, count in enumerate(batch.counts) if count or "masks" in batch.rows[i]]
        rles = [encode_masks(batch.entry(i, "masks"), int(batch.counts[i]), batch.place(i)) for i in images]
        columns["masks"] = [rle for of_image in rles for rle in of_image]
    return columns
