"""Doubtful images: the same scene twice, within a split or in two of them; without objects; unlike the rest."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

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
        f"size, shape, brightness or contrast {UNLIKE_Z:g} or more robust standard deviations from the median, of one "
        f"brightness, or grey among coloured ones, where less than {RARE:.0%} are; score: the deviations",
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
    (width, height), brightness, contrast = sizes[rows].T, looks.brightness[rows], looks.contrast[rows]
    plain = contrast < SHOWS_NOTHING
    grey = (looks.colour[rows] < GREY) & ~plain
    reasons: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for what, scores in (
        ("{w:.0f} x {h:.0f} pixels, an unusual size", robust_z(np.log(width * height) / 2, np.log(2.5) / UNLIKE_Z)),
        ("{w:.0f} x {h:.0f} pixels, an unusual shape", robust_z(np.log(width / height), np.log(2) / UNLIKE_Z)),
        ("unusual brightness, {b:.0f} of 255", robust_z(brightness, 48 / UNLIKE_Z)),
        ("unusual contrast, {c:.0f} of 255", np.where(plain, 0, robust_z(contrast, 24 / UNLIKE_Z))),
        ("shows nothing: all of one brightness", np.where(plain, 2 * UNLIKE_Z, 0)),
        ("grey, where the others are coloured", np.where(grey, UNLIKE_Z, 0)),
    ):
        chosen = scores >= UNLIKE_Z
        if chosen.mean() < RARE or chosen.sum() == 1:
            for k in np.flatnonzero(chosen).tolist():
                words = what.format(w=width[k], h=height[k], b=brightness[k], c=contrast[k])
                reasons[k].append((float(scores[k]), words))
    for k, told in reasons.items():
        yield Doubt("unlike", "; ".join(words for _, words in told), max(told)[0], image=int(rows[k]))
