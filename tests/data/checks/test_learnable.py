"""A run with nothing to learn stops, and the message names the cause."""

from dataclasses import replace

import numpy as np
import pytest

from detseg.data import read_masks
from detseg.data.annotations import AnnotationError, Category
from detseg.data.checks.learnable import require_learnable
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks
from detseg.data.polygons import SegmentsBuilder
from tests.data.annotation_samples import make, write_picture
from tests.data.mask_samples import save_mask


def masks_of(folder, values, classes="background\nflower\n"):
    for number, value in enumerate(values):
        write_picture(folder / f"images/{number}.jpg", 4, 2, number)
        save_mask(folder / f"masks/{number}.png", np.array([value] * 2, np.uint8))
    if classes:
        (folder / "classes.txt").write_text(classes)
    return read_masks(folder)


def test_masks_with_two_classes(tmp_path):
    require_learnable(masks_of(tmp_path, [[0, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 1]]))
    require_learnable(masks_of(tmp_path, [[0, 0, 0, 0], [1, 1, 1, 1], [255, 255, 255, 255]]))


def test_masks_of_0_and_255_with_a_list_of_two(tmp_path):
    with pytest.raises(AnnotationError) as error:
        require_learnable(masks_of(tmp_path, [[0, 255, 255, 0], [0, 0, 0, 0]]))
    assert str(error.value) == (
        f"{tmp_path}: there is nothing to learn in the masks of 2 images: every pixel is 'background' or ignored. 255 "
        "is taken as 'ignore': if it is 'flower', write the lines '0 background' and '255 flower' into the list of "
        "classes"
    )
    require_learnable(masks_of(tmp_path, [[0, 255, 255, 0], [0, 0, 0, 0]], "0 background\n255 flower\n"))


def test_masks_of_one_class(tmp_path):
    for value, seen, absent in ((0, "background", "flower"), (1, "flower", "background")):
        with pytest.raises(AnnotationError, match=f"every pixel is '{seen}'; no pixel of {absent}. Are these"):
            require_learnable(masks_of(tmp_path, [[value] * 4]))
    with pytest.raises(AnnotationError, match=r"nothing to evaluate a model on .*every pixel is ignored"):
        require_learnable(masks_of(tmp_path, [[255] * 4]), "evaluate a model on")
    with pytest.raises(AnnotationError, match="the threshold of 200 is above or below"):
        masks_of(tmp_path, [[0, 0, 90, 199]])
        require_learnable(read_masks(tmp_path, threshold=200))


def test_objects_that_are_all_ignored(tmp_path):
    builder = SegmentsBuilder()
    builder.add_polygons([[1, 1, 9, 1, 9, 9]])
    path = str(write_picture(tmp_path / "a.jpg"))
    data = make([[1, 1, 9, 9]], sizes=[(64, 48)], paths=[path], source="here.json")
    data = replace(data, segments=builder.build())
    require_learnable(data)
    require_learnable(SemanticMasks.from_annotations(data))
    crowd = replace(data, iscrowd=np.ones(1, bool))
    with pytest.raises(
        AnnotationError, match=r"^here\.json: there are no objects to learn in 1 images: all 1 are marked"
    ):
        require_learnable(crowd)
    with pytest.raises(
        AnnotationError, match=r"every pixel is 'background' or ignored; all 1 objects are marked as crowd"
    ):
        require_learnable(SemanticMasks.from_annotations(crowd))
    none = replace(data, **data.take_objects(np.array([], np.int64)))
    with pytest.raises(
        AnnotationError, match=r"no objects to evaluate a model on in 1 images; validate on images with"
    ):
        require_learnable(none, "evaluate a model on")
    with pytest.raises(AnnotationError, match="there is not a single object"):
        require_learnable(SemanticMasks.from_annotations(none))


def test_labels_of_one_class():
    images = LabelledImages(
        categories=(Category(0, "a"), Category(1, "b")),
        image_ids=np.arange(3),
        paths=np.array(["x", "y", "z"]),
        sizes=np.ones((3, 2), np.int32),
        labels=np.array([1, 1, 1]),
        source="here",
    )
    with pytest.raises(AnnotationError, match="here: there is nothing to learn: all 3 images are of 'b'"):
        require_learnable(images)
    require_learnable(images, "evaluate a model on")
    require_learnable(replace(images, labels=np.array([0, 1, 1])))
