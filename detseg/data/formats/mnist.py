"""Classification sets in the idx files of MNIST: images in one file, their classes in another."""

from functools import partial
from pathlib import Path

import numpy as np

from detseg.data.annotations import AnnotationError, Category
from detseg.data.base import PackRows
from detseg.data.formats.assemble import label_classes
from detseg.data.formats.format import Format, Sources
from detseg.data.labels import LabelledImages
from detseg.data.pack.idx import read_idx, read_idx_images

SPLIT_WORDS = {"train": "train", "t10k": "test", "test": "test", "valid": "val"}
FOLDERS = ("", "raw", "MNIST/raw", "FashionMNIST/raw")  # the others are where torchvision puts them


def _find(path: Path, images: str | Path | None) -> Sources | None:
    if not path.is_dir():
        return None
    for folder in (path / name for name in FOLDERS):
        pairs = _pairs(folder) if folder.is_dir() else {}
        if pairs:
            labels = {split: read_idx(file) for split, (_, file) in pairs.items()}
            words = {str(value) for found in labels.values() for value in np.unique(found).tolist()}
            categories = label_classes(words, folder)
            return {s: partial(_read, file, labels[s], categories, s) for s, (file, _) in pairs.items()}
    return None


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> the files of images and of labels; "" where the name tells no split."""
    found: dict[str, tuple[Path, Path]] = {}
    for file in sorted(folder.glob("*images*idx*ubyte*")):
        labels = folder / file.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
        others = (labels, labels.with_name(labels.name.removesuffix(".gz")), labels.with_name(f"{labels.name}.gz"))
        there = next((other for other in others if other.is_file()), None)
        split = next((split for word, split in SPLIT_WORDS.items() if word in file.name.lower()), "")
        if there is None:
            raise AnnotationError(f"{file}: its labels, {labels.name}, are missing; put them beside it")
        if not file.name.startswith("."):
            found.setdefault(split, (file, there))
    return found


def _read(file: Path, labels: np.ndarray, categories: tuple[Category, ...], split: str) -> LabelledImages:
    images = read_idx_images(str(file))
    if labels.shape != (len(images),):
        raise AnnotationError(f"{file}: has {len(images)} images and its labels have the shape {labels.shape}")
    position = {category.id: label for label, category in enumerate(categories)}
    rows = np.arange(len(images))
    return LabelledImages(
        categories=categories,
        image_ids=rows,
        paths=np.array([f"{file.name}/{row}" for row in rows.tolist()], np.str_),
        sizes=np.tile(np.array(images.shape[2:0:-1], np.int32), (len(images), 1)),
        labels=np.array([position[value] for value in labels.tolist()], np.int64),
        source=str(file),
        pack=PackRows(str(file), split, rows),
    )


FORMAT = Format(
    name="mnist",
    title="MNIST",
    looks_for="train-images-idx3-ubyte and train-labels-idx1-ubyte, t10k-images-idx3-ubyte, … (or .gz)",
    find=_find,
    gives="labels",
    takes_images=False,
)
