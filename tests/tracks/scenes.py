"""Moving discs with known truth: what a detector sees of them, with noise, when they hide each other."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Disc:
    """A disc on its way; the later one in a list is in front."""

    label: int
    radius: float
    start: tuple[float, float]
    speed: tuple[float, float]  # pixels per frame
    first: int = 0  # frames from .. to that it is there
    last: int = 10**9

    def place(self, frame):
        return np.array(self.start) + (frame - self.first) * np.array(self.speed)

    def box(self, frame):
        return np.concatenate([self.place(frame) - self.radius, self.place(frame) + self.radius])


def hidden(front, back):
    """The share of a box that lies behind another."""
    low, high = np.maximum(front[:2], back[:2]), np.minimum(front[2:], back[2:])
    return float((high - low).clip(0).prod() / (back[2:] - back[:2]).prod())


def detections(discs, frame, rng, noise=0.02, missed=0.0, false=0):
    """(boxes, scores, labels, which disc) of a frame: noisy, in any order; what is half hidden is unsure, what is more
    hidden, and a share `missed` of the others, is not found; `false` ones have an index of -1."""
    found = []
    there = [(i, disc) for i, disc in enumerate(discs) if disc.first <= frame <= disc.last]
    for place, (index, disc) in enumerate(there):
        box = disc.box(frame)
        covered = max((hidden(front.box(frame), box) for _, front in there[place + 1 :]), default=0.0)
        if covered > 0.7 or rng.random() < missed:
            continue
        score = rng.uniform(0.12, 0.28) if covered > 0.4 else rng.uniform(0.5, 0.95)
        found.append((box + rng.normal(0, noise * disc.radius * 2, 4), score, disc.label, index))
    for _ in range(false):
        corner, size = rng.uniform(0, 300, 2), rng.uniform(10, 30)
        found.append((np.array([*corner, *(corner + size)]), rng.uniform(0.12, 0.4), int(rng.integers(2)), -1))
    rng.shuffle(found)
    if not found:
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), []
    boxes, scores, labels, which = zip(*found, strict=True)
    return np.array(boxes), np.array(scores), np.array(labels), list(which)


def numbers(tracker, discs, frames, seed=0, every=1, **options):
    """The set of numbers that each disc got, and those that false detections got."""
    rng = np.random.default_rng(seed)
    got = {index: [] for index in range(-1, len(discs))}
    for frame in range(0, frames, every):
        boxes, scores, labels, which = detections(discs, frame, rng, **options)
        known = tracker.update(boxes, scores, labels, frames=every)
        for index, number in zip(which, known.ids.tolist(), strict=True):
            if number >= 0:
                got[index].append(number)
    return got
