"""Images in files of the MNIST database's idx format, and what such files hold.

    read_idx(Path("train-labels-idx1-ubyte.gz"))  # uint8 (60000,)
    IdxImages("train-images-idx3-ubyte")[7]       # uint8 (28, 28, 3)

Two zeros, the type of the numbers (8: bytes), how many dimensions; each as a big-endian 32-bit number; the numbers.
Format: LeCun, Cortes and Burges, The MNIST database of handwritten digits.
"""

import gzip
import math
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.data.checks.problems import AnnotationError
from detseg.reading import content_of

BYTES = 8  # the code of uint8, of which such sets are
MOST = 2**34  # bytes of numbers: more is no size but damage


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The numbers of an idx file, maybe packed by gzip; AnnotationError if it is none, or damaged."""
    try:
        content = content_of(path)
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path}: cannot be read: {error}") from error
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:2] != b"\0\0" or not 1 <= dimensions <= 4 or len(content) < start:
        raise AnnotationError(f"{path}: is no idx file; those begin with two zero bytes, a type and a number of sizes")
    if content[2] != BYTES:
        raise AnnotationError(f"{path}: holds numbers of type {content[2]:#04x}; only bytes (0x08) can be images")
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    if math.prod(shape) > MOST or len(content) - start != math.prod(shape):
        size = " x ".join(map(str, shape))
        raise AnnotationError(
            f"{path}: should hold {size} numbers and has {len(content) - start}: cut short or damaged"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


@lru_cache(maxsize=2)  # a training and a test set; their arrays are shared by all that reads them
def read_idx_images(path: str) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, 3) images of an idx file; AnnotationError as `read_idx`, and for other shapes."""
    images = read_idx(Path(path))
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)) or 0 in images.shape[1:]:
        raise AnnotationError(f"{path}: holds an array {images.shape}, no images (N, height, width)")
    return images


class IdxImages:
    """The images of an idx file by position, uint8 (H, W, 3), in place of an `ImageCache`.

    `rows` are positions in the file, in the order wanted.
    """

    def __init__(self, path: str, rows: NDArray[np.int64]) -> None:
        self.place, self.rows = path, rows
        self._images = read_idx_images(path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The image at a position; grey becomes three equal channels."""
        image = self._images[self.rows[index]]
        return np.ascontiguousarray(np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else image)

    @property
    def long_side(self) -> int:
        """Of the images, in pixels."""
        return max(self._images.shape[1:3])

    @property
    def megabytes(self) -> float:
        """Size of the arrays in memory."""
        return self._images.nbytes / 1e6

    def content(self) -> NDArray[np.generic]:
        """What differs if an image does."""
        found: NDArray[np.uint8] = self._images[self.rows]
        return found
