"""The page of a segmenter's run."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from accelerate import PartialState

from detseg.data.cache import full_images
from detseg.metrics.bootstrap.segmentation import SegmentationIntervals, bootstrap_segmentation
from detseg.metrics.segmentation.mean_iou import SegmentationMetrics
from detseg.predict import load
from detseg.report.pages.base import RunPage
from detseg.report.pictures import SHOWN
from detseg.report.tables import segmentation
from detseg.visualize import mask_sheet
from detseg.visualize.text import Image


class SegmenterPage(RunPage):
    """Masks beside each other, IoU by class and the confusion matrix of pixels."""

    title = "Segmenter"
    predicts = "draws what it sees and writes the masks as index PNG"
    usage = """\
(seen,) = model.predict(["image.jpg"])
print(seen.mask, seen.confidence)  # of every pixel the label, called model.names[label], and its probability
"""
    worst_caption = "image, truth and prediction, the lowest IoU first"
    class_plot = "class_iou.png"
    tables: ClassVar[Any] = segmentation

    @cached_property
    def measured(self) -> tuple[SegmentationMetrics, SegmentationIntervals]:
        """Metrics and confidence intervals."""
        return self.run.metrics, bootstrap_segmentation(self.run.metrics)

    def facts(self) -> dict[str, Any]:
        """The decoder."""
        strides = " ".join(map(str, self.run.options["strides"]))
        return {"Decoder": f"{self.run.config.decoder}, strides {strides}"}

    def draw_samples(self, samples: list[Any]) -> Image:
        """Training images with their masks."""
        pairs = ((sample.image, np.asarray(sample.mask)) for sample in samples)
        return mask_sheet(pairs, self.run.train.annotations.names, columns=4, tile=320)

    def draw_worst(self) -> Image:
        """The images with the lowest IoU, in full size and predicted again."""
        counts, data = self.run.metrics.images, self.run.val.annotations
        worst = counts.worst(SHOWN)
        place = {int(image_id): i for i, image_id in enumerate(data.image_ids)}
        chosen = [place[int(image_id)] for image_id in counts.image_ids[worst]]
        segmenter: Any = load(self.folder).to(PartialState().device)
        images = list(full_images(data, chosen))
        seen = segmenter.stream(images)
        masks = ((image, data.mask(i), s.mask) for image, i, s in zip(images, chosen, seen, strict=True))
        captions = [
            f"{Path(str(data.paths[i])).name}: mIoU {miou:.3f}"
            for i, miou in zip(chosen, counts.miou[worst], strict=True)
        ]
        return mask_sheet(masks, data.names, captions=captions, remark="image, truth, prediction", bare=True)
