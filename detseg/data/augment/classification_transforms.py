"""From an image to what a classifier sees: random for training, a centre crop or ten crops to evaluate.

    transform = ClassificationTransform(224)
    image = transform(image, np.random.default_rng([seed, epoch, index]))
    image = ClassificationEval(224)(image)
    images = TenCrop(224)(image)  # (10, 224, 224, 3)

Geometry is one warp: the four corners of a window are chosen in the image, turned and shifted, and what lies between
them is drawn as a square.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.augment.geometry import Flip, check_flip
from detseg.data.letterbox import check_size, resized

Image = NDArray[np.uint8]

RESIZE = 256 / 224
"""Short side of the resized image over the side of the crop: AlexNet's 256 and 224, kept ever since."""


class ClassificationTransform:
    """Random augmentation of one image (H, W, 3) uint8 to `size` x `size`; ValueError for options out of range.

    The result depends on the image and the state of `rng` only. Use one instance per thread. With neither `area` nor
    `patch` the window is the centre crop of `ClassificationEval`.

    Args:
        area: "scale": the window has a share of the image's area in this range and a width : height of up to
            4 : 3 either way, anywhere in the image (Szegedy et al. 2015). A window that would be wider or higher
            than the image is cut to it.
        patch: a window anywhere in the image as resized for the centre crop, without scaling (Krizhevsky et al.
            2012). Excludes `area`.
        rotate: largest angle, degrees. What lies beyond the image is mirrored in.
        zoom: largest magnification; 1.25 shows as little as 1 / 1.25 of the window's sides.
        warp: largest shift of each corner of the window, as a share of its sides: looking from aside.
        light, colour, blur, noise: as of `Photometric`.
    """

    RATIO = math.log(4 / 3)  # log of the largest width : height of a window

    def __init__(
        self,
        size: int,
        *,
        area: tuple[float, float] | None = (0.35, 1.0),
        patch: bool = False,
        flip: Flip = "horizontal",
        rotate: float = 10.0,
        zoom: float = 1.0,
        warp: float = 0.1,
        light: float = 0.2,
        colour: float = 0.2,
        blur: float = 0.05,
        noise: float = 0.1,
    ) -> None:
        check_size(size)
        if area is not None and not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"area must be (low, high) with 0 < low <= high <= 1, not {area}")
        if area is not None and patch:
            raise ValueError("a window has a random area (scale), or it is a patch without scaling, not both")
        check_flip(flip)
        if not (0 <= rotate <= 180 and zoom >= 1 and 0 <= warp < 0.5):  # at 0.5 corners could meet
            raise ValueError(f"rotate={rotate}, zoom={zoom}, warp={warp}: allowed are 0..180, 1 and more, below 0.5")
        # Here, not at the top: albumentations is slow to import, and prediction does without it.
        from detseg.data.augment.photometric import Photometric

        self.size, self.area, self.patch = size, area, patch
        self.flips = (0.5 * (flip in ("horizontal", "both")), 0.5 * (flip in ("vertical", "both")))
        self.rotate, self.zoom, self.warp = rotate, zoom, warp
        self.photometric = Photometric(light=light, colour=colour, blur=blur, noise=noise)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """Augment one image to uint8 (size, size, 3), contiguous; the input is not changed."""
        corners = self.corners(image.shape[1], image.shape[0], rng)
        return self.photometric(warp_corners(image, corners, self.size), rng)

    def corners(self, width: int, height: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw a window (4, 2): where in an image the top left, top right, bottom right and bottom left come from.

        In pixels; the image covers 0..width and 0..height. The window itself lies in the image; turned or
        warped, its corners may lie outside.
        """
        draws = rng.random(16)
        sides, place = self._window(np.array([width, height], np.float64), draws)
        half = sides / 2 / self.zoom ** draws[4]
        centre = place + sides / 2 + (2 * draws[5:7] - 1) * (sides / 2 - half)  # zooming in on any part of it
        unit = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
        unit += 2 * self.warp * (2 * draws[8:16].reshape(4, 2) - 1)
        mirror = np.where(rng.random(2) < self.flips, -1, 1)
        angle = math.radians(self.rotate * (2 * draws[7] - 1))
        cos, sin = math.cos(angle), math.sin(angle)
        # Turned as a square and then stretched, a window of another shape would be sheared: stretch first.
        turned: NDArray[np.float64] = (unit * mirror * half) @ np.array([[cos, sin], [-sin, cos]])
        return centre + turned

    def _window(self, image: NDArray[np.float64], draws: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Sides (2,) and top left corner (2,) of an upright window within an image of these sides."""
        if self.area is not None:
            low, high = self.area
            area = (low + (high - low) * draws[0]) * image.prod()
            ratio = math.exp(self.RATIO * (2 * draws[1] - 1))
            sides = np.minimum(np.sqrt(area * np.array([ratio, 1 / ratio])), image)
            return sides, (image - sides) * draws[2:4]
        sides = np.full(2, image.min() / RESIZE)
        return sides, (image - sides) * (draws[2:4] if self.patch else 0.5)


def warp_corners(image: Image, corners: NDArray[np.float64], size: int) -> Image:
    """What lies between four corners of an image, as a square of `size` x `size`.

    The corners (4, 2) x, y in pixels are in the order top left, top right, bottom right, bottom left. They may lie
    outside: the image goes on there as its own mirror image.
    """
    x, y = corners.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    shrink = math.sqrt(area) / size
    if shrink > 2:  # bilinear sampling would skip pixels: average whole blocks first
        blocks = round(shrink)
        height, width = image.shape[:2]
        small = (max(1, round(width / blocks)), max(1, round(height / blocks)))
        image = resized(image, small, cv2.INTER_AREA)
        corners = corners * np.array(small) / (width, height)
    # Corners count from the edge of the first pixel, OpenCV from its centre.
    target = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32) - np.float32(0.5)
    source = (corners - 0.5).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REFLECT_101 if min(image.shape[:2]) > 1 else cv2.BORDER_REPLICATE
    warp, matrix = cv2.warpPerspective, cv2.getPerspectiveTransform(target, source)
    if np.abs(corners[0] + corners[2] - corners[1] - corners[3]).max() < 1e-9:  # a parallelogram: no perspective
        warp, matrix = cv2.warpAffine, cv2.getAffineTransform(target[:3], source[:3])
    warped = warp(image, matrix, (size, size), flags=flags, borderMode=border)
    return np.asarray(warped, np.uint8).reshape(size, size, image.shape[2])


