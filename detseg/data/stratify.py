"""Parts of a set in which every class has its share, groups of images undivided.

Iterative stratification after K. Sechidis, G. Tsoumakas and I. Vlahavas, "On the Stratification of Multi-Label Data",
ECML PKDD 2011: the images of the rarest class are given out first. Where they choose by that class alone, all classes
of a group and the number of its images count here, each class by how rare it is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def stratify(groups: Ints, images: Ints, labels: Ints, shares: Sequence[float]) -> Ints:
    """Which part each group of images belongs to.

    A group goes where it brings the counts of images nearest to what the shares want: where the sum of (count -
    wanted)^2 / wanted over its classes and over all images falls most. A part goes without a class only where there are
    too few groups with it, and then the one with the smallest share. Groups with many images of a class are placed
    before those with few; of equal ones the lower number comes first.

    Args:
        groups: (N,) group of each image, 0..G-1.
        images, labels: (P,) an image and a class that it shows, 0..K-1; pairs may repeat, images may have no class.
        shares: of the parts, above 0 and together 1, or ValueError is raised.

    Returns:
        (G,) positions in `shares`.
    """
    portions = np.asarray(shares, np.float64)
    if portions.ndim != 1 or not len(portions) or not (portions > 0).all() or abs(portions.sum() - 1) > 1e-6:
        raise ValueError(f"shares of the splits must be above 0 and together 1, such as 0.8 0.1 0.1, not {shares}")
    if not len(groups):
        return np.zeros(0, np.int64)
    owners, kinds, amounts = _contents(groups, images, labels)
    total = np.bincount(kinds, weights=amounts)
    held = np.split(np.arange(len(owners)), np.flatnonzero(np.diff(owners)) + 1)  # rows of each group
    by_kind = np.argsort(kinds, kind="stable")
    having = np.split(by_kind, np.flatnonzero(np.diff(kinds[by_kind])) + 1)  # rows of each class
    wanted = portions[:, None] * total
    given = np.zeros_like(wanted)
    waiting = total.copy()
    waiting[0] = np.inf  # all images: no class to go by, and the last to have any left
    result = np.full(len(held), -1, np.int64)
    while (result < 0).any():
        rarest = int(np.argmin(np.where(waiting > 0, waiting, np.inf)))
        rows = having[rarest][result[owners[having[rarest]]] < 0]
        for left, row in zip(range(len(rows), 0, -1), rows[np.lexsort((owners[rows], -amounts[rows]))], strict=True):
            mine = held[owners[row]]
            more, lacks = amounts[mine], (wanted - given)[:, kinds[mine]]
            gain = (more * (2 * lacks - more) / wanted[:, kinds[mine]]).sum(axis=1).round(9)
            bare = np.flatnonzero(given[:, rarest] == 0)
            if 0 < len(bare) and left <= len(bare):
                best = np.lexsort((-gain[bare], -portions[bare]))[:left]
                gain[np.setdiff1d(np.arange(len(gain)), bare[best])] = -np.inf
            part = int(np.argmax(gain))
            result[owners[row]] = part
            given[part, kinds[mine]] += amounts[mine]
            waiting[kinds[mine]] -= amounts[mine]
    return result


def _contents(groups: Ints, images: Ints, labels: Ints) -> tuple[Ints, Ints, Ints]:
    """What the groups hold, sorted by group, row by row: the group, a kind, and how many of its images are of it.

    Kind 0 is every image, 1 those without a class, the classes follow, those without images left out.
    """
    count = len(groups)
    width = int(labels.max(initial=0)) + 1
    images, labels = np.divmod(np.unique(images * width + labels), width)
    bare = np.setdiff1d(np.arange(count), images)
    kinds = np.concatenate([np.zeros(count, np.int64), np.ones(len(bare), np.int64), labels + 2])
    owners = groups[np.concatenate([np.arange(count), bare, images])]
    kinds = np.unique(kinds, return_inverse=True)[1]
    pairs, amounts = np.unique(owners * (kinds.max(initial=0) + 1) + kinds, return_counts=True)
    owners, kinds = np.divmod(pairs, kinds.max(initial=0) + 1)
    return owners, kinds, amounts
