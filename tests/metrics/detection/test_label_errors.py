"""Labels that detections contradict: each kind by hand, and among planted errors."""

import numpy as np
import pytest

from detseg.data.annotations import Annotations, Category
from detseg.metrics.detection.inputs import Detections
from detseg.metrics.detection.label_errors import KINDS, label_errors

NAMES = ("rose", "tulip", "daisy")


def annotated(boxes, labels, images, crowd=(), count=None):
    images = np.asarray(images, np.int32)
    total = int(images.max(initial=-1)) + 1 if count is None else count
    return Annotations(
        categories=tuple(Category(10 + k, name) for k, name in enumerate(NAMES)),
        image_ids=np.arange(total) + 1000,
        paths=np.array([f"{k}.jpg" for k in range(total)], np.str_),
        sizes=np.full((total, 2), 400, np.int32),
        image_index=images,
        boxes=np.asarray(boxes, np.float64).reshape(-1, 4),
        labels=np.asarray(labels, np.int32),
        iscrowd=np.isin(np.arange(len(images)), crowd),
        ids=np.arange(len(images)),
        areas=np.ones(len(images)),
    )


def detections(*rows):
    """From (image position, label, box, score)."""
    images, labels, boxes, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(np.array(images, int) + 1000, np.array(labels, int) + 10, list(boxes), list(scores))


# Ten images with a rose, a tulip and a daisy each, all found with a score of 0.8.
PLACES = np.array([(20, 20, 80, 80), (150, 20, 210, 80), (20, 200, 80, 260)], float)
BOXES, LABELS, IMAGES = np.tile(PLACES, (10, 1)), np.tile(np.arange(3), 10), np.repeat(np.arange(10), 3)
FOUND = [(int(i), int(k), tuple(b), 0.8) for i, k, b in zip(IMAGES, LABELS, BOXES, strict=True)]


def test_agreement_raises_no_doubts():
    assert label_errors(annotated(BOXES, LABELS, IMAGES), detections(*FOUND)) == []


def test_nothing_annotated_or_nothing_found_raises_no_doubts():
    assert label_errors(annotated([], [], [], count=3), detections((1, 0, (0, 0, 9, 9), 0.9))) == []
    assert label_errors(annotated(BOXES, LABELS, IMAGES), detections()) == []


def test_a_confident_detection_without_a_box_is_a_missing_one():
    data = annotated(BOXES, LABELS, IMAGES)
    extra = [
        (4, 1, (250, 250, 300, 300), 0.9),
        (4, 2, (252, 250, 300, 300), 0.85),  # of two on one place the surer one
        (5, 1, (250, 250, 300, 300), 0.4),  # not sure
        (6, 0, (20, 20, 80, 104), 0.95),  # IoU of 0.71 with a rose: a duplicate
    ]
    (doubt,) = label_errors(data, detections(*FOUND, *extra))
    assert (doubt.kind, doubt.image, doubt.object) == ("missing", 4, -1)
    assert doubt.boxes == ((250, 250, 300, 300),)
    assert doubt.score == pytest.approx(0.9)
    assert doubt.what == "no box on what looks like tulip 0.90 (confident from 0.80), at (250, 250, 300, 300)"


def test_what_lies_in_a_crowd_is_not_missing_and_crowds_are_not_examined():
    data = annotated([*BOXES, (240, 240, 390, 390)], [*LABELS, 1], [*IMAGES, 9], crowd=[30])
    assert label_errors(data, detections(*FOUND, (9, 0, (250, 250, 300, 300), 0.9))) == []


def test_another_class_found_with_confidence_is_a_wrong_class():
    labels = LABELS.copy()
    labels[7] = 2  # the tulip of image 2
    (doubt,) = label_errors(annotated(BOXES, labels, IMAGES), detections(*FOUND, (2, 2, tuple(BOXES[7]), 0.25)))
    assert (doubt.kind, doubt.image, doubt.object) == ("wrong-class", 2, 7)
    assert doubt.score == pytest.approx(0.8 - 0.25)
    assert doubt.what == "daisy, but it looks like tulip 0.80 (confident from 0.80); like daisy 0.25"


def test_a_neighbour_that_overlaps_is_no_wrong_class():
    boxes = BOXES.copy()
    boxes[1] = (30, 20, 90, 80)  # a tulip over the rose of image 0, IoU 0.71
    found = [*FOUND]
    found[1] = (0, 1, tuple(boxes[1]), 0.95)
    assert label_errors(annotated(boxes, LABELS, IMAGES), detections(*found)) == []