def resize_short_side(image: Image, side: int) -> Image:
    """Image (H, W, 3) resized so that its short side is `side` pixels; the input itself if it is already."""
    height, width = image.shape[:2]
    short = min(width, height)
    if short == side:
        return image
    target = (max(side, round(width * side / short)), max(side, round(height * side / short)))
    interpolation = cv2.INTER_AREA if short > side else cv2.INTER_LINEAR
    return resized(image, target, interpolation)


def centre_crop(image: Image, size: int) -> Image:
    """The middle of an image, (size, size, 3), contiguous; ValueError if the image is smaller."""
    top, left = _middle(image, size)
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def ten_crop(image: Image, size: int) -> Image:
    """The four corners and the middle of an image, then the same of its mirror image (Krizhevsky et al. 2012).

    Gives uint8 (10, size, size, 3): top left, top right, bottom left, bottom right, middle; mirrored in that order. An
    image that is smaller raises ValueError.
    """
    top, left = _middle(image, size)
    bottom, right = image.shape[0] - size, image.shape[1] - size
    mirrored = image[:, ::-1]
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (top, left))
    return np.stack([side[y : y + size, x : x + size] for side in (image, mirrored) for y, x in places])


def _middle(image: Image, size: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(f"a crop of {size} x {size} does not fit an image of {width} x {height}; enlarge it first")
    return round((height - size) / 2), round((width - size) / 2)


class ClassificationEval:
    """`transform(image)`: the short side to size x 256 / 224, then the centre: (size, size, 3); no randomness."""

    _crop = staticmethod(centre_crop)

    def __init__(self, size: int) -> None:
        check_size(size)
        self.size = size

    def __call__(self, image: Image) -> Image:
        """Crop an image uint8 (H, W, 3)."""
        return self._crop(resize_short_side(image, round(self.size * RESIZE)), self.size)


class TenCrop(ClassificationEval):
    """The same with `ten_crop`: (10, size, size, 3); average the model's answers."""

    _crop = staticmethod(ten_crop)
