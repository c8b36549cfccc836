"""Trained localizers as detectors: a window that slides over each image, from one as a whole to small parts of it.

detector = SlidingDetector(detseg.load("runs/localizer-1"))
(found,) = detector.predict(["image.jpg"])
found["boxes"], found["scores"], found["labels"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.data.letterbox import resize_long_side
from detseg.data.windows import FINEST
from detseg.localize.localizer import Localizer
from detseg.localize.sliding_window import SlidingWindowDetector
from detseg.predict.detector import Detector
from detseg.predict.predictor import Image, Predictor, memory_format, open_all


class SlidingDetector(Detector):
    """A localizer that was trained with objectness, on windows, at work as a detector; see `Predictor`.

    Attributes:
        long_side: of images as they are looked at first, pixels; then they are shrunk from level to level.
    """

    def __init__(self, localizer: Predictor, *, long_side: int | None = None) -> None:
        """A detector from a loaded localizer, on its device.

        Args:
            localizer: what `detseg.load` gives for the run of a localizer.
            long_side: larger finds smaller objects, in more time; by default five windows, as `detseg windows` has it.

        Raises:
            ValueError: it is no localizer, it has no objectness, or `long_side` is below a pixel.
        """
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
    def predict(
        self, images: Sequence[Image], *, score_threshold: float = 0.3, batch_size: int = 1
    ) -> list[dict[str, NDArray[Any]]]:
        """Find objects in images.

        Args:
            images: paths, or uint8 RGB arrays (H, W, 3).
            score_threshold: detections below are left out; 0.001 gives all that mAP is computed from.
            batch_size: is that of other detectors; images have shapes of their own here, so they come one by one.

        Returns:
            For each image ``boxes`` (D, 4) float32 xyxy in its pixels, ``scores`` (D,) float32 and ``labels``
            (D,) int64, best first; label i is called ``names[i]``.

        Raises:
            ValueError: as `detseg.predict.Detector.predict`.
        """
        self.model.eval()
        return [self._find(image, score_threshold) for image in open_all(images)]

    def _find(self, image: NDArray[np.uint8], score_threshold: float) -> dict[str, NDArray[Any]]:
        shown = resize_long_side(image, self.long_side)
        pixels = torch.from_numpy(np.ascontiguousarray(shown))[None].permute(0, 3, 1, 2)
        parameter = next(self.model.parameters())
        (found,) = self.model(pixels.to(parameter.device, memory_format=memory_format(self.model)))
        keep = found["scores"] >= score_threshold
        arrays = {name: value[keep].cpu().numpy() for name, value in found.items()}
        arrays["boxes"] *= np.array([image.shape[i] / shown.shape[i] for i in (1, 0, 1, 0)], np.float32)
        return arrays
