"""What pages of models that find boxes share: samples with their boxes, truth beside predictions."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from detseg.data.annotations import Annotations
from detseg.data.cache import full_images
from detseg.report.pages.base import RunPage
from detseg.visualize import compare_sheet, contact_sheet, draw_boxes
from detseg.visualize.compare import Objects
from detseg.visualize.text import Image


class BoxPage(RunPage):
    """The page of a run whose predictions are boxes."""

    @abstractmethod
    def worst(self, truths: Sequence[Objects]) -> Sequence[int]:
        """The validation images to be shown, the worst first."""

    @property
    def objects(self) -> Annotations:
        """What the figures are computed by."""
        data: Annotations = self.run.val.annotations
        return data

    def truth(self, index: int) -> Objects:
        """The objects of a validation image."""
        data = self.objects
        mine = data.objects(index)
        return {"boxes": data.boxes[mine], "labels": data.labels[mine], "iscrowd": data.iscrowd[mine]}

    def draw_samples(self, samples: list[Any]) -> Image:
        """Training images with their boxes."""
        names = self.run.train.annotations.names
        drawn = [draw_boxes(s.image, s.boxes, s.labels, names, iscrowd=s.iscrowd, masks=s.masks) for s in samples]
        return contact_sheet(drawn, 4)

    @cached_property
    def shown_worst(self) -> tuple[list[int], list[Objects]]:
        """The validation images that are shown, the worst first, and their objects."""
        truths = [self.truth(i) for i in range(len(self.run.val))]
        chosen = list(self.worst(truths))
        return chosen, [truths[i] for i in chosen]

    def draw_worst(self) -> Image:
        """Truth beside predictions in full size."""
        data, (chosen, truths) = self.run.val.annotations, self.shown_worst
        return compare_sheet(
            list(full_images(data, chosen)),
            truths,
            [self.run.predictions[i] for i in chosen],
            data.names,
            captions=[file_name(data, i) for i in chosen],
        )


def file_name(data: Annotations, index: int) -> str:
    """What the file of an image is called."""
    return Path(str(data.paths[index])).name
