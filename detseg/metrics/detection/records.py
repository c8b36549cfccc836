"""Columns of COCO records, checked: every message names the item, what is wrong with it, and the remedy.

`label(i)` is what a message calls item i, such as "results.json[17]".
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from detseg.box_formats import convert_boxes
from detseg.data.coco_ids import TextIds
from detseg.data.coco_json import as_polygons
from detseg.data.run_lengths import RunLengths
from detseg.metrics.arrays import as_numpy
from detseg.reading import cause

Label = Callable[[int], str]
Rle = dict[str, Any]  # compressed COCO run lengths: {"size": [height, width], "counts": bytes or str}


def read_column(items: Sequence[Any], key: str, label: Label) -> list[Any]:
    """`item[key]` of every item."""
    try:
        return [item[key] for item in items]
    except (KeyError, TypeError):
        for i, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise ValueError(f"{label(i)} must be a dict, got {item!r:.80}") from None
            if key not in item:
                raise ValueError(f"{label(i)} has no {key!r}; it has {', '.join(item)}") from None
        raise


def read_ids(items: Sequence[Any], key: str, place: str, texts: TextIds, in_results: bool = False) -> NDArray[np.int64]:
    """`item[key]` of every item as (n,) whole numbers; `place` is what a message calls the list.

    `texts` are the ids of the ground truth that are texts. The numbers that stand for names count in results only.
    """
    values = read_column(items, key, lambda i: f"{place}[{i}]")
    for i, value in enumerate(values if texts else ()):
        values[i] = texts.number(value)
        if isinstance(values[i], str) or (not in_results and isinstance(value, int) and value in texts.named):
            raise ValueError(f"{place}[{i}]: {key} {value!r:.80} is not in the list of the ground truth")
    return whole_numbers(values, place, key)


def own_ids(items: Sequence[Any], place: str) -> tuple[NDArray[np.int64], TextIds]:
    """`item["id"]` of every item as (n,) whole numbers, and those that are texts."""
    texts = TextIds.of(read_column(items, "id", lambda i: f"{place}[{i}]"))
    return read_ids(items, "id", place, texts), texts


def whole_numbers(values: Any, place: str, key: str = "an id") -> NDArray[np.int64]:
    """(n,) int64 of a list, an array or a tensor; 3.0 is whole, 3.5 and "3" are not."""
    try:
        array = as_numpy(values)
    except ValueError:  # lists among the numbers
        array = np.fromiter(values, object)
    if array.ndim == 0:
        raise ValueError(f"{place} must be a list of whole numbers, got {values!r:.80}")
    if len(array) == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim > 1 or not np.can_cast(array.dtype, np.int64):
        for i, value in enumerate(values if isinstance(values, list | tuple) else array.tolist()):
            whole = isinstance(value, int | np.integer) or (isinstance(value, float) and value.is_integer())
            if not whole or abs(value) >= 2**63:
                raise ValueError(f"{place}[{i}]: {key} must be a whole number, got {value!r:.80}")
    return array.astype(np.int64)


def read_numbers(values: Sequence[Any] | NDArray[Any], label: Label, key: str) -> NDArray[np.float64]:
    """(n,) finite float64."""
    try:
        array = np.asarray(values, dtype=np.float64)
        right = array.ndim == 1
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        for i, value in enumerate(values):
            if not _is_float(value):
                raise ValueError(f"{label(i)}: {key} must be a number, got {value!r:.80}")
        raise ValueError(f"{label(0)}: {key} must be a number")
    stop_at(~np.isfinite(array), label, lambda i: f"{key} must be finite, got {array[i]}")
    return array


def read_boxes(items: Sequence[Any], label: Label) -> NDArray[np.float64]:
    """(n, 4) xywh; `check_boxes` looks at the numbers."""
    rows = read_column(items, "bbox", label)
    try:
        boxes = np.asarray(rows, dtype=np.float64) if len(rows) else np.zeros((0, 4))
        right = boxes.shape == (len(rows), 4)
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        for i, row in enumerate(rows):
            numbers = isinstance(row, Sequence | np.ndarray) and all(map(_is_float, row))
            if not numbers or len(row) != 4:
                raise ValueError(f"{label(i)}: bbox must be [x, y, width, height], got {row!r:.80}")
        raise ValueError(f"{label(0)}: bbox must be [x, y, width, height]")
    return boxes


def _is_float(value: Any) -> bool:
    """Whether this is a number that float64 holds; Python's whole numbers have no end."""
    if isinstance(value, np.integer | np.floating):
        return True
    return isinstance(value, int | float) and not abs(value) > sys.float_info.max


def check_boxes(boxes: NDArray[np.float64], label: Label) -> None:
    """Stop at the first box (n, 4) xywh that is not finite or has a negative size."""
    if np.isfinite(boxes).all() and not (boxes[:, 2:] < 0).any():
        return  # looking at each box for itself takes ten times as long
    infinite, negative = ~np.asarray(np.isfinite(boxes).all(axis=1)), np.asarray((boxes[:, 2:] < 0).any(axis=1))
    stop_at(infinite, label, lambda i: f"the box must be finite, got xywh {boxes[i].tolist()}")
    what = "the box has a negative width or height: xywh {} (is it xyxy?)"
    stop_at(negative, label, lambda i: what.format(boxes[i].tolist()))


