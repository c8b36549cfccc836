"""Trained detectors at work: images in, boxes in the images' own pixels out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.data.letterbox import Letterbox, letterbox_image, resize_long_side
from detseg.data.windows import FINEST
from detseg.detect.masks import paste_masks
from detseg.localize.localizer import Localizer
from detseg.localize.sliding_window import SlidingWindowDetector
from detseg.predict.predictor import Image, Predictor, Sized, in_batches, in_full_size, model_input, open_all


@torch.inference_mode()
def detect(
    model: nn.Module,
    images: Iterable[Sized],
    size: int,
    *,
    batch_size: int = 8,
    score_threshold: float = 0.0,
    run_lengths: bool = False,
) -> Iterator[dict[str, Any]]:
    """Detections of images that are fitted into a square of side `size`, in order, batch by batch.

    Args:
        model: a detector.
        images: RGB pixels, and the (width, height) that boxes and masks are wanted in.
        size: in pixels.
        batch_size: images at a time.
        score_threshold: lowest score.
        run_lengths: masks as COCO run lengths, a few kilobytes each, however large the image.

    Yields:
        ``boxes`` (D, 4) float32 xyxy, ``scores`` (D,), ``labels`` (D,) and, of models that find them, ``masks``
        (D, H, W) bool or a list of D run lengths, all on the CPU, best first.
    """
    model.eval()
    for batch in in_batches(images, batch_size):
        squares = np.stack([letterbox_image(pixels, size)[0] for pixels, _ in batch])
        for found, (pixels, wanted) in zip(model(model_input(model, squares)), batch, strict=True):
            box = Letterbox.fit_copy((pixels.shape[1], pixels.shape[0]), wanted, size)
            keep = found["scores"] >= score_threshold
            result: dict[str, Any] = {name: value[keep].cpu() for name, value in found.items()}
            result["boxes"] = box.to_original(result["boxes"], wanted)
            if "masks" in result:
                regions = result.pop("regions", torch.tensor([[0.0, 0.0, size, size]]).expand(len(result["masks"]), 4))
                regions = box.to_original(regions, None)
                result["masks"] = _full_masks(result["masks"], regions, result["boxes"], wanted, run_lengths)
            yield result
        batch.clear()  # not two batches of large images at a time


def _full_masks(masks: Tensor, regions: Tensor, boxes: Tensor, wanted: tuple[int, int], run_lengths: bool) -> Any:
    """Masks in an image of size `wanted` = (width, height), see `detect`."""
    if not run_lengths:
        return paste_masks(masks, regions, boxes, wanted[::-1])
    from pycocotools import mask as coco

    # One by one: of a photo of 12 megapixels a hundred masks are 1.2 GB.
    parts = (
        paste_masks(masks[i : i + 1], regions[i : i + 1], boxes[i : i + 1], wanted[::-1]) for i in range(len(masks))
    )
    return [coco.encode(np.asfortranarray(part[0].numpy().view(np.uint8))) for part in parts]


class Detector(Predictor):
    """A trained detector and what it was trained for; see `Predictor`."""

    def predict(
        self, images: Sequence[Image], *, score_threshold: float = 0.3, batch_size: int = 8
    ) -> list[dict[str, NDArray[Any]]]:
        """Objects in images: those with at least `score_threshold`; 0.001 gives all that mAP is computed from.

        Returns:
            For each image ``boxes`` (D, 4) float32 xyxy in its pixels, ``scores`` (D,) float32, ``labels`` (D,) int64
            and, of models that find them, ``masks`` (D, H, W) bool, best first; label i is called ``names[i]``.
        """
        every = self._find(open_all(images, self.channels), batch_size, score_threshold)
        return [{name: value.numpy() for name, value in found.items()} for found in every]

    def _find(
        self, images: Iterable[NDArray[np.uint8]], batch_size: int, score_threshold: float
    ) -> Iterator[dict[str, Tensor]]:
        return detect(
            self.model, in_full_size(images), self.size, batch_size=batch_size, score_threshold=score_threshold
        )


def tree_of(predictor: Predictor) -> Any:
    """The `SoftmaxTree` of a model whose classes are the nodes of a tree, else None."""
    return getattr(predictor.model, "tree", None)


class SlidingDetector(Detector):
    """A localizer at work as a detector: a window slides over each image, from all of it to small parts of it.

    Images come one by one, for each has a shape of its own.

    Args:
        localizer: what `detseg.load` gives for the run of a localizer.
        long_side: of images as they are looked at first, pixels; then they are shrunk from level to level. Larger finds
            smaller objects, in more time; by default five windows, as `detseg windows` has it.

    Raises:
        ValueError: it is no localizer, it has no objectness, or `long_side` is below a pixel.
    """

    def __init__(self, localizer: Predictor, *, long_side: int | None = None) -> None:
        if not isinstance(localizer.model, Localizer):
            raise ValueError(
                "only a localizer can slide over images; train one with `detseg train localizer --objectness` on "
                "what `detseg windows` cuts"
            )
        if long_side is not None and long_side < 1:
            raise ValueError(f"long_side must be at least 1 pixel, not {long_side}")
        super().__init__(SlidingWindowDetector(localizer.model, localizer.size), localizer.description)
        self.long_side = round(FINEST * self.size) if long_side is None else long_side

    @torch.inference_mode()
    def _find(
        self, images: Iterable[NDArray[np.uint8]], batch_size: int, score_threshold: float
    ) -> Iterator[dict[str, Tensor]]:
        self.model.eval()
        for image in images:
            shown = resize_long_side(image, self.long_side)
            (found,) = self.model(model_input(self.model, np.ascontiguousarray(shown)[None]))
            scale = [image.shape[i] / shown.shape[i] for i in (1, 0, 1, 0)]
            keep = found["scores"] >= score_threshold
            found["boxes"] = found["boxes"] * found["boxes"].new_tensor(scale)
            yield {name: value[keep].cpu() for name, value in found.items()}
