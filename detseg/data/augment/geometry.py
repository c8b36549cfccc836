"""Flip, scale, aspect jitter, rotation, translation and letterbox of a sample in one affine warp.

albumentations can do each of these, but as a chain: every step resamples the image (softer each time), and
a Compose with boxes takes about 1.8 ms for a 320-pixel image, most of it bookkeeping. One matrix and one
cv2.warpAffine take about 0.5 ms and resample once, so the geometry is our own.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.augment.instances import ObjectMasks, keep_visible
from detseg.data.letterbox import fitted_size, resized
from detseg.data.sample import IGNORE, PADDING, Sample, clip_and_filter

ROUNDING = 1e-3
"""A box that is clipped by more pixels is cut."""

Flip = Literal["none", "horizontal", "vertical", "both"]
"""How images are mirrored at random, each way with probability 1/2: left-right, upside down, both or not at all."""


def check_flip(flip: str) -> None:
    """Raise ValueError for another name."""
    if flip not in get_args(Flip):
        raise ValueError(f"flip must be one of {', '.join(get_args(Flip))}, not {flip!r}")


def warp_boxes(
    boxes: NDArray[np.floating], iscrowd: NDArray[np.bool_], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Axis-aligned boxes (M, 4) of the objects after an affine map x' = matrix @ (x, y, 1), matrix (2, 3).

    When the map rotates, the hull of the rotated *box* is too large: the box's corners are rarely part of
    the object, and a detector trained on such boxes learns loose ones. The hull of the rotated inscribed
    ellipse is used instead: exact for round objects, unbiased between slim and boxy ones. Crowd boxes get the
    full hull, because all of the region must stay ignored. Without rotation both are exact.
    """
    linear = matrix[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]).astype(np.float64) / 2 @ linear.T + matrix[:, 2]
    half = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64) / 2
    ellipse = np.sqrt(np.square(half) @ np.square(linear).T)
    half = np.where(iscrowd[:, None], half @ np.abs(linear).T, ellipse)
    return np.concatenate([centre - half, centre + half], axis=1)


