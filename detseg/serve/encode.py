"""What is found in an image, as JSON for the page and for programs."""

import base64
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.bands import shown
from detseg.data.colours import class_color
from detseg.data.index_png import is_background, mask_palette
from detseg.data.letterbox import resize_long_side
from detseg.data.object_masks import outlines
from detseg.results import Classification, OfImage, Results, Segmentation

PREVIEW_SIDE = 2048  # pixels of the long side, at most


def encode(found: OfImage) -> dict[str, Any]:
    """What was found, of values that JSON has; boxes and polygons in the image's own pixels."""
    if isinstance(found, Results):
        return {"objects": _objects(found)}
    if isinstance(found, Segmentation):
        return {"classes": _areas(found), "mask": mask_png(found.mask)}
    if isinstance(found, Classification):
        ranked = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
        names = found.names
        return {"classes": [{"name": names[k], "label": k, "probability": round(p, 5)} for k, p in ranked]}
    raise TypeError(f"no results that are known: {type(found).__name__}")


def _objects(found: Results) -> list[dict[str, Any]]:
    names = found.names
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    objects: list[dict[str, Any]] = [
        {"name": names[label], "label": label, "score": round(score, 5), "box": [round(v, 2) for v in box]}
        for label, score, box in rows
    ]
    for row, mask in zip(objects, () if found.masks is None else found.masks, strict=False):
        row["polygons"] = outlines(mask)
    return objects


def _areas(found: Segmentation) -> list[dict[str, Any]]:
    """The classes that an image has, the largest first: their share of it, and how sure its pixels are on average."""
    counts = np.bincount(found.mask.ravel(), minlength=len(found.categories))
    sums = np.bincount(found.mask.ravel(), found.confidence.ravel(), minlength=len(counts))
    return [
        {
            "name": found.names[k],
            "label": k,
            "share": round(float(counts[k] / found.mask.size), 6),
            "probability": round(float(sums[k] / counts[k]), 5),
        }
        for k in np.argsort(-counts, kind="stable").tolist()
        if counts[k]
    ]


def mask_png(mask: NDArray[np.uint8]) -> str:
    """A label map (H, W) as the data URL of a grey PNG: the value of a pixel is its label."""
    return _data_url("png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 4])


def preview(pixels: NDArray[np.uint8]) -> str:
    """An image (H, W, C), made smaller, as the data URL of a JPEG: for browsers that cannot show its file."""
    small = np.ascontiguousarray(shown(pixels))
    if max(small.shape[:2]) > PREVIEW_SIDE:
        small = resize_long_side(small, PREVIEW_SIDE)
    return _data_url("jpeg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


def _data_url(kind: str, image: NDArray[Any], settings: list[int]) -> str:
    written, data = cv2.imencode(f".{kind}", image, settings)
    if not written:
        raise RuntimeError(f"{image.shape} cannot be written as {kind}")
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"


def colors(names: list[str], task: str) -> list[str]:
    """The colour of each label as CSS writes it; a segmenter's background, which is not drawn, has none: empty."""
    if task != "segment":
        return ["#{:02x}{:02x}{:02x}".format(*class_color(label)) for label in range(len(names))]
    palette = ["#{:02x}{:02x}{:02x}".format(*color) for color in mask_palette(names)[: len(names)].tolist()]
    return ["", *palette[1:]] if is_background(names[0]) else palette
