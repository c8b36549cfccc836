"""What `detseg predict` finds in pictures, task by task: the drawing, the words, the results, the mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from detseg.cli.predict import SCORE_THRESHOLD, Predict
from detseg.data.images import read_image
from detseg.data.index_png import is_background, mask_palette, write_index_png
from detseg.data.sample import IGNORE
from detseg.predict import Detector, Predictor, Segmentation, Segmenter
from detseg.segment import masks_to_boxes
from detseg.visualize import draw_boxes, draw_mask

# Pictures at a time: enough for a GPU, few enough for the memory of a laptop.
BATCH = 8


@dataclass(frozen=True)
class Found:
    """What was found in one picture."""

    drawn: NDArray[np.uint8]  # (H, W, 3) RGB
    told: str
    results: list[dict[str, Any]]  # COCO results without image id
    mask: NDArray[np.uint8] | None = None  # (H, W) values of a mask file
    palette: NDArray[np.uint8] | None = None  # (256, 3) their colours


def write_found(found: Found, target: Path) -> None:
    """Write the drawing to `target` and the mask, if there is one, beside it as PNG."""
    if not cv2.imwrite(str(target), cv2.cvtColor(found.drawn, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{target}: could not be written")
    if found.mask is not None:
        write_index_png(target.with_suffix(".png"), found.mask, found.palette)


def find_in(pictures: Sequence[Path], model: Predictor, config: Predict) -> Iterator[Found]:
    """What a model finds in each picture, in order; those before a picture that cannot be read come first."""
    if isinstance(model, Segmenter):
        return find_classes(model, pictures, config)
    assert isinstance(model, Detector)
    return find_objects(model, pictures, config)


def find_objects(detector: Detector, pictures: Sequence[Path], config: Predict) -> Iterator[Found]:
    """Boxes; see `find_in`."""
    threshold = SCORE_THRESHOLD if config.score_threshold is None else config.score_threshold
    # What is written for mAP holds also what nobody wants to see drawn.
    lowest = 0.0 if config.image_ids is not None else threshold
    for images in _read(pictures, BATCH):
        every = detector.predict(images, score_threshold=lowest, batch_size=BATCH)
        for image, found in zip(images, every, strict=True):
            clear = {name: value[found["scores"] >= threshold] for name, value in found.items()}
            drawn = draw_boxes(image, clear["boxes"], clear["labels"], detector.names, clear["scores"])
            counts = Counter(detector.names[label] for label in clear["labels"])
            told = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
            yield Found(drawn, told, _results(found, detector.categories, exact=config.image_ids is not None))


def find_classes(segmenter: Segmenter, pictures: Sequence[Path], config: Predict) -> Iterator[Found]:
    """Masks; see `find_in`."""
    names = segmenter.names
    values = mask_values([number for number, _ in segmenter.categories])
    palette = np.zeros((IGNORE + 1, 3), np.uint8)
    palette[values] = mask_palette(names)[: len(values)]
    # Those who look at a picture in windows have large ones.
    for images in _read(pictures, BATCH if config.long_side is None else 1):
        every = segmenter.stream(images, BATCH, config.flip, config.scales, config.long_side)
        for image, seen in zip(images, every, strict=True):
            found = objects_in(seen, names, config.min_area) if config.boxes else {}
            results = _results(found, segmenter.categories, exact=config.image_ids is not None) if found else []
            yield Found(
                draw_mask(image, seen.mask, names), _shares(seen.mask, names), results, values[seen.mask], palette
            )


def mask_values(ids: Sequence[int]) -> NDArray[np.uint8]:
    """(K,) the value of each label in written masks: its category id, as in the masks that were learnt from; or, if not
    all of the ids fit into 8 bits, its place among the ids as they rise, which no order of the classes changes.

    255 fits: a written mask says something of every pixel, so it has no need of a value for "ignore".
    """
    fits = all(0 <= number <= 255 for number in ids)
    return np.array(ids if fits else np.argsort(np.argsort(ids)), np.uint8)


def objects_in(seen: Segmentation, names: Sequence[str], min_area: int) -> dict[str, NDArray[Any]]:
    """What hangs together in a class, as detections; neither the background nor fewer than `min_area` pixels are."""
    background = 0 if is_background(names[0]) else None
    # Within a component the probability of its class is the confidence, whatever the class.
    chances = torch.from_numpy(seen.confidence).expand(len(names), *seen.confidence.shape)
    found = masks_to_boxes(torch.from_numpy(seen.mask), chances, background=background, min_area=min_area)
    return {name: value.numpy() for name, value in found.items()}


def _read(pictures: Sequence[Path], at_once: int) -> Iterator[list[NDArray[np.uint8]]]:
    """The pixels of some pictures at a time; those before one that cannot be read come before its error."""
    for start in range(0, len(pictures), at_once):
        images: list[NDArray[np.uint8]] = []
        problem = None
        for picture in pictures[start : start + at_once]:
            try:
                images.append(read_image(picture))
            except ValueError as error:
                problem = error
                break
        if images:
            yield images
        if problem is not None:
            raise problem


def _shares(mask: NDArray[np.uint8], names: Sequence[str]) -> str:
    """The share of each class that is in a picture, the largest first."""
    counts = np.bincount(mask.ravel(), minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    return ", ".join(f"{100 * counts[k] / mask.size:.1f} % {names[k]}" for k in order.tolist() if counts[k])


def _results(
    found: dict[str, NDArray[Any]], categories: Sequence[tuple[int, str]], *, exact: bool
) -> list[dict[str, Any]]:
    """COCO results of one picture; short numbers, unless they are `exact` to measure mAP by."""

    def told(value: float, digits: int) -> float:
        return value if exact else round(value, digits)

    return [
        {
            "category_id": categories[label][0],
            "bbox": [told(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": told(score, 5),
        }
        for (x1, y1, x2, y2), score, label in zip(
            found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True
        )
    ]
