"""Trained detectors at work: images in, boxes in the images' own pixels out.

model = detseg.load("runs/detector-1")
(found,) = model.predict(["image.jpg"])
found["boxes"], found["scores"], found["labels"]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.data.letterbox import Letterbox, fitted_size, letterbox_image
from detseg.predict.predictor import Image, Predictor, memory_format, open_all


@torch.inference_mode()
def detect(
    model: nn.Module,
    images: Iterable[tuple[NDArray[np.uint8], tuple[int, int]]],
    size: int,
    *,
    batch_size: int = 8,
) -> Iterator[dict[str, Tensor]]:
    """Detections of images, in order, batch by batch.

    Args:
        model: ``model(images)`` gives detections; it is put into evaluation mode.
        images: (uint8 RGB (H, W, 3), (width, height)) pairs: the pixels, perhaps of a shrunk copy, and the
            size that boxes are wanted in.
        size: of the square that images are fitted into.
        batch_size: images at a time.

    Yields:
        ``boxes`` (D, 4) float32 xyxy, ``scores`` (D,), ``labels`` (D,) and, of models that find them, ``masks``
        (D, H, W) bool, all on the CPU, best first.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    model.eval()
    parameter = next(model.parameters())
    layout = memory_format(model)
    batch: list[tuple[NDArray[np.uint8], tuple[int, int]]] = []

    def flush() -> Iterator[dict[str, Tensor]]:
        squares = np.stack([letterbox_image(pixels, size)[0] for pixels, _ in batch])
        inputs = torch.from_numpy(squares).permute(0, 3, 1, 2)
        results = model(inputs.to(parameter.device, memory_format=layout))
        for found, (pixels, wanted) in zip(results, batch, strict=True):
            box = Letterbox.fit_copy((pixels.shape[1], pixels.shape[0]), wanted, size)
            boxes = box.to_original(found["boxes"].cpu(), wanted)
            result = {"boxes": boxes, "scores": found["scores"].cpu(), "labels": found["labels"].cpu()}
            if "masks" in found:
                result["masks"] = original_masks(found["masks"], (pixels.shape[1], pixels.shape[0]), wanted)
            yield result
        batch.clear()

    for image in images:
        batch.append(image)
        if len(batch) == batch_size:
            yield from flush()
    if batch:
        yield from flush()


def original_masks(masks: Tensor, shown: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Masks of a square, as masks of the image that was fitted into it.

    Args:
        masks: (D, size, size), True or above 0.5 inside.
        shown: (width, height) of the pixels that were fitted.
        wanted: (width, height) of the image.

    Returns:
        (D, height, width) bool on the CPU.
    """
    size = masks.shape[-1]
    box, (width, height) = Letterbox.fit(*shown, size), fitted_size(*shown, size)
    inside = masks[:, box.pad_y : box.pad_y + height, box.pad_x : box.pad_x + width]
    result = torch.zeros(len(masks), wanted[1], wanted[0], dtype=torch.bool)
    for i, mask in enumerate(inside):  # one by one: hundreds of masks at the size of a photo need gigabytes
        result[i] = (F.interpolate(mask[None, None].float(), wanted[::-1], mode="bilinear")[0, 0] > 0.5).cpu()
    return result


class Detector(Predictor):
    """A trained detector and what it was trained for; see `Predictor`."""

    def predict(
        self, images: Sequence[Image], *, score_threshold: float = 0.3, batch_size: int = 8
    ) -> list[dict[str, NDArray[Any]]]:
        """Find objects in images.

        Args:
            images: paths, or uint8 RGB arrays (H, W, 3).
            score_threshold: detections below are left out; 0.001 gives all that mAP is computed from.
            batch_size: images at a time.

        Returns:
            For each image ``boxes`` (D, 4) float32 xyxy in its pixels, ``scores`` (D,) float32, ``labels`` (D,) int64
            and, of models that find them, ``masks`` (D, H, W) bool, best first; label i is called ``names[i]``.

        Raises:
            ValueError: a file is no image, an array is not uint8 (H, W, 3), or one image was given instead of
                a list; the message says which.
        """
        loaded = ((image, (image.shape[1], image.shape[0])) for image in open_all(images))
        found = detect(self.model, loaded, self.size, batch_size=batch_size)
        return [_above(detections, score_threshold) for detections in found]


def _above(detections: dict[str, Tensor], score_threshold: float) -> dict[str, NDArray[Any]]:
    keep = detections["scores"] >= score_threshold
    return {name: value[keep].numpy() for name, value in detections.items()}
