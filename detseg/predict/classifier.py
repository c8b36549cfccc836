"""Trained classifiers at work: images in, classes and their probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detseg.data.augment.classification_transforms import ClassificationEval, TenCrop
from detseg.predict.predictor import Image, Predictor, memory_format, open_all


class Classification(NamedTuple):
    """What one image is taken for."""

    labels: NDArray[np.int64]  # (K,) all classes, the likeliest first
    scores: NDArray[np.float32]  # (K,) their probabilities


@torch.inference_mode()
def classify(
    model: nn.Module, images: Iterable[NDArray[np.uint8]], size: int, *, batch_size: int = 16, ten_crop: bool = False
) -> Iterator[NDArray[np.float32]]:
    """Class probabilities (K,) of images, in order, batch by batch.

    Args:
        model: ``model(images)`` gives logits; it is put into evaluation mode.
        images: uint8 RGB (H, W, 3).
        size: of the square that is cut out of their middle.
        batch_size: squares at a time; ten crops of an image stay together.
        ten_crop: the mean over ten crops: corners and middle, mirrored too.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    model.eval()
    parameter, layout = next(model.parameters()), memory_format(model)
    views = 10 if ten_crop else 1
    cut = TenCrop(size) if ten_crop else ClassificationEval(size)
    batch: list[NDArray[np.uint8]] = []

    def flush() -> Iterator[NDArray[np.float32]]:
        inputs = torch.from_numpy(np.concatenate(batch)).permute(0, 3, 1, 2)
        probabilities = model(inputs.to(parameter.device, memory_format=layout)).softmax(1)
        batch.clear()
        yield from probabilities.unflatten(0, (-1, views)).mean(1).cpu().numpy()

    for image in images:
        batch.append(cut(image).reshape(views, size, size, 3))
        if len(batch) * views >= batch_size:
            yield from flush()
    if batch:
        yield from flush()


class ImageClassifier(Predictor):
    """A trained classifier and what it was trained for; see `Predictor`."""

    def predict(self, images: Sequence[Image], *, batch_size: int = 16, ten_crop: bool = False) -> list[Classification]:
        """What images are of.

        Args:
            images: paths, or uint8 RGB arrays (H, W, 3).
            batch_size: images, or crops of them, at a time.
            ten_crop: the mean over ten crops: corners and middle, mirrored too; slower and a little better.

        Returns:
            For each image all `labels`, the likeliest first, and their `scores`; label i is called ``names[i]``.

        Raises:
            ValueError: a file is no image, an array is not uint8 (H, W, 3), or one image was given instead of a
                list; the message says which.
        """
        return list(self.stream(open_all(images), batch_size, ten_crop))

    def stream(
        self, images: Iterable[NDArray[np.uint8]], batch_size: int = 16, ten_crop: bool = False
    ) -> Iterator[Classification]:
        """As `predict`, one image after another."""
        for scores in classify(self.model, images, self.size, batch_size=batch_size, ten_crop=ten_crop):
            order = np.argsort(-scores, kind="stable").astype(np.int64)
            yield Classification(order, scores[order])