def check_known(ids: NDArray[np.int64], known: NDArray[np.int64], label: Label, key: str, remedy: str) -> None:
    """Stop at the first id that is not among the known ones."""
    stop_at(positions(ids, known) < 0, label, lambda i: f"{key} {ids[i]}: {remedy}")


def positions(ids: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int32]:
    """(n,) where in `known`, distinct numbers in any order, each id is; -1 for nowhere."""
    if not known.size or not ids.size:
        return np.full(len(ids), -1, np.int32)
    low, high = int(known.min()), int(known.max())
    if high - low < 4 * (len(ids) + len(known)) + 1_000_000:  # COCO's ids have holes, but stay below 600 000
        table = np.full(high - low + 1, -1, np.int32)
        table[known - low] = np.arange(len(known))
        inside = (ids >= low) & (ids <= high)
        if inside.all():
            return table[ids - low]
        found = np.full(len(ids), -1, np.int32)
        found[inside] = table[ids[inside] - low]
        return found
    order = np.argsort(known)
    nearest = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return np.where(known[nearest] == ids, nearest, -1).astype(np.int32)


def stop_at(bad: NDArray[np.bool_], label: Label, what: Label) -> None:
    """Raise ValueError for the first bad item and tell how many more there are."""
    if bad.any():
        first, count = int(bad.argmax()), int(bad.sum())
        more = f" ({count} such items in all)" if count > 1 else ""
        raise ValueError(f"{label(first)}: {what(first)}{more}")


# ------------------------------------------------------------------ masks

MOST_PIXELS = 2**32 - 1  # run lengths are counted in 32 bits; pycocotools reads past the end of what claims more


def check_sizes(sizes: Sequence[tuple[int, int]], image_ids: NDArray[np.int64], place: str) -> None:
    """Raise ValueError for the first image whose (height, width) no mask can have; zeros are sizes not known."""
    for (height, width), image in zip(sizes, image_ids.tolist(), strict=True):
        if min(height, width) < 0 or height * width > MOST_PIXELS:
            raise ValueError(
                f"{place}: image {image} is said to be {width} x {height} pixels, but masks have 0 to 2^32; correct "
                "its width and height"
            )


def read_masks(outlines: Sequence[Any], image_ids: NDArray[np.int64], truth: Any, label: Label) -> Sequence[Rle]:
    """Compressed run lengths (n,) of COCO's `segmentation` (n,): polygons, plain or compressed run lengths.

    `truth` has the `image_ids` and their `sizes` (height, width), zeros where unknown.
    """
    if isinstance(outlines, RunLengths):
        wanted = np.array(truth.sizes, np.int64).reshape(-1, 2)[positions(image_ids, truth.image_ids)]
        if (outlines.sizes == wanted).all() and wanted.all():
            return outlines
    sizes = dict(zip(truth.image_ids.tolist(), truth.sizes, strict=True))
    # What is right already is passed on as it is: a million masks should not cost a million calls.
    right = {image: [height, width] for image, (height, width) in sizes.items() if height and width}
    return [
        outline
        if type(outline) is dict
        and type(outline.get("counts")) in (str, bytes)
        and type(outline.get("size")) is list
        and outline["size"] == right.get(image)
        else _mask(outline, sizes[image], i, label)
        for i, (outline, image) in enumerate(zip(outlines, image_ids.tolist(), strict=True))
    ]


def _mask(outline: Any, size: tuple[int, int], i: int, label: Label) -> Rle:
    from pycocotools import mask as coco_mask

    from detseg.data.polygons import FAR, can_be_drawn

    def stop(what: str) -> NoReturn:
        raise ValueError(f"{label(i)}: {what}")

    if not outline:
        stop("no 'segmentation', which masks are compared by; use iou_type='bbox'")
    height, width = size
    if not (height and width):
        stop("the size of its image is unknown, so its mask cannot be placed: give width and height")
    if isinstance(outline, Mapping) and {"size", "counts"} <= outline.keys():
        given = outline["size"]
        if not isinstance(given, Sequence | np.ndarray) or list(given) != [height, width]:
            stop(f"the mask is {given!r:.80} (height, width), its image [{height}, {width}]")
    try:
        if isinstance(outline, list):
            outline = as_polygons(outline)
            if not all(map(can_be_drawn, outline)):
                raise ValueError(f"a polygon holds NaN, infinity or numbers beyond {FAR:,.0f}")
            rle = coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
        else:
            rle = _compressed(outline)
    except Exception as error:  # pycocotools raises bare Exceptions
        stop(f"segmentation is neither polygons nor COCO run lengths: {cause(error)}")
    return dict(rle)


def _compressed(outline: Any) -> Rle:
    """Run lengths of COCO, compressed if they are not."""
    from pycocotools import mask as coco_mask

    if not isinstance(outline, Mapping):
        raise TypeError(f"it is {outline!r:.80}")
    counts, size = outline["counts"], outline["size"]
    if isinstance(counts, str | bytes):
        return {"size": list(size), "counts": counts}
    if not isinstance(counts, list):
        raise TypeError(f"counts are {type(counts).__name__}")
    odd = [count for count in counts if not (isinstance(count, int | np.integer) and 0 <= count <= MOST_PIXELS)]
    if odd:
        raise ValueError(f"counts must be whole numbers from 0 to 2^32, got {odd[0]!r:.80}")
    rle: Rle = coco_mask.frPyObjects(outline, *size)
    return rle


def to_xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) from xyxy."""
    return convert_boxes(boxes, "xyxy", "xywh")
