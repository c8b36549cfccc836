"""The page of a localizer's run."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from detseg.boxes import box_iou
from detseg.report.pages.boxes import BoxPage
from detseg.report.pictures import SHOWN
from detseg.report.tables import localization
from detseg.visualize.compare import Objects


class LocalizerPage(BoxPage):
    """Truth beside predictions of the one object of each image."""

    title = "Localizer"
    predicts = "draws the box of the object"
    usage = """\
(found,) = model.predict(["image.jpg"], score_threshold=0)
print(found["boxes"], found["scores"], found["labels"])  # one: xyxy in the image's pixels
"""
    worst_caption = "ground truth beside predictions, the lowest IoU first"
    class_plot = "class_iou.png"
    tables: ClassVar[Any] = localization

    def truth(self, index: int) -> Objects:
        """The object that counts, if there is one."""
        target: Objects = self.run.task.target(self.run.val, index)
        return target

    def worst(self, truths: Sequence[Objects]) -> Sequence[int]:
        """Those with the lowest IoU; images without an object have none."""
        found = [np.asarray(prediction["boxes"], np.float64) for prediction in self.run.predictions]
        ious = {
            i: float(box_iou(found[i][:1], np.asarray(truth["boxes"], np.float64)).max())
            for i, truth in enumerate(truths)
            if len(truth["boxes"])
        }
        return sorted(ious, key=ious.__getitem__)[:SHOWN]

    def confusions(self) -> None:
        """None: a localizer is judged by its boxes."""
