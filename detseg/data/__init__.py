"""Annotations, masks and pictures: reading, checking, mending, writing. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "AnnotationError": "annotations",
    "Annotations": "annotations",
    "Category": "annotations",
    "Problem": "annotations",
    "mask_palette": "index_png",
    "match_categories": "annotations",
    "match_mask_categories": "masks",
    "MaskError": "index_png",
    "Segments": "segments",
    "SemanticMasks": "masks",
    "class_color": "colours",
    "image_size": "images",
    "read_image": "images",
    "read_annotations": "readers",
    "read_dataset": "readers",
    "read_mask_dataset": "readers.masks",
    "read_masks": "readers.masks",
    "write_coco": "readers",
    "write_index_png": "index_png",
    "write_voc": "readers",
    "write_yolo": "readers",
    "raise_on_problems": "validate",
    "repair": "validate",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
