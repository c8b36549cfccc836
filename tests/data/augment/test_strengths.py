"""The words of --augment: names, strengths, and what they mean for the transforms."""

import numpy as np
import pytest

from detseg.data.augment.classification_transforms import ClassificationTransform
from detseg.data.augment.strengths import OF_BOXES, OF_CLASSES, OF_MASKS, strengths
from detseg.data.augment.transforms import TrainTransform
from detseg.data.sample import Sample
from tests.params import slow_but

TABLES = {"boxes": OF_BOXES, "masks": OF_MASKS, "classes": OF_CLASSES}


def make_image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (96, 128, 3), np.uint8)


def augment(table, words, seed=0):
    options = {"flip": "none", **strengths(words, TABLES[table])}
    rng = np.random.default_rng(seed)
    if table == "classes":
        return ClassificationTransform(64, **options)(make_image(), rng)
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    return TrainTransform(128, **options)(Sample(make_image(), *empty), rng).image


def test_numbers_set_strengths_and_leave_the_others():
    assert strengths((), OF_BOXES) == {}
    assert strengths(("rotate=10", "zoom=1.25", "noise=0"), OF_BOXES) == {
        "rotate": 10.0,
        "scale": (0.8, 1.25),
        "noise": 0.0,
    }
    assert strengths(("scale=0.5", "zoom=2"), OF_CLASSES) == {"area": (0.5, 1.0), "zoom": 2.0}
    assert strengths(("zoom=0",), OF_BOXES) == {"scale": (1.0, 1.0)}


def test_names_alone_leave_nothing_else_on():
    off = {entry.option: entry.off for entry in OF_MASKS.values()}
    assert strengths(("none",), OF_MASKS) == off
    assert strengths(("rotate", "light=0.3"), OF_MASKS) == off | {"rotate": 15.0, "light": 0.3}


@pytest.mark.parametrize("table", slow_but(["boxes"], TABLES))
def test_each_name_changes_the_image_and_none_does_not(table):
    plain = augment(table, ("none",))
    # The place of an image in its square is drawn too: compare what has the same place.
    for name in TABLES[table]:
        changed = [not np.array_equal(augment(table, (name,), s), augment(table, ("none",), s)) for s in range(60)]
        assert any(changed), name
    assert plain.dtype == np.uint8


def test_wrong_words_are_told():
    for words, message in (
        (("patch", "rotat"), "there is no augmentation 'rotat'; did you mean rotate"),
        (("qqq",), "there are patch, scale, rotate"),
        (("flip",), "there is no augmentation 'flip'; images are mirrored by --flip"),
        (("rotate=much",), r"--augment rotate=much: a strength is a number, at least 0, such as rotate=10"),
        (("light=-1",), "at least 0, such as light=0.2"),
        (("noise=nan",), "at least 0"),
        (("scale=",), "such as scale=0.35"),
    ):
        with pytest.raises(ValueError, match=message):
            strengths(words, OF_CLASSES)
    with pytest.raises(ValueError, match="not both"):
        ClassificationTransform(64, **strengths(("patch", "scale"), OF_CLASSES))
