"""Fit an image of any shape into the square a detector sees, and map detections back.

Training, validation and prediction share this code, so all see the same pixels for the same image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.sample import IGNORE, PADDING, Sample


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where an image lies in the square: x' = x * scale_x + pad_x, y' = y * scale_y + pad_y.

    The two scales differ by the rounding to whole pixels (visible only for very thin images, whose short
    side is kept at 1 pixel). Law: `to_original(to_square(boxes), image_size) == boxes` for boxes inside.
    """

    scale_x: float
    scale_y: float
    pad_x: int
    pad_y: int

    @classmethod
    def fit(cls, width: int, height: int, size: int) -> Letterbox:
        """The letterbox of a `width` x `height` image, centred in `size` x `size`."""
        new_width, new_height = fitted_size(width, height, size)
        pad_x, pad_y = (size - new_width) // 2, (size - new_height) // 2
        return cls(new_width / width, new_height / height, pad_x, pad_y)

    @classmethod
    def fit_copy(cls, copy: tuple[int, int], original: tuple[int, int], size: int) -> Letterbox:
        """The same for an original (width, height) of which a resized copy, (width, height) too, is fitted in."""
        box = cls.fit(*copy, size)
        return replace(box, scale_x=box.scale_x * copy[0] / original[0], scale_y=box.scale_y * copy[1] / original[1])

    def to_square(self, boxes: Any) -> Any:
        """Boxes (M, 4) xyxy, numpy or torch, from the image's pixels to the square's; a new array."""
        out = _copy(boxes)
        out[:, 0::2] = boxes[:, 0::2] * self.scale_x + self.pad_x
        out[:, 1::2] = boxes[:, 1::2] * self.scale_y + self.pad_y
        return out

    def to_original(self, boxes: Any, image_size: tuple[int, int] | None) -> Any:
        """Boxes (M, 4) xyxy, numpy or torch, from the square to the image, clipped to (width, height) if given."""
        out = _copy(boxes)
        out[:, 0::2] = (boxes[:, 0::2] - self.pad_x) / self.scale_x
        out[:, 1::2] = (boxes[:, 1::2] - self.pad_y) / self.scale_y
        if image_size is not None:
            out[:, 0::2], out[:, 1::2] = out[:, 0::2].clip(0, image_size[0]), out[:, 1::2].clip(0, image_size[1])
        return out


def _copy(boxes: Any) -> Any:
    return boxes.clone() if hasattr(boxes, "clone") else boxes.copy()


def fitted_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) scaled so that the long side is `size`; at least one pixel each."""
    if width < 1 or height < 1:
        raise ValueError(f"an image needs at least one pixel a side, this one is {width}x{height}")
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_long_side(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Image (H, W, 3) resized so that its long side is `size` pixels."""
    return resize_image(image, fitted_size(image.shape[1], image.shape[0], size))


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Image (H, W, 3) resized to `size` = (width, height); the input itself when nothing changes.

    INTER_AREA when shrinking (averages all pixels, so no moiré), INTER_LINEAR when enlarging.
    """
    height, width = image.shape[:2]
    if size == (width, height):
        return image
    interpolation = cv2.INTER_AREA if max(width, height) > max(size) else cv2.INTER_LINEAR
    return resized(image, size, interpolation)


def resized(image: NDArray[np.uint8], size: tuple[int, int], interpolation: int) -> NDArray[np.uint8]:
    """`cv2.resize` of an image (H, W, C) with any number of channels: OpenCV averages four at a time, and drops one."""
    # A view of a larger image is not copied, for that may be large.
    parts = [image]
    if image.shape[2] > 4:
        parts = [np.ascontiguousarray(image[..., first : first + 4]) for first in range(0, image.shape[2], 4)]
    done = [cv2.resize(part, size, interpolation=interpolation) for part in parts]
    whole = (
        np.concatenate([part if part.ndim == 3 else part[..., None] for part in done], axis=2)
        if len(done) > 1
        else done[0]
    )
    return np.asarray(whole, np.uint8).reshape(size[1], size[0], image.shape[2])


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Label map (H, W) resized to `size` = (width, height): each pixel gets the label under its centre."""
    if size == (mask.shape[1], mask.shape[0]):
        return mask
    # Not INTER_NEAREST, which looks at corners instead of centres and moves the map by half a pixel.
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def letterbox_mask(mask: NDArray[np.uint8], size: int, outside: int = IGNORE) -> NDArray[np.uint8]:
    """Label map (H, W) -> (size, size), lying as `letterbox_image` lays the image; `outside` around it."""
    height, width = mask.shape
    resized = resize_mask(mask, fitted_size(width, height, size))
    return _padded(resized, Letterbox.fit(width, height, size), size, outside)


def letterbox_image(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], Letterbox]:
    """Image (H, W, 3) of any shape -> (size, size, 3) with grey padding, and where it lies in it."""
    box = Letterbox.fit(image.shape[1], image.shape[0], size)
    return _padded(resize_long_side(image, size), box, size, PADDING), box


def _padded(array: NDArray[np.uint8], box: Letterbox, size: int, value: int) -> NDArray[np.uint8]:
    out = np.full((size, size, *array.shape[2:]), value, np.uint8)
    out[box.pad_y : box.pad_y + array.shape[0], box.pad_x : box.pad_x + array.shape[1]] = array
    return out


def check_size(size: int) -> None:
    """Raise ValueError for a size, in pixels, that is none."""
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")


class EvalTransform:
    """Letterbox a sample: `sample, letterbox = EvalTransform(320)(sample)`; no randomness, no box dropped.

    The letterbox maps detections back to the image that was given; of one that a cache resized before, `Letterbox.fit`
    of the original's size maps to the original: both round alike.
    """

    def __init__(self, size: int) -> None:
        check_size(size)
        self.size = size

    def __call__(self, sample: Sample) -> tuple[Sample, Letterbox]:
        """Returns the sample in the square (boxes clipped to the image, masks 255 or 0 outside) and its letterbox."""
        image, box = letterbox_image(sample.image, self.size)
        width, height = fitted_size(*sample.size, self.size)
        low = np.array([box.pad_x, box.pad_y] * 2, np.float32)
        boxes = np.clip(box.to_square(sample.boxes), low, low + np.array([width, height] * 2, np.float32))
        mask = None if sample.mask is None else letterbox_mask(sample.mask, self.size)
        masks = None
        if sample.masks is not None:
            square = [letterbox_mask(one, self.size, outside=0) for one in sample.masks]
            masks = np.array(square, np.uint8).reshape(-1, self.size, self.size)
        return replace(sample, image=image, boxes=boxes.astype(np.float32), mask=mask, masks=masks, windows=None), box
