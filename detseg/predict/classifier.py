"""Trained classifiers at work: images in, classes and their probabilities out."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detseg.data.augment.classification_transforms import ClassificationEval, TenCrop
from detseg.predict.predictor import Predictor, model_input
from detseg.results import Classification
from detseg.sharing import shares_cores
from detseg.sources import Image, in_batches, open_all, with_sources


@torch.inference_mode()
@shares_cores
def classify(
    model: nn.Module, images: Iterable[NDArray[np.uint8]], size: int, *, batch_size: int = 16, ten_crop: bool = False
) -> Iterator[NDArray[np.float32]]:
    """Class probabilities (K,) of images (H, W, 3) uint8 RGB, in order, batch by batch.

    Args:
        size: of the square that is cut out of their middle.
        batch_size: squares at a time; ten crops of an image stay together.
        ten_crop: the mean over ten crops: corners and middle, mirrored too.
    """
    model.eval()
    views = 10 if ten_crop else 1
    cut = TenCrop(size) if ten_crop else ClassificationEval(size)
    for batch in in_batches(map(cut, images), (batch_size + views - 1) // views):
        squares = np.stack(batch).reshape(-1, size, size, batch[0].shape[-1])
        probabilities = model(model_input(model, squares)).softmax(1)
        yield from probabilities.unflatten(0, (-1, views)).mean(1).cpu().numpy()


class ImageClassifier(Predictor):
    """A trained classifier and what it was trained for; see `Predictor`."""

    def predict(
        self, images: Image | Iterable[Image], *, batch_size: int = 16, ten_crop: bool = False
    ) -> list[Classification]:
        """All `labels` of each image, the likeliest first, and their `scores`; label i is called ``names[i]``.

        `batch_size` is of images, or crops of them; `ten_crop` takes the mean over ten crops: corners and middle,
        mirrored too; slower and a little better.
        """
        return list(self.stream(images, batch_size, ten_crop))

    def stream(
        self, images: Image | Iterable[Image], batch_size: int = 16, ten_crop: bool = False
    ) -> Iterator[Classification]:
        """As `predict`, one image after another."""
        pixels, sources = with_sources(open_all(images, self.channels, batch_size))
        for scores in classify(self.model, pixels, self.size, batch_size=batch_size, ten_crop=ten_crop):
            order = np.argsort(-scores, kind="stable").astype(np.int64)
            yield Classification(order, scores[order], next(sources), self.categories)
