"""Where the images of a data set are if not in files of their own: the link from its arrays to a packed file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EXTENSIONS = (".h5", ".hdf5")
UNDIVIDED = "all"  # the one split of a packed file whose images had no splits


def is_pack(path: str | Path) -> bool:
    """Whether a path looks like a packed file, by its ending."""
    return Path(path).suffix.lower() in EXTENSIONS


class PackRows(NamedTuple):
    """Rows of a split of a packed file, one for each of N images; see `detseg.data.pack.file`."""

    file: str
    split: str
    rows: NDArray[np.int64]  # (N,)
    labels: NDArray[np.uint8] | None = None  # (256,) of masks: the label that a stored one means, if not itself

    def take(self, images: NDArray[np.integer] | NDArray[np.bool_]) -> PackRows:
        """The rows of the images at these positions."""
        return self._replace(rows=self.rows[images])


def refuse_pack(pack: PackRows | None) -> None:
    """Raise ValueError if images are packed, where the files they were made from are needed."""
    if pack is not None:
        raise ValueError(f"{pack.file}: holds resized images, not their files; give the data that it was made from")


def take_rows(pack: PackRows | None, images: NDArray[np.integer] | NDArray[np.bool_]) -> PackRows | None:
    """`PackRows.take` of a data set that may be packed."""
    return None if pack is None else pack.take(images)


def content_digest(content: bytes) -> int:
    """What a packed file keeps of an image's file, or of a mask: equal where the contents are."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def file_digest(path: str) -> int | None:
    """`content_digest` of a file; None if it cannot be read."""
    try:
        return content_digest(Path(path).read_bytes())
    except OSError:
        return None
