"""Reading annotations of any supported format into `Annotations`, and writing them."""

from __future__ import annotations

from pathlib import Path

from detseg.data.annotations import AnnotationError, Annotations, match_categories
from detseg.data.formats.coco import read_coco
from detseg.data.formats.coco_writer import write_coco
from detseg.data.formats.recognise import Sources, find_sources
from detseg.data.formats.voc import read_voc
from detseg.data.formats.voc_writer import write_voc
from detseg.data.formats.yolo import read_yolo
from detseg.data.formats.yolo_writer import write_yolo

__all__ = [
    "read_annotations",
    "read_coco",
    "read_dataset",
    "read_voc",
    "read_yolo",
    "write_coco",
    "write_voc",
    "write_yolo",
]


def read_annotations(path: str | Path, split: str | None = None, images: str | Path | None = None) -> Annotations:
    """Read annotations; the format is recognised from the path.

    Args:
        path: a COCO JSON file, a VOC XML file, a YOLO data.yaml, a text file that lists images with YOLO
            labels, or a folder of one of these formats.
        split: "train", "val" or "test", where the path holds several.
        images: the folder of the images (COCO and VOC), where they are not found by themselves.

    Raises:
        AnnotationError: nothing readable is there, the split is missing, or a file is malformed.
    """
    path = Path(path)
    sources = find_sources(path, images)
    if split is None and len(sources) > 1:
        raise AnnotationError(f"{path}: holds the splits {', '.join(sources)}; choose one with split=")
    if split is None or (path.is_file() and list(sources) == [""]):
        return next(iter(sources.values()))()
    if split not in sources:
        raise AnnotationError(f"{path}: has no split {split!r}; found: {_listing(sources)}")
    return sources[split]()


def read_dataset(
    path: str | Path, images: str | Path | None = None, val_share: float | None = None
) -> dict[str, Annotations]:
    """Read the splits "train" and "val" of a dataset (folder or data.yaml).

    Both get the category order of "train", so that equal labels mean equal categories.

    Args:
        path: the dataset.
        images: the folder of the images (COCO and VOC), where they are not found by themselves.
        val_share: share of the images that becomes "val", of a set that is not divided; see `detseg.data.splits`.

    Raises:
        AnnotationError: a split is missing, the categories of the two differ, or a file is malformed.
    """
    path = Path(path)
    sources = find_sources(path, images)
    if val_share is not None:
        from detseg.data.splits import divided, only_set  # here: it brings OpenCV

        return divided(only_set(path, sources), val_share)
    missing = [split for split in ("train", "val") if split not in sources]
    if missing:
        raise AnnotationError(
            f"{path}: no split {' and '.join(map(repr, missing))}; found: {_listing(sources)}. "
            "Give a folder or data.yaml with both, name the training and validation annotations separately, or let "
            "training divide one set by --val-share 0.2"
        )
    train, val = sources["train"](), sources["val"]()
    return {"train": train, "val": match_categories(train.categories, val)}


def _listing(sources: Sources) -> str:
    return ", ".join(name or "annotations without splits" for name in sources)
