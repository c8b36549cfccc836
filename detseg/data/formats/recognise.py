"""Recognises the format of a dataset from its path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.coco import read_coco
from detseg.data.formats.locate import IMAGE_EXTENSIONS
from detseg.data.formats.voc import read_voc, voc_splits
from detseg.data.formats.yolo import SPLITS, find_yaml, folder_splits, names_nearby, read_yaml, read_yolo
from detseg.data.pack.file import is_pack

Sources = dict[str, Callable[[], Annotations]]  # split -> its reader; "" where there are no splits

LOOKED_FOR = """
  COCO: train.json and val.json, instances_train*.json and instances_val*.json, here or in annotations/;
        train/_annotations.coco.json; a single .json file
  VOC:  Annotations/*.xml with JPEGImages/ (and ImageSets/Main/train.txt, val.txt); .xml files
  YOLO: data.yaml; train.txt and val.txt; images/train with labels/train; images/ with labels/;
        images with .txt files beside them
  packed: an .h5 file that `detseg pack` wrote"""


def find_sources(path: Path, images: str | Path | None = None) -> Sources:
    """The splits found at a path, each with a function that reads it.

    Raises:
        AnnotationError: the path does not exist or holds no known format; the message lists those looked for.
    """
    if not path.exists():
        raise AnnotationError(f"{path}: does not exist")
    sources = _folder_sources(path, images) if path.is_dir() else _file_sources(path, images)
    if sources is None:
        raise AnnotationError(f"{path}: no annotations recognised. Looked for:{LOOKED_FOR}")
    return sources


def _file_sources(path: Path, images: str | Path | None) -> Sources | None:
    suffix = path.suffix.lower()
    if is_pack(path):
        from detseg.data.pack.datasets import packed_annotation_sources  # here: nothing else needs OpenCV

        refuse_images(path, images)
        return packed_annotation_sources(path)
    if suffix == ".json":
        return {"": partial(read_coco, path, images)}
    if suffix == ".xml":
        return {"": partial(read_voc, path, images=images)}
    if suffix in (".yaml", ".yml"):
        return _yaml_sources(path, images)
    if suffix == ".txt" and path.parent.name == "Main" and path.parent.parent.name == "ImageSets":
        return {"": partial(read_voc, path.parents[2], path.stem, images)}
    if suffix == ".txt":
        return _yolo_sources({"": [path]}, path, images)
    return None


def _folder_sources(folder: Path, images: str | Path | None) -> Sources | None:
    coco = _coco_splits(folder)
    if coco:
        return {split: partial(read_coco, file, images) for split, file in coco.items()}
    if next((folder / "Annotations").glob("**/*.xml"), None) is not None:
        divided = {s: partial(read_voc, folder, s, images) for s in voc_splits(folder)}
        return dict(divided) or {"": partial(read_voc, folder, images=images)}
    file = find_yaml(folder)
    if file is not None:
        return _yaml_sources(file, images)
    splits = _yolo_splits(folder)
    if splits:
        return _yolo_sources(splits, folder, images)
    if next(folder.glob("*.xml"), None) is not None:
        return {"": partial(read_voc, folder, images=images)}
    jsons = sorted([*folder.glob("*.json"), *(folder / "annotations").glob("*.json")])
    return {"": partial(read_coco, jsons[0], images)} if len(jsons) == 1 else None


def _coco_splits(folder: Path) -> dict[str, Path]:
    splits = {}
    for split, spellings in SPLITS.items():
        patterns = [
            pattern
            for name in spellings
            for pattern in (
                f"{name}.json",
                f"instances_{name}.json",
                f"instances_{name}*.json",
                f"{name}*.json",
            )
        ]
        file = _first_match([folder, folder / "annotations"], patterns)
        file = file or _first_match([folder / name for name in spellings], ["_annotations.coco.json"])
        if file is not None:
            splits[split] = file
    return splits


def _first_match(folders: Sequence[Path], patterns: Sequence[str]) -> Path | None:
    """The file that fits the first pattern that fits any. Capitals do not matter: some tools write Train.json."""
    for folder in folders:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        for pattern in patterns:
            matches = [file for file in files if fnmatchcase(file.name.lower(), pattern)]
            if len(matches) > 1:
                names = ", ".join(match.name for match in matches)
                raise AnnotationError(f"{folder}: several files could be meant ({names}); give the file itself")
            if matches:
                return matches[0]
    return None


def _yolo_splits(folder: Path) -> dict[str, list[Path]]:
    lists = {split: [folder / f"{split}.txt"] for split in SPLITS if (folder / f"{split}.txt").is_file()}
    splits = lists or folder_splits(folder)
    if splits:
        return splits
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return {"": [folder / "images"]}
    beside = any(
        file.suffix.lower() in IMAGE_EXTENSIONS and file.with_suffix(".txt").is_file() for file in folder.iterdir()
    )
    return {"": [folder]} if beside else {}


def _yaml_sources(file: Path, images: str | Path | None) -> Sources:
    refuse_images(file, images)
    data = read_yaml(file)
    return {
        split: partial(read_yolo, places, data.names, file, data.keypoint_numbers)
        for split, places in data.splits.items()
    }


def _yolo_sources(splits: dict[str, list[Path]], source: Path, images: str | Path | None) -> Sources:
    refuse_images(source, images)
    names = names_nearby(next(iter(splits.values())))
    if names is None and len(splits) > 1:
        # Unnamed classes are counted over all splits, so that the splits agree about them.
        found = [read_yolo(places, source=source).names for places in splits.values()]
        names = max((list(names) for names in found), key=lambda names: len(names))
    return {split: partial(read_yolo, places, names, source) for split, places in splits.items()}


def refuse_images(path: Path, images: str | Path | None) -> None:
    """Raise AnnotationError where a folder of images is given for a form that names its own."""
    if images is not None:
        raise AnnotationError(f"{path}: says itself where its images are; --images is for COCO and VOC")
