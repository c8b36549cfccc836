"""From a cached image to what the network sees in training; `EvalTransform` is the plain one, for all else.

    transform = TrainTransform(320)
    sample = transform(sample, np.random.default_rng([seed, epoch, index]))
    sample = transform.mosaic([a, b, c, d], rng)

Every result is a contiguous uint8 (size, size, 3) image with its boxes, and its masks, in the same pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detseg.data.augment.copy_paste import copy_paste
from detseg.data.augment.geometry import Flip, Geometry
from detseg.data.augment.mosaic import mosaic
from detseg.data.letterbox import check_size
from detseg.data.sample import Sample


class TrainTransform:
    """Random augmentation of one sample (or four, `mosaic`) to `size` x `size` pixels.

    The result depends on the sample and the state of `rng` only, never on global random states. Use one
    instance per thread (processes each have their own): albumentations keeps the generators in its objects.
    Options are those of `Geometry` (at zoom 1 the long side is `size`) and of `Photometric`; `mosaic_scale` is as
    `scale`, for images of a mosaic (0.5 fits a quadrant).
    """

    def __init__(
        self,
        size: int,
        *,
        flip: Flip = "horizontal",
        scale: tuple[float, float] = (0.6, 1.4),
        aspect: float = 0.1,
        rotate: float = 5.0,
        light: float = 0.2,
        colour: float = 0.2,
        blur: float = 0.05,
        noise: float = 0.1,
        mosaic_scale: tuple[float, float] = (0.4, 1.0),
        min_visible: float = 0.3,
        min_side: float = 2.0,
    ) -> None:
        check_size(size)
        # Here, not at the top: albumentations is slow to import, and prediction does without it.
        from detseg.data.augment.photometric import Photometric

        self.size = size
        self.geometry = Geometry(
            flip=flip, scale=scale, aspect=aspect, rotate=rotate, min_visible=min_visible, min_side=min_side
        )
        self.mosaic_geometry = replace(self.geometry, scale=mosaic_scale)
        self.photometric = Photometric(light=light, colour=colour, blur=blur, noise=noise)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Augment one sample; the input is not changed."""
        return self._finish(self.geometry(sample, (self.size, self.size), rng), rng)

    def mosaic(self, samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """Four samples to one, each with its own geometry, then light, colour, blur and noise for all."""
        return self._finish(mosaic(samples, self.size, rng, self.mosaic_geometry), rng)

    def copy_paste(self, onto: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        """An augmented sample with objects of another one, both results of this transform."""
        least = {"min_visible": self.geometry.min_visible, "min_side": self.geometry.min_side}
        return copy_paste(onto, other, rng, **least)

    def _finish(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(sample, image=self.photometric(sample.image, rng))
