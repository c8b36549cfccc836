"""Test-time augmentation: views, mirrored detections, and that a mirrored image gives mirrored results."""

import numpy as np
import pytest
import torch
from torch import nn

from detseg.predict.augmented import View, fuse_views, unmirrored, views_of
from detseg.predict.detector import Detector, SlidingDetector, check_input_size, detect
from tests.mistakes import assert_named


class Halves(nn.Module):
    """Finds what is bright left and right of the middle; boxes are a little too wide on the left."""

    max_detections = 100

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return [self.find(image[0] > 130) for image in images]

    def find(self, bright):
        side = len(bright)
        boxes, masks = [], []
        for first in (0, side // 2):
            part = torch.zeros_like(bright)
            part[:, first : first + side // 2] = bright[:, first : first + side // 2]
            if part.any():
                (x1, x2), (y1, y2) = (torch.aminmax(part.any(along).nonzero()) for along in (0, 1))
                boxes.append([x1, y1, x2 + 1, y2 + 1])
                mask = part[y1 : y2 + 1, x1 : x2 + 1].float()
                masks.append(nn.functional.interpolate(mask[None, None], (14, 14), mode="area")[0, 0])
        regions = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        return {
            "boxes": regions - torch.tensor([side / 90, 0, 0, 0]),
            "scores": torch.tensor([0.9, 0.8])[: len(boxes)],
            "labels": torch.zeros(len(boxes), dtype=torch.int64),
            "masks": torch.stack(masks) if masks else torch.zeros(0, 14, 14),
            "regions": regions,
        }


def scene():
    image = np.zeros((100, 150, 3), np.uint8)
    image[20:80, 15:60] = image[40:60, 90:130] = 250
    image[20:40, 15:30] = 0
    return image


def detector():
    return Detector(Halves(), {"categories": [{"id": 1, "name": "a"}], "size": 64})


def test_sizes_and_mirrors():
    assert views_of(320) == [View(size, mirrored) for size in (256, 320, 384) for mirrored in (False, True)]
    assert [view.size for view in views_of(32)[::2]] == [32]
    assert all(view.size % 32 == 0 for size in range(32, 900, 32) for view in views_of(size))


def test_mirrored_twice_is_as_before():
    boxes = torch.rand(5, 4).cumsum(1)
    found = {"boxes": boxes, "scores": torch.rand(5), "masks": torch.rand(5, 3, 4), "regions": boxes * 2}
    once = unmirrored(found, 64)
    assert (once["boxes"][:, 2] > once["boxes"][:, 0]).all() and not torch.equal(once["masks"], found["masks"])
    for name, value in unmirrored(once, 64).items():
        torch.testing.assert_close(value, found[name])


def test_a_mirrored_image_gives_mirrored_detections():
    image = scene()
    (plain,) = detector().predict([image], score_threshold=0, tta=True)
    (mirrored,) = detector().predict([np.ascontiguousarray(image[:, ::-1])], score_threshold=0, tta=True)
    back = mirrored["boxes"] * [-1, 1, -1, 1] + [150, 0, 150, 0]
    order = np.argsort(back[:, 2])
    assert len(order) == len(plain["boxes"]) == 2
    np.testing.assert_allclose(back[order][:, [2, 1, 0, 3]], plain["boxes"][np.argsort(plain["boxes"][:, 0])], atol=1)
    np.testing.assert_allclose(plain["scores"], [0.85, 0.85], atol=1e-6, err_msg="a mirrored view has the other best")


def test_the_mean_is_nearer_to_the_truth():
    truth = np.array([[15, 20, 60, 80], [90, 40, 130, 60]])
    (one,), (mean,) = (detector().predict([scene()], score_threshold=0, tta=tta) for tta in (False, True))
    errors = [np.abs(np.sort(found["boxes"], 0) - np.sort(truth, 0)).mean() for found in (one, mean)]
    assert errors[1] < errors[0]
    for found in (one, mean):
        for box, mask in zip(found["boxes"], found["masks"], strict=True):
            x1, y1, x2, y2 = truth[int(box[0] > 75)]
            wanted = np.zeros_like(mask)
            wanted[y1:y2, x1:x2] = scene()[y1:y2, x1:x2, 0] > 0
            assert (mask & wanted).sum() / (mask | wanted).sum() > 0.8


def test_run_lengths_and_images_without_anything():
    images = [(scene(), (150, 100)), (np.zeros((50, 60, 3), np.uint8), (60, 50))]
    full = list(detect(Halves(), images, 64, tta=True))
    coded = list(detect(Halves(), images, 64, tta=True, run_lengths=True))
    assert [len(found["scores"]) for found in full] == [2, 0]
    assert full[1]["masks"].shape == (0, 50, 60) and coded[1]["masks"] == []
    assert [code["size"] for code in coded[0]["masks"]] == [[100, 150]] * 2


def test_only_the_best_are_kept():
    view = {
        "boxes": torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30], [50, 50, 60, 60]]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([0, 1, 0]),
    }
    found = fuse_views([view, view], 2)
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.8]))
    assert len(fuse_views([view, view], None)["scores"]) == 3
    assert set(found) == {"boxes", "scores", "labels"}


def test_sizes_that_are_none():
    for size, near in ((0, 32), (33, 32), (100, 96), (-64, 32)):
        with pytest.raises(ValueError, match=f"must be a multiple of 32, not {size}; {near} is near"):
            check_input_size(size)
    with pytest.raises(ValueError, match="must be a multiple of 32, not 100"):
        detector().predict([scene()], size=100)


def test_a_localizer_has_its_own_size():
    from detseg.backbones import create_deepest
    from detseg.localize.localizer import Localizer
    from detseg.predict.predictor import Predictor

    model = Localizer(create_deepest("test_efficientnet"), 1, objectness=True)
    description = {"categories": [{"id": 1, "name": "a"}], "size": 64}
    for finder in (Detector(model, description), SlidingDetector(Predictor(model, description))):
        for options in ({"size": 64}, {"tta": True}):
            with pytest.raises(ValueError, match="a localizer looks at images of its training size only"):
                finder.predict([scene()], **options)


@pytest.mark.parametrize("threshold", [float("nan"), 2, -0.1, "0.5", None])
def test_thresholds_that_are_no_shares_are_refused(threshold):
    for ask in (detector().predict, detector().stream):
        assert_named("the score threshold must be a number from 0 to 1", ask, [scene()], score_threshold=threshold)


class InTheBorder(Halves):
    def forward(self, images):
        """Of each image one box partly on it, one below it, where the square is grey, and one without width."""
        side = images.shape[-1]
        boxes = torch.tensor([[0.0, side - 9, side, side - 1], [0, 0, side, side / 2], [3, 3, 3, 9]])
        found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.zeros(3, dtype=torch.int64)}
        return [found for _ in images]


def test_boxes_wholly_in_the_grey_border_are_left_out():
    model = Detector(InTheBorder(), {"categories": [{"id": 1, "name": "a"}], "size": 64})
    (found,) = model.predict([np.zeros((100, 200, 3), np.uint8)], score_threshold=0)
    assert found.boxes.tolist() == [[0, 0, 200, 50]]
    assert found.scores.tolist() == pytest.approx([0.8])
