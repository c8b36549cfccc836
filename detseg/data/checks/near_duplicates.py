"""Images that show the same scene: copies that were encoded anew, resized, brightened, or cropped a little.

Candidates are found by a perceptual hash, the signs of the lowest frequencies (pHash: C. Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010), of which all pairs are compared: 64 bits each. Many different
images agree in those, such as any flower in the middle of a plain ground. So candidates are compared by what is finer:
thumbnails without their low frequencies, at several scales and shifts.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.base import Track
from detseg.data.checks.looks import SIDE, Looks, read_looks

# Measured on 1 443 photographs of flowers, where all pairs that these leave show one scene: of copies cropped by 5 %
# on all four sides 98 % are within BITS, 98 % of those above ROUGHLY; all are above ALIKE, as is every copy that is
# blurred, noisy, brightened or encoded anew. Different scenes reach 0.56, and more where there is little texture.
BITS = 18  # in which hashes may differ
ROUGHLY = 0.35  # correlation of details at half the size
ALIKE = 0.62  # correlation of details of even strength, shifted and scaled to match
SAME = (
    0.97  # the same where there is little texture, and at half the size of small images: digits and icons are similar
)
TEXTURE = 0.6  # share of an image with texture at which it must be the SAME; all of it has to be ALIKE
FAINT = 4.0  # squared grey levels; what varies less is no texture
PLAIN = 1.0  # grey levels; images with less detail show nothing that could be compared

BLOCK = (512, 4096)  # hashes compared at once
STEP = 1024  # pairs of images compared at once
MARGIN = 6  # pixels around the middle of a thumbnail, which is looked for in the other
SLACK = 1  # pixels by which a crop may seem to reach over the border
# What a crop of 5 to 20 % is enlarged by when it is made a thumbnail, in x and y.
SCALES = ((1.0, 1.0), (1.06, 1.06), (1.12, 1.12), (1.25, 1.25), (1.0, 1.1), (1.1, 1.0))


def near_duplicate_groups(paths: Sequence[str], *, track: Track | None = None) -> list[list[int]]:
    """Groups of two or more positions of images that show the same scene, in rising order.

    Two images are in a group if they are alike, or both like a third one. Images without any detail (all black, say)
    and files that cannot be read are in none. Mirrored and turned copies are not found.

    Args:
        paths: of N images.
        track: shows progress over the images that are read, which takes most of the time.
    """
    return groups_by_looks(read_looks(paths, track))


def groups_by_looks(looks: Looks) -> list[list[int]]:
    """`near_duplicate_groups` of images that were looked at already."""
    rough = np.array([_detail(_resized(thumbnail, SIDE // 2), 2) for thumbnail in looks.thumbnails], np.float32)
    rough = rough.reshape(len(rough), (SIDE // 2) ** 2)
    rows = np.flatnonzero(looks.readable & (rough.std(1) >= PLAIN))
    rough, sides, thumbnails = _unit(rough[rows]), looks.sides[rows], looks.thumbnails[rows]
    hashes = np.array([_hash(thumbnail) for thumbnail in thumbnails], np.uint64)
    groups = _Groups(len(rows))
    with ThreadPoolExecutor() as pool:
        for a, b in _close_pairs(hashes):
            small = np.minimum(sides[a], sides[b]) < SIDE
            likely = _correlations(rough, a, b) >= np.where(small, SAME, ROUGHLY)
            pairs = np.stack([a, b, small], 1)[likely]
            # In short steps: of a thousand images of one scene most are in one group soon, and need no comparison.
            for step in np.split(pairs, range(STEP, len(pairs), STEP)):
                a, b, small = step[groups.of(step[:, 0]) != groups.of(step[:, 1])].T
                alike = small.astype(bool)
                compared = pool.map(_alike, thumbnails[a[~alike]], thumbnails[b[~alike]])
                alike[~alike] = np.fromiter(compared, bool)
                groups.join(a[alike], b[alike])
    return [rows[group].tolist() for group in groups.larger()]


class _Groups:
    """Disjoint sets of positions 0..N-1, each named by its lowest."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each position."""
        while (self.parent[rows] != rows).any():
            rows = self.parent[rows]
        return rows

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Join the groups of pairs."""
        for pair in np.stack([a, b], 1):
            low, high = np.sort(self.of(pair))
            self.parent[high] = low
            self.parent[pair] = low  # keeps the ways short

    def larger(self) -> list[NDArray[np.int64]]:
        """The groups of two or more."""
        group = self.of(np.arange(len(self.parent)))
        order = np.argsort(group, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
        return [part for part in parts if len(part) > 1]


def _hash(thumbnail: NDArray[np.uint8]) -> np.uint64:
    """Which of the 8 x 8 lowest frequencies of a thumbnail are above their median, in 64 bits."""
    low = cv2.dct(_resized(thumbnail, 32).astype(np.float32))[:8, :8]
    return np.packbits(low > np.median(low)).view(np.uint64)[0]


def _close_pairs(hashes: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of positions a < b whose hashes (N,) differ in at most BITS, block by block."""
    for top in range(0, len(hashes), BLOCK[0]):
        for left in range(top, len(hashes), BLOCK[1]):
            differ = hashes[top : top + BLOCK[0], None] ^ hashes[None, left : left + BLOCK[1]]
            a, b = np.nonzero(np.bitwise_count(differ) <= BITS)
            a, b = a + top, b + left
            yield a[a < b], b[a < b]


