"""Trained detectors at work: images in, boxes in the images' own pixels out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.data.letterbox import Letterbox, fitted_size, letterbox_image, resize_long_side
from detseg.data.windows import FINEST
from detseg.localize.localizer import Localizer
from detseg.localize.sliding_window import SlidingWindowDetector
from detseg.predict.predictor import Image, Predictor, Sized, in_batches, in_full_size, model_input, open_all


@torch.inference_mode()
def detect(model: nn.Module, images: Iterable[Sized], size: int, *, batch_size: int = 8) -> Iterator[dict[str, Tensor]]:
    """Detections of images that are fitted into a square of side `size`, in order, batch by batch.

    Yields:
        ``boxes`` (D, 4) float32 xyxy, ``scores`` (D,), ``labels`` (D,) and, of models that find them, ``masks``
        (D, H, W) bool, all on the CPU, best first.
    """
    model.eval()
    for batch in in_batches(images, batch_size):
        squares = np.stack([letterbox_image(pixels, size)[0] for pixels, _ in batch])
        for found, (pixels, wanted) in zip(model(model_input(model, squares)), batch, strict=True):
            shown = pixels.shape[1], pixels.shape[0]
            boxes = Letterbox.fit_copy(shown, wanted, size).to_original(found["boxes"].cpu(), wanted)
            result = {"boxes": boxes, "scores": found["scores"].cpu(), "labels": found["labels"].cpu()}
            if "masks" in found:
                result["masks"] = original_masks(found["masks"], shown, wanted)
            yield result
        batch.clear()  # not two batches of large images at a time


def original_masks(masks: Tensor, shown: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Masks (D, S, S) of a square as (D, height, width) bool of the image of size `wanted`, on the CPU.

    They are True or above 0.5 inside; `shown` is (width, height) of the pixels that were fitted into the square.
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
        """Objects in images: those with at least `score_threshold`; 0.001 gives all that mAP is computed from.

        Returns:
            For each image ``boxes`` (D, 4) float32 xyxy in its pixels, ``scores`` (D,) float32, ``labels`` (D,) int64
            and, of models that find them, ``masks`` (D, H, W) bool, best first; label i is called ``names[i]``.
        """
        results = []
        for found in self._find(open_all(images, self.channels), batch_size):
            keep = found["scores"] >= score_threshold
            results.append({name: value[keep].cpu().numpy() for name, value in found.items()})
        return results

    def _find(self, images: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[dict[str, Tensor]]:
        return detect(self.model, in_full_size(images), self.size, batch_size=batch_size)


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
    def _find(self, images: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[dict[str, Tensor]]:
        self.model.eval()
        for image in images:
            shown = resize_long_side(image, self.long_side)
            (found,) = self.model(model_input(self.model, np.ascontiguousarray(shown)[None]))
            scale = [image.shape[i] / shown.shape[i] for i in (1, 0, 1, 0)]
            yield found | {"boxes": found["boxes"] * found["boxes"].new_tensor(scale)}
