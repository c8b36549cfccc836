"""Reads what `detseg pack` wrote: annotations into memory; images and masks stay in the file.

The `paths` of what is read are the names that the images had; their pixels come from `detseg.data.pack.packed`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from detseg.data.annotations import Annotations
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks
from detseg.data.pack.file import (
    PackInfo,
    check_labels,
    checked_array,
    checked_common,
    checked_dataset,
    checked_offsets,
    of_task,
    opened,
    read_pack_info,
)
from detseg.data.pack.rows import PackRows

Set = TypeVar("Set")

# name -> kind of numbers (numpy), columns or None
_OBJECTS = {"boxes": ("f", 4), "labels": ("i", None), "iscrowd": ("b", None), "ids": ("i", None), "areas": ("f", None)}


def packed_annotation_sources(path: str | Path) -> dict[str, Callable[[], Annotations]]:
    """The splits of a packed detection set, each with a function that reads it.

    Boxes are in the pixels of the original images.

    Raises:
        AnnotationError: as `read_pack_info`; or the file is of another task. The functions raise it for damage.
    """
    return _sources(path, "detection", _read_annotations)


def packed_mask_sources(path: str | Path) -> dict[str, Callable[[], SemanticMasks]]:
    """The splits of a packed segmentation set, as `packed_annotation_sources`."""
    return _sources(path, "segmentation", _read_masks)


def read_packed_labels(path: str | Path) -> dict[str, LabelledImages]:
    """The splits of a packed classification set.

    Raises:
        AnnotationError: as `read_pack_info`; or the file is of another task, or damaged.
    """
    return {split: read() for split, read in _sources(path, "classification", _read_labels).items()}


def _sources(path: str | Path, task: str, read: Callable[[PackInfo, str], Set]) -> dict[str, Callable[[], Set]]:
    info = of_task(read_pack_info(path), task)
    return {split: partial(read, info, split) for split in info.splits}


def _common(file: Any, info: PackInfo, split: str) -> dict[str, Any]:
    """What all tasks keep of the images."""
    arrays = checked_common(file, info, split)
    return {
        "categories": info.categories,
        "image_ids": arrays["image_ids"].astype(np.int64),
        "paths": arrays["names"],
        "sizes": arrays["sizes"].astype(np.int32),
        "source": f"{info.file} ({split})",
        "pack": PackRows(info.file, split, np.arange(info.splits[split])),
    }


def _read_labels(info: PackInfo, split: str) -> LabelledImages:
    with opened(info.file) as file:
        labels = checked_array(file, info, f"{split}/labels", "i", (info.splits[split],))
        check_labels(labels, len(info.categories), info, f"{split}/labels")
        return LabelledImages(labels=labels.astype(np.int64), **_common(file, info, split))


def _read_annotations(info: PackInfo, split: str) -> Annotations:
    with opened(info.file) as file:
        common = _common(file, info, split)
        offsets = checked_offsets(file, info, f"{split}/offsets")
        objects = {}
        for name, (kind, columns) in _OBJECTS.items():
            shape = (int(offsets[-1]), columns) if columns else (int(offsets[-1]),)
            objects[name] = checked_array(file, info, f"{split}/{name}", kind, shape)
    check_labels(objects["labels"], len(info.categories), info, f"{split}/labels")
    return Annotations(
        image_index=np.repeat(np.arange(info.splits[split], dtype=np.int32), np.diff(offsets)),
        boxes=objects["boxes"].astype(np.float64),
        labels=objects["labels"].astype(np.int32),
        iscrowd=objects["iscrowd"],
        ids=objects["ids"].astype(np.int64),
        areas=objects["areas"].astype(np.float64),
        **common,
    )


def _read_masks(info: PackInfo, split: str) -> SemanticMasks:
    with opened(info.file) as file:
        checked_dataset(file, info, f"{split}/masks", "u", (info.splits[split], info.size**2))
        return SemanticMasks(**_common(file, info, split))
