"""Trained segmenters at work: images in, the class of every pixel of the image's own out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.data.letterbox import Letterbox, fitted_size, letterbox_image, resize_long_side, resize_mask
from detseg.data.sample import PADDING
from detseg.predict.predictor import Predictor, Sized, in_full_size, model_input
from detseg.results import Segmentation
from detseg.sharing import shares_cores, sharing_cores
from detseg.sources import Image, in_batches, open_all, with_sources

# Share of a sliding window that its neighbour sees too: the border of a window knows little of what surrounds it.
OVERLAP = 0.25

# Numbers that `_decide` works on at a time.
CELLS = 2**25

Network = Callable[[NDArray[np.uint8]], Tensor]
"""Images (N, H, W, 3) to class probabilities (N, K, s·H, s·W) float32; s is the model's output_scale."""


class Seen(NamedTuple):
    """The classes of one image."""

    mask: NDArray[np.uint8]  # (H, W) the label of every pixel
    confidence: NDArray[np.float32]  # (H, W) the probability of that label


@torch.inference_mode()
@shares_cores
def segment(
    model: nn.Module,
    images: Iterable[Sized],
    size: int,
    *,
    batch_size: int = 8,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
) -> Iterator[Seen]:
    """Masks of images that are fitted into a square of side `size`, in order, batch by batch.

    Probabilities are averaged over `scales` times `size`, rounded to multiples of 32, and with those that are seen in
    the mirrored image, if `flip`.
    """
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise ValueError(f"scales must be positive numbers, got {tuple(scales)}")
    network = _network(model, flip)
    sides = [max(32, round(size * scale / 32) * 32) if scale != 1 else size for scale in scales]
    for batch in in_batches(images, batch_size):
        views = [network(np.stack([letterbox_image(pixels, side)[0] for pixels, _ in batch])) for side in sides]
        for i, (pixels, wanted) in enumerate(batch):
            shown = pixels.shape[1], pixels.shape[0]
            yield _decide([_inside(view[i], shown, side) for view, side in zip(views, sides, strict=True)], wanted)
        batch.clear()  # not two batches of large images at a time


def _network(model: nn.Module, flip: bool) -> Network:
    model.eval()

    def network(images: NDArray[np.uint8]) -> Tensor:
        batch = model_input(model, images)
        probabilities: Tensor = model(batch).softmax(1)
        if flip:
            probabilities = (probabilities + model(batch.flip(-1)).softmax(1).flip(-1)) / 2
        return probabilities

    return network


def _inside(square: Tensor, shown: tuple[int, int], side: int) -> Tensor:
    """Of (K, s·side, s·side), the part that an image of (width, height) = `shown` fills."""
    box, finer = Letterbox.fit(*shown, side), square.shape[-1] // side
    left, top, width, height = (finer * n for n in (box.pad_x, box.pad_y, *fitted_size(*shown, side)))
    return square[:, top : top + height, left : left + width]