def _resized(pixels: NDArray[np.uint8], width: int, height: int | None = None) -> NDArray[np.uint8]:
    interpolation = cv2.INTER_AREA if width < pixels.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(pixels, (width, height or width), interpolation=interpolation)  # type: ignore[return-value]


def _detail(thumbnail: NDArray[np.uint8], radius: float = 3) -> NDArray[np.float32]:
    """A thumbnail without its low frequencies."""
    pixels = thumbnail.astype(np.float32)
    return pixels - cv2.GaussianBlur(pixels, (0, 0), radius)


def _even(thumbnail: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Detail of the same strength everywhere, for else a few edges decide; and the share of the image with texture."""
    detail = _detail(thumbnail)
    strength = cv2.GaussianBlur(detail * detail, (0, 0), 3)
    return (detail / np.sqrt(strength + FAINT)).astype(np.float32), float((strength >= FAINT).mean())


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of mean 0 and length 1, so that their products are correlations."""
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _correlations(units: NDArray[np.float32], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float32]:
    """(P,) correlations of pairs of rows, in pieces: there may be millions of pairs."""
    result = np.zeros(len(a), np.float32)
    for start, stop in pairwise([*range(0, len(a), 4096), len(a)]):
        result[start:stop] = np.einsum("ij,ij->i", units[a[start:stop]], units[b[start:stop]])
    return result


def _alike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether the middle of one thumbnail is in the other, whichever of the two is the crop."""
    texture = min(_even(one)[1], _even(other)[1])
    needed = ALIKE + (SAME - ALIKE) * min(1.0, (1 - texture) / (1 - TEXTURE))
    return _correlates(one, other, needed) or _correlates(other, one, needed)


def _correlates(part: NDArray[np.uint8], whole: NDArray[np.uint8], needed: float) -> bool:
    middle = _even(part)[0][MARGIN:-MARGIN, MARGIN:-MARGIN]
    for x, y in SCALES:
        width, height = round(SIDE * x), round(SIDE * y)
        found = cv2.matchTemplate(_even(_resized(whole, width, height))[0], middle, cv2.TM_CCOEFF_NORMED)
        # Where the middle is, the rest must be too: not over the border of the whole.
        low = MARGIN - SLACK
        if found[low : height - SIDE + MARGIN + SLACK + 1, low : width - SIDE + MARGIN + SLACK + 1].max() >= needed:
            return True
    return False
