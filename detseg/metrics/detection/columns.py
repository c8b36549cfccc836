"""COCO files read straight into columns, several times faster than by way of dicts.

Only files without a fault are read here. Anything else gives None, and the caller reads the file again the slow
way, which knows how to name the fault.
"""

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class TruthColumns:
    """What a COCO dict of N images, K categories and M annotations says, not yet checked."""

    image_ids: NDArray[np.int64]  # (N,)
    sizes: list[tuple[int, int]]  # (N,) height, width; 0 where unknown
    category_ids: NDArray[np.int64]  # (K,)
    names: tuple[str, ...]  # (K,)
    object_images: NDArray[np.int64]  # (M,)
    object_categories: NDArray[np.int64]  # (M,)
    boxes: NDArray[np.float64] | None  # (M, 4) xywh; None when masks are compared
    outlines: list[Any] | None  # (M,) `segmentation`, when masks are compared
    areas: list[Any]  # (M,) None where not given
    iscrowd: NDArray[np.bool_]  # (M,)


@dataclass(frozen=True, eq=False)
class FoundColumns:
    """What a list of D COCO results says, not yet checked."""

    image_ids: NDArray[np.int64]  # (D,)
    category_ids: NDArray[np.int64]  # (D,)
    scores: NDArray[np.float64]  # (D,)
    boxed: NDArray[np.int64]  # (B,) the results with a box, all of them when boxes are compared
    boxes: NDArray[np.float64]  # (B, 4) xywh
    outlines: Sequence[Any] | None  # (D,) `segmentation`, when masks are compared


class _Image(msgspec.Struct, gc=False):
    id: int
    height: int | None = None
    width: int | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Boxed(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: Box
    area: float | None = None
    iscrowd: bool | int = 0


class _Masked(msgspec.Struct):
    image_id: int
    category_id: int
    segmentation: Any
    area: float | None = None
    iscrowd: bool | int = 0


class _BoxedTruth(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Boxed]


class _MaskedTruth(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Masked]


class _BoxResult(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    score: float
    bbox: Box


class _MaskResult(msgspec.Struct):
    image_id: int
    category_id: int
    score: float
    segmentation: Any
    bbox: Box | None = None


_BOXED_TRUTH = msgspec.json.Decoder(_BoxedTruth)
_MASKED_TRUTH = msgspec.json.Decoder(_MaskedTruth)
_BOX_RESULTS = msgspec.json.Decoder(list[_BoxResult])
_MASK_RESULTS = msgspec.json.Decoder(list[_MaskResult])


def quick_truth(content: bytes, masks: bool) -> TruthColumns | None:
    """The columns of a COCO file of annotations; None unless everything is as it should be."""
    # OverflowError: a whole number has more than 64 bits.
    with contextlib.suppress(msgspec.MsgspecError, OverflowError), _without_collector():
        truth: Any = _MASKED_TRUTH.decode(content) if masks else _BOXED_TRUTH.decode(content)
        objects: Sequence[Any] = truth.annotations
        return TruthColumns(
            image_ids=_column(truth.images, "id", np.int64),
            sizes=[(image.height or 0, image.width or 0) for image in truth.images],
            category_ids=_column(truth.categories, "id", np.int64),
            names=tuple(category.name for category in truth.categories),
            object_images=_column(objects, "image_id", np.int64),
            object_categories=_column(objects, "category_id", np.int64),
            boxes=None if masks else _boxes(map(attrgetter("bbox"), objects), len(objects)),
            outlines=[item.segmentation for item in objects] if masks else None,
            areas=[item.area for item in objects],
            iscrowd=_column(objects, "iscrowd", np.bool_),
        )
    return None


def quick_results(content: bytes, masks: bool) -> FoundColumns | None:
    """The columns of a COCO file of results; None unless everything is as it should be."""
    with contextlib.suppress(msgspec.MsgspecError, OverflowError), _without_collector():
        items: Sequence[Any] = _MASK_RESULTS.decode(content) if masks else _BOX_RESULTS.decode(content)
        boxed = [i for i, item in enumerate(items) if item.bbox is not None] if masks else range(len(items))
        return FoundColumns(
            image_ids=_column(items, "image_id", np.int64),
            category_ids=_column(items, "category_id", np.int64),
            scores=_column(items, "score", np.float64),
            boxed=np.array(boxed, dtype=np.int64),
            boxes=_boxes((item.bbox for item in items if item.bbox is not None), len(boxed)),
            outlines=[item.segmentation for item in items] if masks else None,
        )
    return None


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's search for cycles pauses: a file makes a million objects and no cycle, and each is looked at often."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _column(items: Sequence[Any], name: str, kind: Any) -> NDArray[Any]:
    return np.fromiter(map(attrgetter(name), items), kind, len(items))


def _boxes(boxes: Iterable[Box], count: int) -> NDArray[np.float64]:
    return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * count).reshape(count, 4)
