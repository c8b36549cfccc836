"""Images that show the same scene: copies that were encoded anew, resized, brightened, or cropped a little.

Candidates are found by a perceptual hash, the signs of the lowest frequencies (pHash: C. Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010), of which all pairs are compared: 64 bits each. Many different
images agree in those, such as any flower in the middle of a plain ground. So candidates are compared by what is finer:
thumbnails without their low frequencies, at several scales and shifts.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.base import Track
from detseg.data.checks.looks import SIDE, Looks, read_looks

# Measured on 1 443 photographs of flowers, where all pairs that these leave show one scene: of copies cropped by 5 %
# on all four sides 98 % are within BITS, 98 % of those above ROUGHLY; all are above ALIKE, as is every copy that is
# blurred, noisy, brightened or encoded anew. Different scenes reach 0.56, and more where there is little texture. Of
# 6 533 copies of blurred and pale images that are found without ROUGHLY_FAINT, it loses 10.
BITS = 18  # in which hashes may differ
ROUGHLY = 0.35  # correlation of details at half the size
ROUGHLY_FAINT = 0.7  # the same where there is little texture: seven times fewer pairs of smooth images to compare
ALIKE = 0.62  # correlation of details of even strength, shifted and scaled to match
SAME = 0.97  # the same where there is little texture, and at half the size of small images: digits look alike
TEXTURE = 0.6  # share of an image with texture at which it must be the SAME; all of it has to be ALIKE
FAINT = 4.0  # squared grey levels; what varies less is no texture
PLAIN = 1.0  # grey levels; images with less detail show nothing that could be compared

BLOCK = (512, 1024)  # hashes compared at once
VIEWS = 2048  # images kept ready for comparison, 48 kB each
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
    rough = np.zeros((len(looks.thumbnails), (SIDE // 2) ** 2), np.float32)
    for row, thumbnail in enumerate(looks.thumbnails):
        rough[row] = _rough(thumbnail)
    rows = np.flatnonzero(looks.readable & rough.any(1))
    hashes = np.fromiter((_hash(looks.thumbnails[row]) for row in rows), np.uint64, len(rows))
    texture = np.zeros(len(looks.thumbnails))
    texture[rows] = [_even(looks.thumbnails[row])[1] for row in rows]
    groups = _Groups(len(looks.thumbnails))
    view = lru_cache(VIEWS)(lambda row: _view(looks.thumbnails[row]))

    def alike(pair: NDArray[np.int64]) -> bool:
        least = float(texture[pair].min())
        needed = ALIKE + (SAME - ALIKE) * min(1.0, (1 - least) / (1 - TEXTURE))
        one, other = map(view, pair.tolist())
        return _correlates(one, other, needed) or _correlates(other, one, needed)

    with ThreadPoolExecutor() as pool:
        for a, b in _close_pairs(hashes):
            pairs = groups.apart(np.stack([rows[a], rows[b]], 1))
            small = (looks.sides[pairs] < SIDE).any(1)
            faint = (texture[pairs] <= TEXTURE).any(1)
            enough = np.where(small, SAME, np.where(faint, ROUGHLY_FAINT, ROUGHLY))
            likely = _correlations(rough, pairs) >= enough
            groups.join(pairs[likely & small])
            pairs = pairs[likely & ~small]
            # In short steps: of a thousand images of one scene most are in one group soon, and need no comparison.
            for step in np.split(pairs, range(STEP, len(pairs), STEP)):
                step = groups.apart(step)
                groups.join(step[np.fromiter(pool.map(alike, step), bool, len(step))])
    return groups.larger()


class _Groups:
    """Disjoint sets of positions 0..N-1, each named by its lowest."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each position."""
        while (self.parent[rows] != rows).any():
            rows = self.parent[rows]
        return rows

    def apart(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pairs (P, 2) that are not in one group yet."""
        return pairs[self.of(pairs[:, 0]) != self.of(pairs[:, 1])]

    def join(self, pairs: NDArray[np.int64]) -> None:
        """Join the groups of pairs (P, 2)."""
        for pair in pairs:
            low, high = np.sort(self.of(pair))
            self.parent[high] = low
            self.parent[pair] = low  # keeps the ways short

    def larger(self) -> list[list[int]]:
        """The groups of two or more."""
        group = self.of(np.arange(len(self.parent)))
        order = np.argsort(group, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
        return [part.tolist() for part in parts if len(part) > 1]


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


def _rough(thumbnail: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Detail at half the size, of mean 0 and length 1, so that products are correlations; zeros if there is none."""
    detail = _detail(_resized(thumbnail, SIDE // 2), 2).ravel()
    detail -= detail.mean()
    length = float(np.linalg.norm(detail))
    return detail / length if length >= PLAIN * SIDE // 2 else np.zeros_like(detail)


def _correlations(units: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """(P,) correlations of pairs (P, 2) of rows, in pieces: there may be millions of pairs."""
    result = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), 4096):
        a, b = pairs[start : start + 4096].T
        result[start : start + 4096] = np.einsum("ij,ij->i", units[a], units[b])
    return result


class _View(NamedTuple):
    """What of an image is compared: the middle, which is looked for in the other, and what others are looked for in."""

    middle: NDArray[np.float32]
    scales: list[NDArray[np.float32]]  # for each of SCALES; where the middle is, the rest must be too


def _view(thumbnail: NDArray[np.uint8]) -> _View:
    scales, edge = [], MARGIN - SLACK
    for x, y in SCALES:
        whole = _even(_resized(thumbnail, round(SIDE * x), round(SIDE * y)))[0]
        scales.append(whole[edge:-edge, edge:-edge].copy())
    return _View(scales[0][SLACK:-SLACK, SLACK:-SLACK], scales)  # of the first of SCALES, 1


def _correlates(part: _View, whole: _View, needed: float) -> bool:
    """Whether the middle of one thumbnail is in the other."""
    return any(cv2.matchTemplate(scale, part.middle, cv2.TM_CCOEFF_NORMED).max() >= needed for scale in whole.scales)