def test_a_box_that_overlaps_its_object_a_little_is_badly_placed_and_no_missing_one():
    boxes = BOXES.copy()
    boxes[3] += (24, 0, 24, 0)  # the rose of image 1, IoU 36 / 84
    (doubt,) = label_errors(annotated(boxes, LABELS, IMAGES), detections(*FOUND))
    assert (doubt.kind, doubt.image, doubt.object) == ("badly-placed", 1, 3)
    assert doubt.score == pytest.approx(0.8 * (1 - 36 / 84))
    assert doubt.boxes == (tuple(BOXES[3]),)


def test_an_object_on_which_nothing_is_found_is_spurious():
    data = annotated([*BOXES, (300, 300, 350, 350), (100, 300, 150, 350)], [*LABELS, 0, 1], [*IMAGES, 9, 9])
    weak = (9, 2, (305, 300, 350, 350), 0.06)  # of another class, and weak: something is there
    weaker = (9, 1, (100, 300, 150, 350), 0.04)
    (doubt,) = label_errors(data, detections(*FOUND, weak, weaker))
    assert (doubt.kind, doubt.image, doubt.object) == ("spurious", 9, 31)
    assert doubt.score == pytest.approx(10 / 11)


def test_unsound_objects_are_left_out():
    data = annotated([*BOXES, (np.nan, 0, 5, 5), (9, 9, 5, 5)], [*LABELS, 0, -1], [*IMAGES, 9, 9])
    assert label_errors(data, detections(*FOUND)) == []


def test_detections_of_unknown_images_are_refused():
    with pytest.raises(ValueError, match="lists no such image"):
        label_errors(annotated(BOXES, LABELS, IMAGES), detections((77, 0, (0, 0, 9, 9), 0.5)))


def test_planted_errors_come_first():
    """Of 900 objects 3 % are dropped, 3 % swapped, 3 % moved, and 3 % are added; a detector that misses a tenth, sees
    things where nothing is and mixes classes up now and then."""
    rng = np.random.default_rng(0)
    grid = np.array([(x, y) for x in (20, 150, 280) for y in (20, 150, 280)], float)
    boxes, labels, images, rows, planted = [], [], [], [], set()

    def annotate(image, box, label):
        boxes.append(box)
        labels.append(label)
        images.append(image)
        return len(boxes) - 1

    for image in range(100):
        for x, y in grid:
            box, label, fate = (
                np.array((x, y, x + 80, y + 80)) + rng.uniform(-8, 8, 4),
                int(rng.integers(3)),
                rng.random(),
            )
            if fate < 0.03:
                planted.add(("missing", image, tuple(box)))
            elif fate < 0.06:
                planted.add(("wrong-class", annotate(image, box, (label + 1) % 3)))
            elif fate < 0.09:
                planted.add(("badly-placed", annotate(image, np.add(box, (32, 0, 32, 0)), label)))
            elif fate < 0.12:
                planted.add(("spurious", annotate(image, box, label)))
                continue  # nothing is there to be found
            else:
                annotate(image, box, label)
            if rng.random() < 0.9:
                rows.append((image, label, tuple(box + rng.normal(0, 3, 4)), rng.beta(8, 2)))
            weak = tuple(box + rng.normal(0, 6, 4))
            rows.append((image, (label + int(rng.integers(1, 3))) % 3, weak, max(0.06, rng.beta(1.5, 8))))
        for _ in range(3):
            x, y = rng.uniform(0, 340, 2)
            rows.append((image, int(rng.integers(3)), (x, y, x + 50, y + 50), rng.beta(1.5, 8)))
    doubts = label_errors(annotated(boxes, labels, images), detections(*rows))
    right = {kind: [] for kind in KINDS}
    for doubt in doubts:
        near = [p for p in planted if p[0] == doubt.kind == "missing" and p[1] == doubt.image]
        by_box = any(np.abs(np.subtract(p[2], doubt.boxes[0])).max() < 25 for p in near)
        right[doubt.kind].append(by_box or (doubt.kind, doubt.object) in planted)
    for kind, hits in right.items():
        wanted = sum(p[0] == kind for p in planted)
        top = hits[: round(0.8 * wanted)]
        assert sum(top) >= 0.8 * len(top), (kind, sum(top), len(top), wanted)
        assert sum(hits) >= 0.7 * wanted, (kind, sum(hits), wanted)
