"""Several detectors as one: by hand, classes by name, masks, sizes, the cap, and what cannot be fused."""

import numpy as np
import pytest
import torch
from torch import nn

from detseg.detect.nms.fusion import fuse
from detseg.predict import Detector, FusedDetector


class Fixed(nn.Module):
    """Finds the same in every image: boxes in shares of the side that it is shown."""

    max_detections = 100

    def __init__(self, boxes, scores, labels, finds_masks=False):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.found, self.finds_masks, self.seen = (boxes, scores, labels), finds_masks, []

    def forward(self, images):
        self.seen.append(images.shape[-1])
        boxes, scores, labels = (torch.tensor(values) for values in self.found)
        found = {"boxes": boxes * images.shape[-1], "scores": scores, "labels": labels}
        if self.finds_masks:
            found |= {"masks": torch.ones(len(scores), 4, 4), "regions": found["boxes"]}
        return [found] * len(images)


def detector(names, boxes, scores, labels, *, size=64, ids=None, **options):
    categories = [{"id": i, "name": name} for i, name in zip(ids or range(1, 9), names, strict=False)]
    return Detector(Fixed(boxes, scores, labels, **options), {"categories": categories, "size": size})


BOX, NEAR, FAR = [0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52], [0.6, 0.6, 0.9, 0.9]
IMAGE = np.zeros((100, 100, 3), np.uint8)


def test_boxes_are_averaged_and_classes_matched_by_name():
    one = detector(["rose", "tulip"], [BOX, FAR], [0.8, 0.6], [0, 1])
    two = detector(["tulip", "rose"], [NEAR], [0.4], [1], size=96)
    fused = FusedDetector([one, two])
    assert fused.names == ["rose", "tulip"] and fused.size == 96
    (found,) = fused.predict([IMAGE], score_threshold=0)
    assert [fused.names[label] for label in found["labels"]] == ["rose", "tulip"]
    assert found["scores"] == pytest.approx([0.6, 0.3]), "the mean; half of it where one of two finds it"
    mean = (0.8 * np.array(BOX) + 0.4 * np.array(NEAR)) / 1.2
    np.testing.assert_allclose(found["boxes"][0], 100 * mean, atol=1e-3)
    assert (one.model.seen, two.model.seen) == ([64], [96]), "each in its own size"
    fused.predict([IMAGE], size=32)
    assert (one.model.seen[1:], two.model.seen[1:]) == ([32], [32])


def test_who_does_not_know_a_class_does_not_lower_its_scores():
    one = detector(["rose"], [BOX], [0.8], [0], ids=[7])
    two = detector(["lily", "rose"], [BOX, FAR], [0.6, 0.5], [1, 0], ids=[7, 8])
    fused = FusedDetector([one, two])
    assert fused.categories == [(7, "rose"), (8, "lily")], "ids that are taken are given anew"
    (found,) = fused.predict([IMAGE], score_threshold=0)
    assert found["scores"] == pytest.approx([0.7, 0.5]) and found["labels"].tolist() == [0, 1]


def test_with_weights_of_models_that_know_a_label():
    boxes, labels = [np.array([[0.0, 0, 9, 9]])] * 2, [np.array([1]), np.array([1])]
    known = np.array([[True, True], [True, True], [True, False]])
    given = [*boxes, np.zeros((0, 4))], [np.array([0.8]), np.array([0.2]), np.zeros(0)], [*labels, np.zeros(0, int)]
    fused = fuse(*given, [3, 1, 5], 0.5, known=known)
    assert fused.scores == pytest.approx([(3 * 0.8 + 0.2) / 2 * 2 / (3 + 1)])
    assert fuse(*given, [3, 1, 5], 0.5).scores == pytest.approx([(3 * 0.8 + 0.2) / 2 * 2 / (3 + 1 + 5)])


def test_with_itself_and_several_views():
    one = detector(["a", "b"], [BOX, FAR], [0.8, 0.6], [0, 1])
    (alone,), (twice,) = (d.predict([IMAGE], score_threshold=0) for d in (one, FusedDetector([one, one])))
    for name, value in alone.items():
        np.testing.assert_allclose(twice[name], value, atol=1e-4)
    (views,), (views_twice,) = (
        d.predict([IMAGE], score_threshold=0, tta=True) for d in (one, FusedDetector([one] * 2))
    )
    assert len(views["scores"]) == 4, "what it finds in the mirror image lies elsewhere"
    order = [np.lexsort((*found["boxes"].T, found["labels"])) for found in (views, views_twice)]
    for name, value in views.items():
        np.testing.assert_allclose(views_twice[name][order[1]], value[order[0]], atol=1e-4)


def test_masks_are_those_of_the_best_box():
    one = detector(["a"], [BOX], [0.8], [0], finds_masks=True)
    two = detector(["a"], [NEAR, FAR], [0.4, 0.3], [0, 0], finds_masks=True)
    (found,) = FusedDetector([one, two]).predict([IMAGE], score_threshold=0)
    assert found["masks"].shape == (2, 100, 100)
    assert found["masks"][0][16:44, 16:44].all() and not found["masks"][0][:, 55:].any()
    assert found["masks"][1][66:84, 66:84].all()


def test_the_cap_is_that_of_the_largest_and_can_be_set():
    fused = FusedDetector([detector(["a"], [BOX, FAR], [0.8, 0.4], [0, 0]) for _ in range(2)])
    fused.members[1].model.max_detections = 300
    assert fused.max_detections == 300
    fused.max_detections = 1
    assert len(fused.predict([IMAGE], score_threshold=0)[0]["scores"]) == 1


def test_what_cannot_be_fused():
    plain = detector(["a"], [BOX], [0.8], [0])
    with pytest.raises(ValueError, match="all or none of them must find masks"):
        FusedDetector([plain, detector(["a"], [BOX], [0.8], [0], finds_masks=True)])
    tree = detector(["a"], [BOX], [0.8], [0])
    tree.model.tree = object()
    with pytest.raises(ValueError, match="tree of classes cannot be fused"):
        FusedDetector([plain, tree])
    grey = detector(["a"], [BOX], [0.8], [0])
    grey.channels = 1
    with pytest.raises(ValueError, match=r"channels are \[3, 1\]"):
        FusedDetector([plain, grey])
    with pytest.raises(ValueError, match="only detectors can be fused"):
        FusedDetector([plain, object()])
