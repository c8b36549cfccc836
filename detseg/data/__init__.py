"""Annotations and pictures: reading, checking, mending, writing. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "AnnotationError": "annotations",
    "Annotations": "annotations",
    "Category": "annotations",
    "Problem": "annotations",
    "match_categories": "annotations",
    "Segments": "segments",
    "image_size": "images",
    "read_image": "images",
    "read_annotations": "readers",
    "read_dataset": "readers",
    "write_coco": "readers",
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
