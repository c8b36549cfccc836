"""Annotations that masks are measured by: who has none is named, counted and set aside."""

from dataclasses import replace

import numpy as np
import pytest

from detseg.data import AnnotationError
from detseg.data.checks.learnable import require_masks
from detseg.data.measurable import measurable_masks, tell_without_masks
from tests.metrics.coco_scenes import as_annotations, mask_scene


def test_where_all_have_one_nothing_changes():
    data = as_annotations(mask_scene(0)[0])
    assert tell_without_masks(data) == ""
    assert measurable_masks(data) is data


def test_boxes_become_regions_that_are_ignored():
    whole = replace(as_annotations(mask_scene(0)[0]), source="val.json")
    removed = np.arange(len(whole.ids)) % 2 == 1
    data = replace(whole, segments=whole.segments.without(removed))
    counted = int((removed & ~data.iscrowd).sum())
    line = f"val.json: {counted} of {(~data.iscrowd).sum()} objects have no mask; "
    assert tell_without_masks(data).startswith(line)
    result = measurable_masks(data)
    assert result.drawn.all()
    assert (result.iscrowd == (data.iscrowd | removed)).all() and (result.boxes == data.boxes).all()
    for row in range(len(data.ids)):
        if removed[row]:
            x1, y1, x2, y2 = data.boxes[row]
            assert result.segments.polygons(row)[0].tolist() == [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
        else:
            assert result.segments.rle(row, 480, 640) == whole.segments.rle(row, 480, 640)


def test_boxes_alone_are_refused():
    data = replace(as_annotations(mask_scene(0)[0]), source="val.json", segments=None)
    with pytest.raises(AnnotationError, match=r"val\.json: has boxes but no masks"):
        require_masks(data)
    assert measurable_masks(data).iscrowd.all()
