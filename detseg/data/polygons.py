"""Masks of objects (polygons and run lengths) held in a few flat arrays, not in Python objects."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]
FAR = 1e6  # no point of a polygon lies so far out


def expand_ranges(offsets: Offsets, indices: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], Offsets]:
    """The members of the groups `indices` (K,) of a flat array, group after group, and their offsets (K + 1,).

    Group g owns the members offsets[g] up to offsets[g + 1].
    """
    counts = offsets[indices + 1] - offsets[indices]
    new_offsets = _offsets(counts)
    shift = np.repeat(offsets[indices] - new_offsets[:-1], counts)
    return np.arange(new_offsets[-1], dtype=np.int64) + shift, new_offsets


@dataclass(frozen=True, eq=False)
class Segments:
    """Masks of M objects. An object has polygons, or one run-length mask, or nothing.

    Object i owns polygons `polygon_offsets[i]:polygon_offsets[i + 1]`, polygon p owns points
    `point_offsets[p]:point_offsets[p + 1]`, and the compressed COCO run lengths of object i are
    `rle_bytes[rle_offsets[i]:rle_offsets[i + 1]]`.
    """

    polygon_offsets: Offsets  # (M + 1,)
    point_offsets: Offsets  # (P + 1,)
    points: NDArray[np.float64]  # (Q, 2) x, y in pixels
    rle_offsets: Offsets  # (M + 1,)
    rle_bytes: NDArray[np.uint8]  # (B,)
    rle_sizes: NDArray[np.int32]  # (M, 2) height, width; zeros where there is no run-length mask

    def __len__(self) -> int:
        return len(self.polygon_offsets) - 1

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All that the masks are made of."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def has_polygons(self) -> NDArray[np.bool_]:
        """(M,) True where the object has at least one polygon."""
        return np.diff(self.polygon_offsets) > 0

    @property
    def has_rle(self) -> NDArray[np.bool_]:
        """(M,) True where the object has a run-length mask."""
        return np.diff(self.rle_offsets) > 0

    def polygons(self, index: int) -> list[NDArray[np.float64]]:
        """The polygons of one object, each (n, 2) x, y; an empty list if it has none."""
        first, last = self.polygon_offsets[index], self.polygon_offsets[index + 1]
        bounds = self.point_offsets[first : last + 1]
        return [self.points[a:b] for a, b in pairwise(bounds)]

    def rle(self, index: int, height: int, width: int) -> dict[str, Any] | None:
        """The mask of one object as a compressed COCO RLE (`size`, `counts` as bytes); None if it has neither.

        Polygons are drawn on an image of `height` x `width`; a stored mask comes back in its own size.
        """
        first, last = self.rle_offsets[index], self.rle_offsets[index + 1]
        if last > first:
            mask_height, mask_width = (int(v) for v in self.rle_sizes[index])
            return {"size": [mask_height, mask_width], "counts": self.rle_bytes[first:last].tobytes()}
        polygons = self.polygons(index)
        if not polygons:
            return None
        from pycocotools import mask

        drawn = mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width)
        return dict(mask.merge(drawn))

    def rle_fits(self, index: int, size: Sequence[int]) -> bool:
        """Whether the run lengths of one object fill an image of `size` (width, height)."""
        from pycocotools import mask

        if self.rle_sizes[index].tolist() != [size[1], size[0]]:
            return False
        try:
            mask.decode(self.rle(index, 0, 0))
        except ValueError:
            return False
        return True

    def take(self, indices: NDArray[np.integer[Any]]) -> Segments:
        """The masks of the objects `indices` (K,), in that order."""
        polygons, polygon_offsets = expand_ranges(self.polygon_offsets, indices)
        points, point_offsets = expand_ranges(self.point_offsets, polygons)
        runs, rle_offsets = expand_ranges(self.rle_offsets, indices)
        return Segments(
            polygon_offsets=polygon_offsets,
            point_offsets=point_offsets,
            points=self.points[points],
            rle_offsets=rle_offsets,
            rle_bytes=self.rle_bytes[runs],
            rle_sizes=self.rle_sizes[indices],
        )

    def without(self, removed: NDArray[np.bool_]) -> Segments:
        """The same objects, those in `removed` (M,) without their mask."""
        kept = np.flatnonzero(~removed)
        thinned = self.take(kept)
        polygon_counts, rle_counts = np.diff(self.polygon_offsets), np.diff(self.rle_offsets)
        polygon_counts[removed] = rle_counts[removed] = 0
        return replace(
            thinned,
            polygon_offsets=_offsets(polygon_counts),
            rle_offsets=_offsets(rle_counts),
            rle_sizes=np.where(removed[:, None], 0, self.rle_sizes).astype(np.int32),
        )


def can_be_drawn(polygon: Sequence[float]) -> bool:
    """Whether x1, y1, x2, y2, ... are finite and not `FAR` away.

    pycocotools would walk over every pixel on the way there, and never come back from NaN.
    """
    return math.isfinite(sum(polygon)) and max(map(abs, polygon)) < FAR


class SegmentsBuilder:
    """Collects masks one object after another and turns them into `Segments`."""

    def __init__(self) -> None:
        self._objects = 0
        self._polygon_owners = array("q")
        self._point_counts = array("q")
        self._points = array("d")
        self._rle_owners = array("q")
        self._rle_counts = array("q")
        self._rle_bytes = bytearray()
        self._rle_sizes = array("i")

    def add_polygons(self, polygons: Iterable[Sequence[float]]) -> None:
        """Add an object drawn by polygons, each a flat sequence x1, y1, x2, y2, ..."""
        for polygon in polygons:
            self._points.extend(polygon)
            self._point_counts.append(len(polygon) // 2)
            self._polygon_owners.append(self._objects)
        self._objects += 1

    def add_rle(self, height: int, width: int, counts: str | bytes | Sequence[int]) -> None:
        """Add an object with a run-length mask: compressed (text) or plain run lengths (numbers)."""
        packed = counts.encode("ascii") if isinstance(counts, str) else counts
        if not isinstance(packed, bytes):
            from pycocotools import mask

            packed = mask.frPyObjects({"size": [height, width], "counts": list(packed)}, height, width)["counts"]
        self._rle_bytes += packed
        self._rle_counts.append(len(packed))
        self._rle_sizes.extend((height, width))
        self._rle_owners.append(self._objects)
        self._objects += 1

    def add_nothing(self, objects: int = 1) -> None:
        """Add objects without a mask."""
        self._objects += objects

    def build(self) -> Segments | None:
        """The collected masks; None if no object had any."""
        if not self._polygon_owners and not self._rle_owners:
            return None
        polygon_owners = np.array(self._polygon_owners, dtype=np.int64)
        rle_owners = np.array(self._rle_owners, dtype=np.int64)
        rle_counts, rle_sizes = np.zeros(self._objects, np.int64), np.zeros((self._objects, 2), np.int32)
        rle_counts[rle_owners] = self._rle_counts
        rle_sizes[rle_owners] = np.array(self._rle_sizes, dtype=np.int32).reshape(-1, 2)
        return Segments(
            polygon_offsets=_offsets(np.bincount(polygon_owners, minlength=self._objects)),
            point_offsets=_offsets(np.array(self._point_counts, dtype=np.int64)),
            points=np.array(self._points, dtype=np.float64).reshape(-1, 2),
            rle_offsets=_offsets(rle_counts),
            rle_bytes=np.frombuffer(bytes(self._rle_bytes), dtype=np.uint8),
            rle_sizes=rle_sizes,
        )


def _offsets(counts: NDArray[np.integer[Any]]) -> Offsets:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