def _decide(views: Sequence[Tensor], wanted: tuple[int, int]) -> Seen:
    """The likeliest class at (width, height) = `wanted`, of views (K, h, w) of whatever size, and its probability.

    A few classes at a time: all of them at the size of a large image would need gigabytes.
    """
    shape = wanted[::-1]
    best = views[0].new_full(shape, -1.0)
    labels = torch.zeros(shape, dtype=torch.uint8, device=best.device)
    at_once = max(1, CELLS // best.numel())
    for first in range(0, len(views[0]), at_once):
        parts = [view[None, first : first + at_once] for view in views]
        parts = [p if p.shape[2:] == shape else F.interpolate(p, shape, mode="bilinear") for p in parts]
        value, index = (parts[0][0] if len(parts) == 1 else torch.cat(parts).mean(0)).max(0)
        labels = torch.where(value > best, (index + first).to(torch.uint8), labels)
        best = torch.maximum(best, value)
    return Seen(labels.cpu().numpy(), best.cpu().numpy())


@torch.inference_mode()
@sharing_cores()
def segment_in_windows(
    model: nn.Module, image: NDArray[np.uint8], window: int, *, batch_size: int = 8, flip: bool = False
) -> Seen:
    """The mask of a large image at its own size, from overlapping windows.

    Where windows overlap their probabilities are averaged, each weighted by how far a pixel lies inside of it. Only
    the rows that windows still have to come to are kept: memory grows with the image's width, not with its height.

    Args:
        image: uint8 RGB (H, W, 3).
        window: side of the windows, pixels; as large as the images that the model was trained on.
        batch_size: of windows.
        flip: average with what is seen in the mirrored windows.
    """
    network = _network(model, flip)
    height, width = image.shape[:2]
    rows, columns = _starts(height, window), _starts(width, window)
    mask, confidence = np.empty((height, width), np.uint8), np.empty((height, width), np.float32)
    band: Tensor | None = None  # sums of the rows from `top` on
    for top, end in zip(rows, [*rows[1:], height], strict=True):
        for lefts in in_batches(columns, batch_size):
            found = network(np.stack([_tile(image, top, left, window) for left in lefts]))
            found = F.avg_pool2d(found, found.shape[-1] // window)  # windows meet pixel by pixel
            if band is None:
                band, weight = found.new_zeros((found.shape[1], window, width)), _tent(window).to(found.device)
            for probabilities, left in zip(found, lefts, strict=True):
                inside = min(window, width - left)
                band[:, :, left : left + inside] += (probabilities * weight)[:, :, :inside]
        assert band is not None
        sums = band[:, : end - top]
        mask[top:end], confidence[top:end] = _decide([sums / sums.sum(0)], (width, end - top))
        band = torch.cat([band[:, end - top :], torch.zeros_like(sums)], 1)
    return Seen(mask, confidence)


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin that cover `length` pixels and overlap by `OVERLAP` of a window or more."""
    if length <= window:
        return [0]
    count = -(-(length - window) // max(1, round(window * (1 - OVERLAP)))) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def _tile(image: NDArray[np.uint8], top: int, left: int, window: int) -> NDArray[np.uint8]:
    """A window of the image (window, window, 3), grey where the image ends."""
    inside = image[top : top + window, left : left + window]
    if inside.shape[:2] == (window, window):
        return inside
    tile = np.full((window, window, 3), PADDING, np.uint8)
    tile[: inside.shape[0], : inside.shape[1]] = inside
    return tile


def _tent(window: int) -> Tensor:
    """(window, window) weights: the distance to the nearer border, across and down."""
    line = torch.minimum(torch.arange(window) + 1, window - torch.arange(window)).float()
    return torch.outer(line, line) / line.max() ** 2


class Segmenter(Predictor):
    """A trained segmenter and what it was trained for; see `Predictor`."""

    def predict(
        self,
        images: Image | Iterable[Image],
        *,
        batch_size: int = 8,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        long_side: int | None = None,
    ) -> list[Segmentation]:
        """The class of every pixel of images.

        Args:
            batch_size: of images or windows.
            flip: average with what is seen in the mirrored images.
            scales: average over these multiples of the size the model was trained at.
            long_side: look at images with this long side, in overlapping windows of the size the model was trained
                at: for small things in large images. Does not go with `scales`.

        Returns:
            For each image its `mask` (H, W) uint8, label i is called ``names[i]``, and the `confidence` (H, W).
        """
        return list(self.stream(images, batch_size, flip, scales, long_side))

    def stream(
        self,
        images: Image | Iterable[Image],
        batch_size: int = 8,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        long_side: int | None = None,
    ) -> Iterator[Segmentation]:
        """As `predict`, one image after another."""
        pixels, sources = with_sources(open_all(images, self.channels, batch_size))
        for seen in self._see(pixels, batch_size, flip, scales, long_side):
            yield Segmentation(seen.mask, seen.confidence, next(sources), self.categories)

    def _see(
        self,
        images: Iterable[NDArray[np.uint8]],
        batch_size: int,
        flip: bool,
        scales: Sequence[float],
        long_side: int | None,
    ) -> Iterator[Seen]:
        if long_side is None:
            sized = in_full_size(images)
            yield from segment(self.model, sized, self.size, batch_size=batch_size, flip=flip, scales=scales)
            return
        if tuple(scales) != (1.0,):
            raise ValueError("long_side and scales do not go together: windows are looked at in one size")
        if long_side < 1:
            raise ValueError(f"long_side must be at least 1 pixel, not {long_side}")
        for image in images:
            shown = resize_long_side(image, long_side)
            seen = segment_in_windows(self.model, shown, self.size, batch_size=batch_size, flip=flip)
            height, width = image.shape[:2]
            confidence = torch.from_numpy(seen.confidence)[None, None]
            if confidence.shape[2:] != (height, width):
                confidence = F.interpolate(confidence, (height, width), mode="bilinear")
            yield Seen(resize_mask(seen.mask, (width, height)), confidence[0, 0].numpy())
