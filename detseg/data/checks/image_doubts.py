"""Doubtful images: the same scene twice, within a split or in two of them; without objects; unlike the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet, Track
from detseg.data.checks.doubts import Doubt, Kind, robust_z
from detseg.data.checks.looks import Looks, read_looks
from detseg.data.checks.near_duplicates import ALIKE, groups_by_looks
from detseg.data.labels import LabelledImages

UNLIKE_Z = 6.0
EXAMPLES = 20  # images from which what is usual can be told
RARE = 0.05  # of the images; what more of them are is how the set is
GREY = 2.0  # levels between channels
SHOWS_NOTHING = 2.0  # grey levels of standard deviation

_SAME = f"perceptual hashes agree and details correlate by {ALIKE} or more"
KINDS = {
    "leak": Kind("the same scene in two splits", f"{_SAME}: what is learnt from is what it is measured by"),
    "near-duplicate": Kind("the same scene twice in a split", _SAME),
    "labelled-differently": Kind(
        "the same scene, labelled differently", f"{_SAME}, but the classes or numbers of objects differ"
    ),
    "unlike": Kind(
        "images unlike the rest",
        f"size, shape, brightness or contrast {UNLIKE_Z:g} or more robust standard deviations from the median, without "
        f"contrast, or grey among coloured ones, where less than {RARE:.0%} are; score: the deviations",
    ),
    "empty": Kind("images without objects", "taught as background: is that meant?"),
}


def image_doubts(splits: Mapping[str, ImageSet], track: Track | None = None) -> list[Doubt]:
    """Everything doubtful about the images of all splits, which are all read, small."""
    doubts = [doubt for split, data in splits.items() if isinstance(data, Annotations) for doubt in _empty(split, data)]
    places = [(split, image) for split, data in splits.items() for image in range(len(data))]
    looks = read_looks([str(splits[split].paths[image]) for split, image in places], track)
    for group in groups_by_looks(looks):
        doubts += _same_scene(splits, [places[row] for row in group])
    return doubts + [replace(d, split=places[d.image][0], image=places[d.image][1]) for d in _unlike(splits, looks)]


def _empty(split: str, data: Annotations) -> Iterator[Doubt]:
    counts = np.diff(data.offsets)
    for image in np.flatnonzero(counts == 0).tolist():
        yield Doubt("empty", "no object", 1.0, split, image)


def _same_scene(splits: Mapping[str, ImageSet], group: list[tuple[str, int]]) -> Iterator[Doubt]:
    """Of images that show one scene, each but the first of its split, and the first of each split but the first."""
    firsts: dict[str, int] = {}
    for split, image in group:
        earlier = next(iter(firsts.items()), None)
        same_split = (split, firsts[split]) if split in firsts else None
        firsts.setdefault(split, image)
        for kind, other in (("near-duplicate", same_split), ("leak", None if same_split else earlier)):
            if other is None:
                continue
            path = splits[other[0]].paths[other[1]]
            where = "" if other[0] == split else f" of {other[0]}"
            yield Doubt(kind, f"the scene of {path}{where}", float(len(group)), split, image, other=other)
            mine, theirs = _content(splits[split], image), _content(splits[other[0]], other[1])
            if mine != theirs:
                what = f"{mine}, but {theirs} in the same scene, {path}{where}"
                yield Doubt("labelled-differently", what, 1.0, split, image, other=other)


def _content(data: ImageSet, image: int) -> str:
    """What is annotated in an image: classes and their numbers."""
    if isinstance(data, LabelledImages):
        return data.names[data.labels[image]] if 0 <= data.labels[image] < len(data.categories) else "no class"
    if not isinstance(data, Annotations):
        return ""
    labels, counts = np.unique(data.labels[data.objects(image)], return_counts=True)
    named = ((data.names[k] if 0 <= k < len(data.names) else "?", n) for k, n in zip(labels, counts, strict=True))
    return ", ".join(f"{n} {name}" for name, n in named) or "no object"


def _unlike(splits: Mapping[str, ImageSet], looks: Looks) -> Iterator[Doubt]:
    """Images of which few are like them; `image` counts through all splits."""
    sizes = np.concatenate([data.sizes for data in splits.values()]).astype(np.float64)
    rows = np.flatnonzero(looks.readable & (sizes > 0).all(1))
    if len(rows) < EXAMPLES:
        return
    width, height = sizes[rows].T
    plain = looks.contrast[rows] < SHOWS_NOTHING
    yield from _few(rows, plain, np.full(len(rows), 100.0), ["shows nothing: all of it has one brightness"] * len(rows))
    for values, least, describe in (
        (
            np.log(width * height) / 2,
            np.log(2.5) / UNLIKE_Z,
            lambda k: f"{width[k]:.0f} x {height[k]:.0f} pixels: an unusual size",
        ),
        (
            np.log(width / height),
            np.log(2) / UNLIKE_Z,
            lambda k: f"{width[k]:.0f} x {height[k]:.0f} pixels: an unusual shape",
        ),
        (looks.brightness[rows], 8.0, lambda k: f"brightness {looks.brightness[rows[k]]:.0f} of 255: unusual"),
        (looks.contrast[rows], 4.0, lambda k: f"contrast {looks.contrast[rows[k]]:.0f} grey levels: unusual"),
    ):
        z = robust_z(values, least)
        yield from _few(rows, z >= UNLIKE_Z, z, [describe(k) if z[k] >= UNLIKE_Z else "" for k in range(len(rows))])
    grey = (looks.colour[rows] < GREY) & ~plain
    yield from _few(rows, grey, np.full(len(rows), UNLIKE_Z), ["grey, the others are coloured"] * len(rows))


def _few(
    rows: NDArray[np.int64], chosen: NDArray[np.bool_], scores: NDArray[np.float64], what: list[str]
) -> Iterator[Doubt]:
    """A doubt for each chosen image, unless they are many."""
    if chosen.mean() < RARE or chosen.sum() == 1:
        for k in np.flatnonzero(chosen).tolist():
            yield Doubt("unlike", what[k], float(scores[k]), image=int(rows[k]))
