"""Several trained detectors as one: what they find is averaged by weighted boxes fusion, classes matched by name."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from detseg.localize.localizer import Localizer
from detseg.predict.detector import Detector, Member, detect_together
from detseg.predict.predictor import Predictor, Sized


class FusedDetector(Detector):
    """Several detectors at work as one; see `Detector`.

    Its classes are those of the first, then those that only others know. A detector that does not know a class does not
    lower its scores. Each looks at images in the size that it was trained for.

    Args:
        detectors: two or more, as `detseg.load` gives them.

    Raises:
        ValueError: one is a localizer, a segmenter or a classifier, or has a tree of classes; some find masks and
            others do not; or they take images of different channels.
    """

    def __init__(self, detectors: Sequence[Predictor]) -> None:
        for one in detectors:
            if not isinstance(one, Detector) or isinstance(one.model, Localizer):
                raise ValueError("only detectors can be fused; give one run of anything else")
            if getattr(one.model, "tree", None) is not None:
                raise ValueError("detectors with a tree of classes cannot be fused: their boxes differ in their nodes")
        first = detectors[0]
        for what in ("finds_masks", "channels"):
            values = [getattr(one, what) for one in detectors]
            if len(set(values)) > 1:
                told = {"finds_masks": "all or none of them must find masks", "channels": f"channels are {values}"}
                raise ValueError(f"these detectors cannot be fused: {told[what]}")
        categories = list(first.categories)
        for number, name in (category for one in detectors[1:] for category in one.categories):
            if name not in [known for _, known in categories]:
                taken = [known for known, _ in categories]
                categories.append((max(taken) + 1 if number in taken else number, name))
        description = {
            **first.description,
            "categories": [{"id": number, "name": name} for number, name in categories],
            "size": max(one.size for one in detectors),
        }
        super().__init__(nn.ModuleList(one.model for one in detectors), description)
        places = [torch.tensor([self.names.index(name) for name in one.names]) for one in detectors]
        self.members = [Member(one.model, one.size, own) for one, own in zip(detectors, places, strict=True)]
        self.known = np.array([[name in one.names for name in self.names] for one in detectors])

    @property
    def finds_masks(self) -> bool:
        """Whether objects have masks: all detectors find some, or none does."""
        return all(getattr(member.model, "finds_masks", False) for member in self.members)

    @property
    def networks(self) -> list[Any]:
        """See `Detector`."""
        return [member.model for member in self.members]

    def find(self, images: Iterable[Sized], size: int | None = None, **options: Any) -> Iterator[dict[str, Any]]:
        """See `Detector`; `size` is for all of the detectors."""
        members = [member if size is None else member._replace(size=size) for member in self.members]
        return detect_together(members, images, known=self.known, **options)
