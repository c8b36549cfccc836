"""Several splits as one set."""

from dataclasses import replace

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError, Category, Problem
from detseg.data.formats import read_annotations, read_label_splits, read_masks
from detseg.data.join import joined
from detseg.data.polygons import SegmentsBuilder
from tests.data.annotation_samples import by_image, make, write_coco_dataset, write_picture
from tests.small_masks import write_small_masks


def test_objects_of_all_sets_in_their_order(tmp_path):
    first = read_annotations(write_coco_dataset(tmp_path / "a"))
    problem = Problem("f", "x.jpg", 5, "what", "remedy", "warning", image_index=0)
    second = make([[1, 2, 3, 4]], [1], sizes=[(9, 9), (64, 48)], paths=["x.jpg", "y.jpg"], image_index=[1])
    order = (Category(90, "water lily"), Category(7, "rose"), Category(0, "daisy"))
    second = replace(second, categories=order, read_problems=(problem,))
    both = joined([first, second], "both")
    assert both.names == first.names and both.source == "both"
    assert by_image(both) == by_image(first) | by_image(second)
    assert both.image_ids.tolist() == [5, 0, 9, 3, 1, 2]  # they are unique
    assert both.ids.tolist() == [4, 0, 2, 11, 1]
    assert both.read_problems[0].image_index == 4
    assert both.file_of(0).endswith("train.json") and both.file_of(4) == "sample.json"
    assert both.drawn.tolist() == [*first.drawn.tolist(), False]
    for row in np.flatnonzero(first.drawn):
        assert both.segments.rle(row, 48, 64) == first.segments.rle(row, 48, 64)
    twice = joined([first, first], "twice")
    assert twice.image_ids.tolist() == list(range(1, 9)) and twice.ids.tolist() == list(range(1, 9))
    assert twice.segments.rle(len(first.ids), 48, 64) == first.segments.rle(0, 48, 64)


def test_masks_that_only_the_second_has():
    builder = SegmentsBuilder()
    builder.add_polygons([[0, 0, 4, 0, 4, 4]])
    second = make([[0, 0, 4, 4]], segments=builder.build(), paths=["b.jpg"])
    both = joined([make([[1, 1, 5, 5]], paths=["a.jpg"]), second], "both")
    assert both.drawn.tolist() == [False, True]
    assert both.segments.polygons(1)[0].tolist() == [[0, 0], [4, 0], [4, 4]]


def test_one_set_is_itself_and_other_categories_are_refused():
    data = make()
    assert joined([data], "x") is data
    with pytest.raises(AnnotationError, match="its categories differ"):
        joined([data, replace(data, categories=data.categories[:2])], "x")


def test_labels_and_masks(tmp_path):
    for seed, name in enumerate(("train/a/1", "train/b/2", "val/b/3")):
        write_picture(tmp_path / f"labels/{name}.png", seed=seed)
    parts = read_label_splits(tmp_path / "labels")
    assert joined(list(parts.values()), "all").labels.tolist() == [0, 1, 1]
    masked = write_small_masks(tmp_path / "masked")
    parts = [read_masks(masked, split) for split in ("train", "val")]
    both = joined(parts, "all")
    np.testing.assert_array_equal(both.mask(len(parts[0])), parts[1].mask(0))
