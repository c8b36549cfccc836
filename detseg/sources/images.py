"""Images as people have them, opened: paths, arrays, PIL images, tensors; one, several, or as they come."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S")
T = TypeVar("T")

Image = Any
"""A path, uint8 RGB (H, W, C), a PIL image, or a torch tensor (C, H, W), uint8 or float in [0, 1]."""


class Opened(NamedTuple):
    """An image that was read, and what it is drawn from later: its path, or its pixels."""

    pixels: NDArray[np.uint8]  # (H, W, channels)
    source: str | Path | NDArray[np.uint8]


def open_all(images: Image | Iterable[Image], channels: int = 3, batch_size: int = 1) -> Iterator[Opened]:
    """Images, one or several, one after another.

    Of more than a batch the next one is read while the network looks at the one before. Raises ValueError, when its
    turn has come, for what is no image.
    """
    if isinstance(images, (str, Path)) or not isinstance(images, Iterable) or _is_one(images):
        images = [images]
    if isinstance(images, Sequence) and len(images) <= batch_size:
        return (open_one(image, channels) for image in images)
    return ahead(partial(open_one, channels=channels), images, batch_size)


def _is_one(image: Any) -> bool:
    """Whether something that can be iterated over is one image: an array or tensor of three dimensions, a PIL image."""
    return _is_pil(image) or (hasattr(image, "ndim") and image.ndim <= 3)


def open_one(image: Image, channels: int = 3) -> Opened:
    """An image, read; ValueError for what is none."""
    if isinstance(image, (str, Path)):
        from detseg.data.images import read_image

        pixels = read_image(image, channels)
        return Opened(pixels, image if channels == 3 else pixels)
    if _is_pil(image):
        pixels = _of_pil(image)
    elif hasattr(image, "detach"):
        pixels = _of_tensor(image, channels)
    else:
        pixels = image
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"{_wanted(channels)}, got {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels:
        raise ValueError(f"{_wanted(channels)}, got {pixels.dtype} {pixels.shape}")
    return Opened(pixels, pixels)


def _wanted(channels: int) -> str:
    return (
        f"an image must be a path, a uint8 array of shape (H, W, {channels}), a PIL image, or a tensor "
        f"({channels}, H, W), uint8 or float in [0, 1]"
    )


def _is_pil(image: Any) -> bool:
    return type(image).__module__.partition(".")[0] == "PIL"


def _of_pil(image: Any) -> NDArray[np.uint8]:
    """A PIL image, upright, RGB, transparent pixels laid over white, 16 bits scaled to 8; as `read_image` has files."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        levels = np.asarray(image, np.int64).clip(0, 65535)
        return np.repeat((levels / 257).round().astype(np.uint8)[..., None], 3, 2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _of_tensor(image: Any, channels: int) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[0] != channels:
        raise ValueError(f"{_wanted(channels)}, got a tensor {tuple(image.shape)}")
    pixels = image.detach().cpu().permute(1, 2, 0)
    if pixels.is_floating_point():
        pixels = pixels.float().numpy()
        if not ((pixels >= 0) & (pixels <= 1)).all():  # NaN too
            raise ValueError("a float tensor must be in [0, 1]: divide it by 255, or give it as uint8")
        return (pixels * 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels.numpy())


def with_sources(opened: Iterable[Opened]) -> tuple[Iterator[NDArray[np.uint8]], Iterator[Any]]:
    """The pixels of images, and what each is drawn from, for later: only of those in between anything is kept."""
    waiting: deque[Any] = deque()

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for image in opened:
            waiting.append(image.source)
            yield image.pixels

    def sources() -> Iterator[Any]:
        while True:
            yield waiting.popleft()

    return pixels(), sources()


def ahead(function: Callable[[S], T], items: Iterable[S], count: int) -> Iterator[T]:
    """A function of each item, in order; of the next `count` items it is computed in threads meanwhile."""
    remaining = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[Future[T]] = deque(pool.submit(function, item) for item in islice(remaining, count))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:  # also where nobody wants the rest
            pool.shutdown(cancel_futures=True)


def in_batches(items: Iterable[T], batch_size: int) -> Iterator[list[T]]:
    """Lists of `batch_size` items, read when they are asked for; the last may be shorter."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    items = iter(items)
    while batch := list(islice(items, batch_size)):
        yield batch
