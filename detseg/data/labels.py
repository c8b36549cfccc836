"""Images with one class each: the in-memory form of a classification set, and the rule that splits one."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.base import Category, ImageSet, category_difference
from detseg.data.checks.problems import AnnotationError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImages(ImageSet):
    """N images of K classes, one class to an image: `labels` count 0..K-1 in the order of `categories`."""

    labels: NDArray[np.int64]  # (N,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_shapes(labels=(len(self),))

    def __repr__(self) -> str:
        return f"LabelledImages({len(self)} images of {len(self.categories)} classes, source={self.source!r})"

    @property
    def counts(self) -> NDArray[np.int64]:
        """(K,) images of each class."""
        known = self.labels[(self.labels >= 0) & (self.labels < len(self.categories))]
        return np.bincount(known, minlength=len(self.categories)).astype(np.int64)

    def _take(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        return super()._take(chosen) | {"labels": self.labels[chosen]}

    def match(self, reference: Iterable[Category]) -> LabelledImages:
        """The same with the classes of `reference`, matched by name: folders number them by what happens to be there.

        AnnotationError: it has images of another class.
        """
        wanted = tuple(reference)
        names = [category.name for category in wanted]
        found = zip(self.names, self.counts.tolist(), strict=True)
        if any(count and name not in names for name, count in found):
            raise AnnotationError(category_difference(wanted, self.categories, self.source))
        table = np.array([names.index(name) if name in names else -1 for name in self.names] + [-1], np.int64)
        return replace(self, categories=wanted, labels=table[self.labels])


def divide(keys: Sequence[str], labels: NDArray[np.int64], shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Split images by rule: which split each of them belongs to.

    Stratified: every class is split in these shares, to the nearest image, and the rounding of one class is
    made good in the next. Training comes first: of a class with one image it gets that one, and no split with a
    share goes without a class that has enough images for all.

    Which images of a class go where is decided by hashes of `seed` and their keys (N names, such as paths within the
    data set, each another). So the same images are split alike on every machine, whatever the order in which its file
    system lists them.

    Returns:
        (N,) positions in `shares`, which are above 0 and together 1, or ValueError is raised.
    """
    portions = np.asarray(shares, np.float64)
    if portions.ndim != 1 or not len(portions) or not (portions > 0).all() or abs(portions.sum() - 1) > 1e-6:
        raise ValueError(f"shares of the splits must be above 0 and together 1, such as 0.75 0.15 0.10, not {shares}")
    texts = (f"{seed}/{unicodedata.normalize('NFC', key)}".encode(errors="surrogatepass") for key in keys)
    hashes = [hashlib.blake2b(text).hexdigest() for text in texts]
    order = np.array(sorted(range(len(keys)), key=lambda row: (labels[row], hashes[row])), np.int64)
    result = np.zeros(len(keys), np.int64)
    owed = np.zeros(len(portions))
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        exact = len(members) * portions
        counts = np.floor(exact + 1e-9).astype(np.int64)
        owed += exact - counts
        for _ in range(len(members) - int(counts.sum())):
            most = int(np.argmax(owed - (counts > exact)))  # of one class no split gets two to make good
            counts[most] += 1
            owed[most] -= 1
        _leave_none_empty(counts)
        result[members] = np.repeat(np.arange(len(portions)), counts)
    return result


def _leave_none_empty(counts: NDArray[np.int64]) -> None:
    """Give each split one image of a class, the first ones first, while another has one to spare; in place."""
    for split in range(len(counts)):
        richest = int(counts.argmax())
        if counts[split] == 0 and counts[richest] > 1:
            counts[richest] -= 1
            counts[split] += 1
    if counts[0] == 0 and counts.sum():  # a single image
        counts[:] = np.eye(1, len(counts), dtype=np.int64)[0]
