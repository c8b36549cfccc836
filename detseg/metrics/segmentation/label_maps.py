"""Label maps of semantic segmentation as bytes, checked, and how often each pair of classes meets in two of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.kernels import compiled
from detseg.metrics.arrays import as_numpy

LabelMap = NDArray[np.uint8]  # (H, W)

MOST_CLASSES = 255  # one value of a byte is left for pixels that do not count

_ONES = np.uint64(0x0101010101010101)


def check_classes(classes: int) -> None:
    """Stop at a number of classes that no byte map can hold beside the ignored pixels."""
    if not 1 <= classes <= MOST_CLASSES:
        raise ValueError(f"give 1 to {MOST_CLASSES} names of classes, got {classes}")


def read_prediction(values: Any, classes: int, label: str) -> LabelMap:
    """A predicted label map, (H, W) bytes in 0..K-1, from whole numbers, numpy or torch on any device.

    Raises:
        ValueError: it is no such map; the message names it by its `label`, and the first wrong pixel.
    """
    array = _narrow(values, label)
    if array.size and (array.max() >= classes or array.min() < 0):
        remedy = f"predictions are classes 0 to {classes - 1}, such as logits.argmax(0)"
        _stop(array, (array < 0) | (array >= classes), label, remedy)
    return _bytes(array)


def read_target(values: Any, classes: int, ignore_index: int, label: str) -> LabelMap:
    """As `read_prediction` for the truth: 0..K-1, and `MOST_CLASSES` where it is `ignore_index`, any whole number.

    Where that is in 0..K-1, the class never counts.
    """
    array = _narrow(values, label)
    if not array.size or (ignore_index >= classes and array.max() < classes and array.min() >= 0):
        return _bytes(array)
    ignored = array == ignore_index
    wrong = ((array < 0) | (array >= classes)) & ~ignored
    if wrong.any():
        remedy = f"it is neither a class, 0 to {classes - 1}, nor ignore_index {ignore_index}: map it to one of them"
        _stop(array, wrong, label, remedy)
    if ignore_index == MOST_CLASSES:
        return _bytes(array)
    return _bytes(np.where(ignored, MOST_CLASSES, array))


def count_pairs(first: LabelMap, second: LabelMap, classes: int) -> NDArray[np.int64]:
    """(256, K) how many pixels are i in the first map and j in the second, which holds values below K only.

    Both are contiguous and begin at a whole word of memory, as new arrays do.
    """
    table = np.zeros(256 * classes, np.int64)
    a, b = first.reshape(-1), second.reshape(-1)
    whole = len(a) // 8 * 8
    words = (flat[:whole].view(np.uint64) for flat in (a, b))
    _count(a, b, *words, classes, table)
    return table.reshape(256, classes)


@compiled
def _count(first: Any, second: Any, first_words: Any, second_words: Any, columns: int, table: Any) -> None:
    """Add the pairs of flat maps (P,) to the flat table; the words (uint64) are the same bytes, eight at a time.

    Most words hold one class, the one of the word before: these cost two comparisons.
    """
    code, run = 0, 0
    first_same, second_same = np.uint64(0), np.uint64(0)
    for word in range(len(first_words)):
        if first_words[word] == first_same and second_words[word] == second_same:
            run += 8
            continue
        table[code] += run
        run = 0
        for i in range(8 * word, 8 * word + 8):
            code = np.int64(first[i]) * columns + second[i]
            table[code] += 1
        first_same = np.uint64(first[8 * word + 7]) * _ONES
        second_same = np.uint64(second[8 * word + 7]) * _ONES
    table[code] += run
    for i in range(8 * len(first_words), len(first)):
        table[np.int64(first[i]) * columns + second[i]] += 1


def _narrow(values: Any, label: str) -> NDArray[Any]:
    """(H, W) as bytes if every value fits into one, else as it is."""
    if hasattr(values, "detach") and not values.is_floating_point():
        values = values.detach()
        values = values.int() if str(values.dtype) == "torch.uint16" else values  # torch can do next to nothing with it
        small = values.byte()
        # On the device, where one byte a pixel has to be brought over instead of eight.
        array = as_numpy(small if (small == values).all() else values)
    else:
        array = as_numpy(values)
        if array.dtype.kind in "iub" and array.dtype != np.uint8:
            small = array.astype(np.uint8)
            array = small if np.array_equal(small, array) else array
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{label} must be a label map (H, W) of whole numbers, got {array.dtype} {array.shape}"
            + (": for logits (K, H, W) give logits.argmax(0)" if array.ndim == 3 else "")
        )
    return array


def _bytes(array: NDArray[Any]) -> LabelMap:
    """Contiguous, and placed so that it can be read as words."""
    flat = np.ascontiguousarray(array, np.uint8)
    return flat if flat.ctypes.data % 8 == 0 else flat.copy()


def _stop(array: NDArray[Any], wrong: NDArray[np.bool_], label: str, remedy: str) -> None:
    row, column = np.argwhere(wrong)[0]
    count = int(wrong.sum())
    more = f" ({count} such pixels in all)" if count > 1 else ""
    raise ValueError(f"{label}: value {array[row, column]} at row {row}, column {column}{more}; {remedy}")
