"""Annotated pictures ready for training: decoded once, kept small, handed out as samples.

Every picture is read and resized to the training size once, into one block of memory that worker processes share
(or one file, where memory is short). An epoch then costs no decoding.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.data.annotations import Annotations
from detseg.data.images import read_image
from detseg.data.letterbox import fitted_size, resize_long_side
from detseg.data.sample import Sample

Track = Callable[[Iterable[int], int], Iterable[int]]
"""Wraps an iterable of known length to show progress."""


class PictureCache:
    """Pictures with a long side of `long_side` pixels as one flat uint8 array.

    Attributes:
        place: "memory" or the path of the file the pictures are in.
        megabytes: their size.
    """

    def __init__(
        self, paths: Sequence[str], sizes: NDArray[np.int32], long_side: int, track: Track | None = None
    ) -> None:
        """Read all pictures.

        Args:
            paths: the pictures.
            sizes: (N, 2) widths and heights as `read_image` gives them.
            long_side: pictures are shrunk or enlarged to this many pixels.
            track: shows progress, see `Track`.

        Raises:
            ValueError: a picture cannot be read, or its size is not the given one. The message names it.
        """
        self._shapes = np.array([fitted_size(int(w), int(h), long_side)[::-1] for w, h in sizes]).reshape(-1, 2)
        self._starts = np.concatenate(([0], np.cumsum(self._shapes.prod(1) * 3)))
        self._sizes, self._long_side = sizes, long_side
        total = int(self._starts[-1])
        self.megabytes = total / 1e6
        self._pixels, self.place = _allocate(total)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(self._fill, range(len(paths)), paths)
            for _ in track(done, len(paths)) if track else done:
                pass

    def _fill(self, index: int, path: str) -> int:
        image = read_image(path)
        expected = (int(self._sizes[index, 1]), int(self._sizes[index, 0]))
        if image.shape[:2] != expected:
            raise ValueError(
                f"{path}: the picture is {image.shape[1]}x{image.shape[0]} pixels but its annotations say "
                f"{expected[1]}x{expected[0]}; correct the size in the annotation file or the picture"
            )
        self[index][:] = resize_long_side(image, self._long_side)
        return index

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Picture (H, W, 3), a view into the cache: copy before changing it."""
        height, width = self._shapes[index]
        return self._pixels[self._starts[index] : self._starts[index + 1]].reshape(height, width, 3)


def _allocate(size: int) -> tuple[NDArray[np.uint8], str]:
    """`size` bytes in shared memory if half of what is free suffices, else in an unnamed temporary file."""
    if size <= psutil.virtual_memory().available // 2:
        return torch.zeros(size, dtype=torch.uint8).share_memory_().numpy(), "memory"
    with tempfile.NamedTemporaryFile(prefix="detseg-pictures-", delete=os.name != "nt") as file:
        folder = str(Path(file.name).parent)
        return np.memmap(file, np.uint8, "w+", shape=(max(1, size),)), folder


class DetectionDataset:
    """Samples of an annotated dataset, by position.

    Args:
        annotations: the pictures and their objects.
        long_side: of the cached pictures, in pixels.
        track: shows progress while pictures are read.
    """

    def __init__(self, annotations: Annotations, long_side: int, track: Track | None = None) -> None:
        self.annotations = annotations
        paths = [str(path) for path in annotations.paths]
        self.pictures = PictureCache(paths, annotations.sizes, long_side, track)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        """The picture with its boxes in the cached picture's pixels; the image is a view into the cache."""
        image = self.pictures[index]
        objects = self.annotations.objects(index)
        width, height = self.annotations.sizes[index]
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2)
        return Sample(
            image,
            (self.annotations.boxes[objects] * scale).astype(np.float32),
            self.annotations.labels[objects].astype(np.int64),
            self.annotations.iscrowd[objects],
        )

    def scaled_sizes(self, long_side: int) -> NDArray[np.float64]:
        """(M, 2) widths and heights of all objects but crowds, with every picture's long side at `long_side`."""
        data = self.annotations
        scale = long_side / data.sizes.max(1)[data.image_index]
        sizes = (data.boxes[:, 2:] - data.boxes[:, :2]) * scale[:, None]
        return sizes[~data.iscrowd]


def collate(samples: Sequence[Sample]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Samples of one size to images (N, 3, H, W) uint8 and a target dict for each."""
    # Stacked as NHWC and viewed as NCHW: the layout convolutions on CPUs like best, without a copy.
    images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
    targets = [
        {
            "boxes": torch.from_numpy(s.boxes),
            "labels": torch.from_numpy(s.labels),
            "iscrowd": torch.from_numpy(s.iscrowd),
        }
        for s in samples
    ]
    return images, targets
