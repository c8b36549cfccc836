"""Annotations, masks and images: reading, checking, repairing, writing. Names are imported on first use."""

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
    "MaskError": "index_png",
    "Segments": "polygons",
    "SemanticMasks": "masks",
    "class_color": "colours",
    "image_size": "images",
    "read_image": "images",
    "read_annotations": "formats",
    "read_dataset": "formats",
    "read_labelled_dataset": "formats",
    "read_labels": "formats",
    "read_mask_dataset": "formats",
    "read_masks": "formats",
    "write_coco": "formats",
    "write_index_png": "index_png",
    "write_voc": "formats",
    "write_yolo": "formats",
    "raise_on_problems": "checks.problems",
    "repair": "checks.validate",
    "validate": "checks.validate",
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
