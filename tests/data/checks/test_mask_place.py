import time
from dataclasses import replace

import numpy as np

from detseg.data.checks.mask_place import mask_boxes
from detseg.data.checks.validate import repair, validate
from detseg.data.polygons import SegmentsBuilder
from tests.cases import case
from tests.data.annotation_samples import make

BOX = [10, 6, 40, 36]


def corners(x1, y1, x2, y2):
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def runs(bitmap):
    """COCO's run lengths of a mask (H, W): down the columns, beginning with zeros."""
    values = np.asarray(bitmap, bool).T.ravel()
    edges = np.flatnonzero(np.diff(np.r_[False, values]))
    return np.diff(np.r_[0, edges, values.size]).tolist()


def filled(x1, y1, x2, y2, width=64, height=48):
    bitmap = np.zeros((height, width), bool)
    bitmap[y1:y2, x1:x2] = True
    return bitmap


def with_masks(boxes, masks, **fields):
    """Objects with boxes and, each, polygons (a list), a bitmap or nothing."""
    builder = SegmentsBuilder()
    for mask in masks:
        if mask is None:
            builder.add_nothing()
        elif isinstance(mask, list):
            builder.add_polygons(mask)
        else:
            builder.add_rle(*mask.shape, runs(mask))
    return make(boxes, segments=builder.build(), **fields)


def found_in(data):
    return [problem for problem in validate(data, check_images=False) if problem.kind == "mask-elsewhere"]


def test_boxes_of_masks():
    masks = [None, [corners(1, 2, 5, 9)], filled(3, 4, 8, 7), None, [corners(1, 2, 5, 9), corners(20, 1, 30, 4.5)]]
    data = with_masks([BOX] * 6, [*masks, filled(0, 0, 0, 0)])
    boxes, usable = mask_boxes(data)
    assert usable.tolist() == [False, True, True, False, True, False]
    assert boxes[usable].tolist() == [[1, 2, 5, 9], [3, 4, 8, 7], [1, 1, 30, 9]]
    boxes, usable = mask_boxes(make([BOX]))
    assert boxes.shape == (1, 4) and not usable.any()


def test_masks_that_lie_elsewhere_than_their_box():
    for mask, expected in (
        ([corners(*BOX)], False),
        ([corners(12, 8, 40, 34)], False),
        ([corners(10, 6, 40, 20)], True),  # less than half of the box
        ([corners(40, 36, 60, 46)], True),
        ([corners(-30, -30, -1, -1)], True),  # outside the image
        ([corners(10, 6, 20, 36), corners(30, 6, 40, 36)], False),
        (filled(*BOX), False),
        (filled(44, 6, 60, 36), True),
        (filled(0, 0, 0, 0), False),  # empty: no place
        (None, False),
    ):
        with case(mask):
            assert bool(found_in(with_masks([BOX, [1, 1, 9, 9]], [mask, [corners(1, 1, 9, 9)]]))) == expected


def test_small_objects_and_cut_ones_are_not_accused():
    assert found_in(with_masks([[5, 5, 7, 7], [5, 5, 25, 6]], [[corners(8, 8, 10, 10)], [corners(5, 5, 25, 5)]])) == []
    # The box is clipped to the image of 64 x 48, its polygon is not.
    assert found_in(with_masks([[40, 10, 64, 30]], [[corners(40, 10, 200, 30)]])) == []


def test_one_warning_tells_how_many_and_the_first():
    masks = [[corners(*BOX)], [corners(44, 6, 60, 36)], [corners(44, 6, 60, 36)], None]
    data = with_masks([BOX] * 4, masks, ids=np.array([5, 6, 7, 8]), image_index=[0, 1, 1, 1], sizes=[(64, 48)] * 2)
    (problem,) = found_in(data)
    assert (problem.severity, problem.object, problem.image, problem.repairable) == ("warning", 6, "1.jpg", False)
    assert problem.what == (
        "the masks of 2 of 3 objects with masks lie elsewhere than their boxes; this one's takes (44, 6, 60, 36), the "
        "box is (10, 6, 40, 36)"
    )
    assert "correct what is wrong" in problem.remedy
    assert repair(data, [problem])[1] == []


def test_run_lengths_along_the_rows_are_recognised():
    boxes = np.array([BOX, [3, 4, 50, 12], [20, 30, 33, 47]])
    along = [filled(*box).ravel().reshape(64, 48).T for box in boxes.tolist()]
    (problem,) = found_in(with_masks(boxes, along))
    assert "3 of 3" in problem.what and "seem to go along the rows" in problem.remedy
    (problem,) = found_in(with_masks(boxes, [*along[:2], filled(1, 1, 9, 9)]))
    assert "along the rows" not in problem.remedy, "not all do"


def test_masks_of_another_size_than_the_image_and_odd_boxes_have_errors_of_their_own():
    assert found_in(with_masks([BOX], [filled(1, 1, 9, 9, width=32)])) == []
    assert len(found_in(with_masks([BOX], [filled(1, 1, 9, 9, width=32)], sizes=[(0, 0)]))) == 1
    for odd in ([np.nan] * 4, [40, 36, 10, 6], [10, 6, np.inf, 36], [10, 6, 10, 36]):
        assert found_in(with_masks([odd], [[corners(44, 6, 60, 36)]])) == []
    data = with_masks([BOX], [[corners(44, 6, 60, 36)]])
    points = data.segments.points.copy()
    points[0] = np.nan
    assert found_in(replace(data, segments=replace(data.segments, points=points))) == []


def test_many_polygons_are_checked_at_once():
    draw = np.random.default_rng(0)
    corners_ = draw.uniform(0, 400, (100_000, 2))
    boxes = np.concatenate([corners_, corners_ + 50], axis=1)
    builder = SegmentsBuilder()
    for x1, y1, x2, y2 in boxes.tolist():
        builder.add_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]])
    data = make(boxes, sizes=[(640, 480)], segments=builder.build())
    start = time.process_time()
    assert found_in(data) == []
    assert time.process_time() - start < 3
