from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask

from detseg.data.annotations import AnnotationError, Category, Problem, match_categories
from detseg.data.checks.validate import validate
from detseg.data.formats import read_annotations
from detseg.data.polygons import SegmentsBuilder, expand_ranges
from tests.cases import case
from tests.data.annotation_samples import coco_content, make, write_json

BOXES = [[0, 0, 2, 2], [1, 1, 5, 5], [3, 3, 9, 9], [4, 4, 6, 8]]


def three_images(**fields):
    placed = {"image_index": [0, 2, 2, 2], "sizes": [(10, 10)] * 3, "paths": ["0.jpg", "1.jpg", "2.jpg"]}
    return make(BOXES, [0, 1, 2, 1], **(placed | fields))


def sample_segments():
    builder = SegmentsBuilder()
    builder.add_polygons([[0, 0, 4, 0, 4, 4], [1, 1, 2, 1, 2, 2, 1, 2]])
    builder.add_nothing()
    builder.add_rle(2, 3, [1, 2, 3])
    builder.add_polygons([[5, 5, 9, 5, 9, 9]])
    segments = builder.build()
    assert segments is not None
    return segments


def test_objects_are_found_by_image():
    annotations = three_images()
    assert len(annotations) == 3
    assert [annotations.objects(i) for i in range(3)] == [slice(0, 1), slice(1, 1), slice(1, 4)]
    assert annotations.names == ("rose", "daisy", "water lily")
    assert repr(annotations) == "Annotations(3 images, 4 objects, 3 categories, source='sample.json')"


def test_no_images_and_no_objects():
    empty = make(sizes=())
    assert len(empty) == 0
    assert len(empty.subset([])) == 0
    assert validate(empty, check_images=False)[0].kind == "empty"


def test_subset_keeps_order_and_objects():
    chosen = three_images().subset([2, 1, 2])
    assert chosen.image_ids.tolist() == [3, 2, 3]
    assert chosen.image_index.tolist() == [0, 0, 0, 2, 2, 2]
    assert chosen.boxes.tolist() == BOXES[1:] * 2
    assert chosen.labels.tolist() == [1, 2, 1] * 2


def test_subset_by_mask_and_negative_position():
    annotations = three_images()
    assert annotations.subset(np.array([True, False, True])).image_ids.tolist() == [1, 3]
    assert annotations.subset([-1]).image_ids.tolist() == [3]
    with pytest.raises(IndexError, match=r"0\.\.2"):
        annotations.subset([3])


def test_subset_carries_read_problems_of_its_images():
    problems = tuple(Problem("f", f"{i}.jpg", i, "w", "r", image_index=i) for i in range(3))
    chosen = three_images(read_problems=problems).subset([2, 0])
    assert [(p.object, p.image_index) for p in chosen.read_problems] == [(0, 1), (2, 0)]


def test_wrong_arrays_are_refused():
    for fields, message in [
        ({"boxes": np.zeros((4, 3))}, "boxes has shape"),
        ({"labels": np.zeros(3, np.int32)}, "labels has shape"),
        ({"image_index": np.array([0, 2, 1, 2])}, "must not fall"),
        ({"image_index": np.array([0, 1, 2, 3])}, r"0\.\.2"),
        ({"sizes": np.zeros((2, 2))}, "sizes has shape"),
        ({"paths": np.array(["a.jpg"])}, "paths has shape"),
        ({"segments": sample_segments().take(np.array([0]))}, "segments describes 1 objects, expected 4"),
    ]:
        with case(fields, message), pytest.raises(ValueError, match=message):
            replace(three_images(), **fields)


def test_match_categories_follows_the_reference_order():
    annotations = make(BOXES, [0, 1, 2, -1])
    reference = [Category(3, "water lily"), Category(1, "rose"), Category(2, "daisy")]
    matched = match_categories(reference, annotations)
    assert matched.labels.tolist() == [1, 2, 0, -1]
    assert matched.names == ("water lily", "rose", "daisy")


def test_match_categories_names_the_difference():
    reference = [Category(1, "rose"), Category(2, "daisy"), Category(3, "tulip")]
    with pytest.raises(AnnotationError, match=r"Only in training: 3 'tulip'\. Only here: 3 'water lily'"):
        match_categories(reference, make(BOXES))


def test_problem_names_file_image_object_and_remedy():
    text = str(Problem("train.json", "images/a.jpg", 17, "the box is empty", "remove it"))
    assert text == "train.json, images/a.jpg, object 17: the box is empty (remove it)"


@given(st.lists(st.integers(0, 4), max_size=8), st.data())
def test_expand_ranges_lists_the_members_of_groups(counts, data):
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    groups = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=10)) if counts else []
    members, new_offsets = expand_ranges(offsets, np.array(groups, dtype=np.int64))
    expected = [list(range(offsets[g], offsets[g + 1])) for g in groups]
    assert members.tolist() == [member for group in expected for member in group]
    assert np.diff(new_offsets).tolist() == [len(group) for group in expected]


def test_segments_give_back_each_outline():
    segments = sample_segments()
    assert [len(segments.polygons(i)) for i in range(4)] == [2, 0, 0, 1]
    assert segments.polygons(0)[1].tolist() == [[1, 1], [2, 1], [2, 2], [1, 2]]
    assert segments.rle(1, 10, 10) is None
    assert mask.decode(segments.rle(2, 0, 0)).T.ravel().tolist() == [0, 1, 1, 0, 0, 0]
    assert segments.rle(3, 12, 11)["size"] == [12, 11]
    assert segments.has_polygons.tolist() == [True, False, False, True]
    assert segments.has_rle.tolist() == [False, False, True, False]


def test_segments_take_and_without():
    taken = sample_segments().take(np.array([3, 2, 0]))
    assert taken.polygons(0)[0].tolist() == [[5, 5], [9, 5], [9, 9]]
    assert mask.area(taken.rle(1, 0, 0)) == 2
    assert len(taken.polygons(2)) == 2
    thinned = sample_segments().without(np.array([True, False, False, False]))
    assert thinned.polygons(0) == []
    assert thinned.polygons(3)[0].tolist() == [[5, 5], [9, 5], [9, 9]]
    assert mask.area(thinned.rle(2, 0, 0)) == 2


def test_subset_keeps_outlines_with_their_objects(tmp_path):
    annotations = read_annotations(write_json(tmp_path / "train.json", coco_content()))
    chosen = annotations.subset([1, 0])
    assert chosen.ids.tolist() == [0, 2, 4]
    assert mask.area(chosen.segments.rle(1, 48, 64)) == 200
    assert len(chosen.segments.polygons(2)) == 2
