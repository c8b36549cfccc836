"""Packed pictures with boxes as samples for training."""

from __future__ import annotations

from pathlib import Path

from detseg.data.annotations import AnnotationError
from detseg.data.dataset import DetectionDataset
from detseg.data.packed import PackedPictures, read_packed_annotations


class PackedDetectionDataset(DetectionDataset):
    """Samples of a split of a packed detection set, as `DetectionDataset` gives them; pictures stay on disk.

    Args:
        path: the packed file.
        split: one of its splits.

    Raises:
        AnnotationError: it is no such file, is damaged, or has no such split.
    """

    def __init__(self, path: str | Path, split: str) -> None:
        splits = read_packed_annotations(path)
        if split not in splits:
            raise AnnotationError(f"{path}: has no split {split!r}, only {', '.join(splits)}")
        self.annotations = splits[split]
        self.pictures = PackedPictures(path, split)  # type: ignore[assignment]  # as good as a PictureCache
