"""Numbers for objects that stay the same from frame to frame, whatever finds them: ByteTrack (Zhang et al. 2022).

Each frame, every known object's box is moved to where it should be by now (`Motion`), and known objects and detections
are paired so that their IoU is highest in sum. Sure detections choose first; an object that none of them fits may still
be one that the network was hardly sure of, half hidden say. What is left of the sure ones are new objects, which get
their number when they are found again in the frame after.

    frame        1      2      3 (hidden)   4
    rose       0.9    0.8          –      0.9      number 1 in frames 1, 2 and 4
    tulip      0.9    0.2        0.7      0.9      number 2 in all of them: 0.2 alone would have been left out
    leaf       –      0.4          –      –        no number: seen once
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from detseg.box_formats import overlap
from detseg.tracks.motion import Motion

LEAST_IOU = 0.3  # of a pair
# A pair of different classes needs so much more: networks mistake classes, but a rose before a tulip is no tulip.
OTHER_CLASS = 0.5
# Boxes of objects whose speed is not known yet grow by this share of their size on each side before they are paired
# (Yang et al. 2023): a small object moves by more than its own size.
ROOM, LEAST_IOU_WITH_ROOM = 0.5, 0.2
NONE = -1


class Tracked(NamedTuple):
    """What is known of the D detections of a frame."""

    ids: NDArray[np.int64]  # (D,) the object's number, from 1 on; -1 of those that have none (yet)
    labels: NDArray[np.int64]  # (D,) the class that it was taken for most of the time; without a number, this time


@dataclass
class _Track:
    """An object that is followed."""

    votes: dict[int, float]  # scores by label
    id: int = NONE
    sights: int = 1
    unseen: float = 0.0  # frames since it was seen

    @property
    def label(self) -> int:
        return max(self.votes, key=lambda label: self.votes[label])


class Tracker:
    """Follows objects from frame to frame.

    Args:
        threshold: score from which on a detection may be a new object. Give it less sure ones too, down to a third
            say: they are only taken for what is known already.
        patience: frames for which an object may be hidden.

    Attributes:
        found: objects that have got a number.
    """

    def __init__(self, *, threshold: float = 0.3, patience: float = 30) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1 frame, not {patience}")
        self.threshold, self.patience = threshold, patience
        self.found = 0
        self._tracks: list[_Track] = []
        self._motion = Motion()
        self._begun = False

    def update(self, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, *, frames: float = 1.0) -> Tracked:
        """Numbers of the detections of the next frame.

        Args:
            boxes: (D, 4) xyxy in pixels.
            scores: (D,).
            labels: (D,).
            frames: that have gone by since the last call, 1 if none was left out.

        Raises:
            ValueError: their numbers differ, or a box is not finite.
        """
        box, score, label = _checked(boxes, scores, labels)
        tracks = self._tracks
        self._motion.predict(frames, np.array([track.unseen > 0 for track in tracks], bool))
        for track in tracks:
            track.unseen += frames
        owner = np.full(len(box), NONE, np.int64)  # the track of each detection
        sure = score >= self.threshold
        named = np.array([track.id != NONE for track in tracks], bool)
        in_sight = np.array([track.unseen <= frames for track in tracks], bool)
        new = np.array([track.sights == 1 for track in tracks], bool)
        free = np.ones(len(tracks), bool)
        for of_tracks, of_detections, room in (
            (named, sure, 0.0),
            (named & in_sight, ~sure, 0.0),
            (new & in_sight, sure, ROOM),
        ):
            rows, columns = np.flatnonzero(of_tracks & free), np.flatnonzero(of_detections & (owner == NONE))
            for row, column in self._pairs(rows, columns, box, label, room):
                owner[column], free[row] = row, False
        self._take(owner, box, score, label)
        self._begin(owner, np.flatnonzero(sure & (owner == NONE)), box, score, label)
        result = Tracked(
            np.array([NONE if row == NONE else tracks[row].id for row in owner.tolist()], np.int64),
            np.array([k if r == NONE else tracks[r].label for r, k in zip(owner, label, strict=True)], np.int64),
        )
        self._forget()
        return result

    def _pairs(
        self,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        boxes: NDArray[np.float64],
        labels: NDArray[np.int64],
        room: float,
    ) -> Iterable[tuple[int, int]]:
        """Tracks, of those at `rows`, and detections, of those at `columns`, that belong together."""
        if not len(rows) or not len(columns):
            return []
        alike = overlap(_grown(self._motion.boxes[rows], room), _grown(boxes[columns], room))
        same = np.array([self._tracks[row].label for row in rows])[:, None] == labels[columns]
        alike = np.where(same, alike, OTHER_CLASS * alike)
        alike[alike < (LEAST_IOU_WITH_ROOM if room else LEAST_IOU)] = 0  # no pair, so that none is given away for one
        left, right = linear_sum_assignment(alike, maximize=True)
        good = alike[left, right] > 0
        return zip(rows[left[good]].tolist(), columns[right[good]].tolist(), strict=True)

    def _take(
        self,
        owner: NDArray[np.int64],
        boxes: NDArray[np.float64],
        scores: NDArray[np.float64],
        labels: NDArray[np.int64],
    ) -> None:
        """Note where known objects were seen."""
        seen = np.flatnonzero(owner != NONE)
        self._motion.correct(owner[seen], boxes[seen])
        for i in seen.tolist():
            track = self._tracks[owner[i]]
            track.unseen, track.sights = 0.0, track.sights + 1
            track.votes[int(labels[i])] = track.votes.get(int(labels[i]), 0.0) + float(scores[i])
            if track.id == NONE:
                self._name(track)

    def _begin(
        self,
        owner: NDArray[np.int64],
        new: NDArray[np.int64],
        boxes: NDArray[np.float64],
        scores: NDArray[np.float64],
        labels: NDArray[np.int64],
    ) -> None:
        """Begin to follow new objects; those of the first frame get their numbers at once."""
        self._motion.start(boxes[new])
        for i in new.tolist():
            track = _Track({int(labels[i]): float(scores[i])})
            if not self._begun:
                self._name(track)
            owner[i] = len(self._tracks)
            self._tracks.append(track)
        self._begun = True

    def _name(self, track: _Track) -> None:
        self.found += 1
        track.id = self.found

    def _forget(self) -> None:
        """Forget what was hidden for too long, and what was seen only once."""
        kept = [i for i, t in enumerate(self._tracks) if t.unseen <= (0 if t.id == NONE else self.patience)]
        if len(kept) < len(self._tracks):
            self._tracks = [self._tracks[i] for i in kept]
            self._motion.keep(np.array(kept, np.int64))


def _grown(boxes: NDArray[np.float64], room: float) -> NDArray[np.float64]:
    """Boxes that reach further on each side, by a share of their size."""
    more = room * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - more, boxes[:, 2:] + more], 1)


def _checked(
    boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    box = np.asarray(boxes, np.float64).reshape(-1, 4)
    score, label = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    if not len(box) == len(score) == len(label):
        raise ValueError(f"there are {len(box)} boxes, {len(score)} scores and {len(label)} labels; give one of each")
    if not np.isfinite(box).all():
        raise ValueError(f"box {int(np.flatnonzero(~np.isfinite(box).all(1))[0])} is not finite")
    return box, score, label
