"""Annotations, masks and images: reading, checking, repairing, writing. Names are imported on first use."""

from importlib import import_module
from typing import Any

_NAMES = {
    "annotations": "AnnotationError Annotations Category Problem match_categories",
    "checks.validate": "raise_on_problems repair validate",
    "colours": "class_color",
    "formats": "read_annotations read_dataset read_labelled_dataset read_labels read_mask_dataset read_masks "
    "write_coco write_dataset write_masks write_voc write_yolo",
    "images": "image_size read_image",
    "index_png": "MaskError mask_palette write_index_png",
    "masks": "SemanticMasks",
    "polygons": "Segments",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
