"""Images as people have them, opened: paths, arrays, PIL images, tensors; one, several, or as they come."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    turn has come, for what is no image; of several it says which one, counted from 0.
    """
    if _is_one(images):
        return map(partial(open_one, channels=channels), [images])
    numbered = partial(_open_numbered, channels=channels)
    if isinstance(images, Sequence) and len(images) <= batch_size:
        return map(numbered, enumerate(images))
    return ahead(numbered, enumerate(images), batch_size)


def _is_one(images: Any) -> bool:
    """Whether this is to be one image: it cannot be iterated over, or what it gives one by one are no images."""
    if isinstance(images, (str, bytes, bytearray, memoryview, Path, Mapping)) or not isinstance(images, Iterable):
        return True
    return _is_pil(images) or (hasattr(images, "ndim") and images.ndim <= 3)


def _open_numbered(numbered: tuple[int, Image], channels: int) -> Opened:
    """`open_one` of an image of several; files are called by their paths, all others by their place."""
    place, image = numbered
    try:
        return open_one(image, channels)
    except ValueError as error:
        if isinstance(image, (str, Path)):
            raise
        raise ValueError(f"images[{place}]: {error}") from error


def open_one(image: Image, channels: int = 3) -> Opened:
    """An image, read; ValueError for what is none."""
    if isinstance(image, (str, Path)):
        from detseg.data.images import read_image

        pixels = read_image(image, channels)
        return Opened(pixels, image if channels == 3 else pixels)
    if _is_pil(image):
        pixels = _of_pil(image, channels)
    elif hasattr(image, "detach"):
        pixels = _of_tensor(image, channels)
    else:
        pixels = image
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"{_wanted(channels)}, got {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels:
        raise ValueError(f"{_wanted(channels)}, got {pixels.dtype} {pixels.shape}")
    if not pixels.size:
        raise ValueError(f"an image must have pixels, got the shape {pixels.shape}")
    return Opened(pixels, pixels)


def _wanted(channels: int) -> str:
    return (
        f"an image must be a path, a uint8 array of shape (H, W, {channels}), a PIL image, or a tensor "
        f"({channels}, H, W), uint8 or float in [0, 1]"
    )


def _is_pil(image: Any) -> bool:
    return type(image).__module__.partition(".")[0] == "PIL"


def _of_pil(image: Any, channels: int) -> NDArray[np.uint8]:
    """A PIL image with so many channels, or with those it has; as `read_image` has files.

    RGB is upright, transparent pixels are laid over white, 16 bits scaled to 8.
    """
    from PIL import Image, ImageOps

    if image.mode == "F":
        raise ValueError("a PIL image of floats (F) has no known range: convert it to 8 bits, mode L")
    if image.mode.startswith("I"):
        levels = np.asarray(image, np.int64).clip(0, 65535)
        return np.repeat((levels / 257).round().astype(np.uint8)[..., None], 1 if channels == 1 else 3, 2)
    if channels not in (1, 3):
        return np.asarray(image)
    if channels == 1:
        return _grey(image.convert("RGB"))
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _grey(image: Any) -> NDArray[np.uint8]:
    """The brightness (H, W, 1) of an RGB image; not by Pillow, which rounds it in another way than OpenCV does."""
    import cv2

    pixels = np.asarray(image)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)[..., None] if pixels.size else pixels


def _of_tensor(image: Any, channels: int) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[0] != channels:
        raise ValueError(f"{_wanted(channels)}, got a tensor {tuple(image.shape)}")
    if image.is_meta or str(image.layout) != "torch.strided":
        raise ValueError(
            f"{_wanted(channels)}, got a tensor that is {'without numbers' if image.is_meta else 'sparse'}"
        )
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