def warp_image(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Image (H, W, C) through x' = matrix @ (x, y, 1) into a (height, width, C) image, grey outside.

    `size` is (width, height). Coordinates are continuous: the first pixel covers 0..1 and has its centre at
    0.5, as boxes have it; OpenCV puts the centre at 0, which is corrected here.
    """
    matrix = matrix.copy()
    shrink = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if shrink < 0.5:  # bilinear sampling skips pixels then: average whole blocks first
        height, width = image.shape[:2]
        blocks = round(1 / shrink)
        small = (max(1, round(width / blocks)), max(1, round(height / blocks)))
        image = resized(image, small, cv2.INTER_AREA)
        matrix[:, 0] *= width / small[0]
        matrix[:, 1] *= height / small[1]
    matrix[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    warped = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(PADDING,) * 4)
    return np.asarray(warped, np.uint8).reshape(size[1], size[0], image.shape[2])


def warp_mask(mask: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Label map (H, W) through the same map as `warp_image`, into (height, width); 255, "ignore", around it.

    Each pixel gets the label of the pixel that its centre comes from: labels cannot be averaged.
    """
    matrix = matrix.copy()
    matrix[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    warped = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST, borderValue=IGNORE)
    return np.asarray(warped, np.uint8)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Random geometry; `geometry(sample, (width, height), rng, unit)` -> Sample of that size."""

    flip: Flip = "horizontal"
    scale: tuple[float, float] = (0.6, 1.4)  # range of the zoom, drawn evenly on a log scale; 1 fills the square
    aspect: float = 0.1  # largest change of width : height; 0.1 is from 1/1.1 to 1.1
    rotate: float = 5.0  # largest angle, degrees, either way
    min_visible: float = 0.3  # this and the next: see `clip_and_filter`
    min_side: float = 2.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, not {self.scale}")
        check_flip(self.flip)
        if not 0 <= self.min_visible <= 1:
            raise ValueError(f"min_visible must lie in 0..1, not {self.min_visible}")
        if self.aspect < 0 or self.rotate < 0:
            raise ValueError(f"aspect and rotate must not be negative: aspect={self.aspect}, rotate={self.rotate}")

    def __call__(
        self, sample: Sample, size: tuple[int, int], rng: np.random.Generator, unit: int | None = None
    ) -> Sample:
        """Warp a sample into a window of `size` = (width, height).

        Zoom 1 makes the image's long side `unit` pixels (default: the longer side of the window). An image
        smaller than the window lands anywhere in it; of a larger one a window is cut that never leaves
        the image and keeps one randomly chosen object (all of it, if it fits). Masks move with the image.
        """
        draws = rng.random(7)
        linear = self._linear(sample, unit or max(size), draws)
        matrix = np.concatenate([linear, np.zeros((2, 1))], axis=1)
        boxes = warp_boxes(sample.boxes, sample.iscrowd, matrix)
        masks = None if sample.masks is None else ObjectMasks(sample.masks, sample.windows)
        if masks is not None and linear[0, 1] != 0:
            boxes = np.where(sample.iscrowd[:, None], boxes, masks.hulls(sample.boxes, boxes, linear))
        matrix[:, 2] = _translation(sample, linear, boxes, size, draws)
        boxes += np.tile(matrix[:, 2], 2)
        least = {"min_visible": self.min_visible, "min_side": self.min_side}
        kept = clip_and_filter(boxes, sample.labels, sample.iscrowd, size, **least)
        warped = Sample(warp_image(sample.image, matrix, size), kept.boxes, kept.labels, kept.iscrowd)
        if sample.mask is not None:
            warped.mask = warp_mask(sample.mask, matrix, size)
        if masks is None:
            return warped
        warped.masks, areas = masks.warped(kept.rows, matrix, size)
        shares, grown = np.ones(len(areas)), abs(linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0])
        for i in np.flatnonzero((np.abs(boxes[kept.rows] - kept.boxes) > ROUNDING).any(1)):  # those that are cut
            if whole := masks.area(kept.rows[i]):
                shares[i] = min(1.0, areas[i] / (whole * grown))
        return keep_visible(warped, shares, sample.iscrowd[kept.rows], **least)

    def _linear(self, sample: Sample, unit: int, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """The (2, 2) part of the map: mirror, zoom and stretch, then rotate."""
        width, height = sample.size
        fitted = fitted_size(width, height, unit)
        low, high = self.scale
        zoom = low * (high / low) ** draws[0]
        stretch = math.sqrt((1 + self.aspect) ** (2 * draws[1] - 1))
        # The first two binary digits of one draw: each way for itself with probability 1/2.
        mirror_x = -1.0 if self.flip in ("horizontal", "both") and draws[2] < 0.5 else 1.0
        mirror_y = -1.0 if self.flip in ("vertical", "both") and draws[2] % 0.5 < 0.25 else 1.0
        scale_x = mirror_x * zoom * stretch * fitted[0] / width
        scale_y = mirror_y * zoom / stretch * fitted[1] / height
        angle = math.radians(self.rotate * (2 * draws[3] - 1))
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[cos * scale_x, -sin * scale_y], [sin * scale_x, cos * scale_y]])


def _translation(
    sample: Sample,
    linear: NDArray[np.float64],
    boxes: NDArray[np.float64],
    size: tuple[int, int],
    draws: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Shift (2,) that places the warped image in the window; `boxes` are warped without a shift."""
    window = np.asarray(size, np.float64)
    half = np.asarray(sample.size, np.float64) / 2
    centre, reach = linear @ half, np.abs(linear) @ half
    first, last = reach - centre, window - reach - centre  # image at the window's left, right edge
    low, high = np.minimum(first, last), np.maximum(first, last)
    objects = np.flatnonzero(~sample.iscrowd)
    if len(objects):
        box = boxes[objects[int(draws[4] * len(objects))]]
        left, right = -box[:2], window - box[2:]
        # The two ranges always meet when the box lies in the image; clip for boxes that reach outside.
        ends = np.minimum(left, right), np.maximum(left, right)
        low, high = np.clip(ends[0], low, high), np.clip(ends[1], low, high)
    return low + (high - low) * draws[5:7]
