"""Explanations of detections: the answer of a prediction, and the heat where the cause is known to be."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detseg.backbones import Backbone
from detseg.classify.grad_cam import grad_cam
from detseg.detect.calibration import Calibration
from detseg.detect.model import DetectionModel, select
from detseg.detect.odam import look
from detseg.predict import Detector
from detseg.predict.explain import explain
from detseg.predict.explain_detections import explain_detections
from detseg.predict.predictor import model_input

SIZE, CELL = 96, 8


class Means(nn.Module):
    """Two maps at stride 8: how red and how green cells are, above grey."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, CELL, stride=CELL, bias=False)
        colours = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5]])
        with torch.no_grad():
            self.conv.weight.copy_(colours[:, :, None, None].expand(2, 3, CELL, CELL) / CELL**2)

    def forward(self, x):
        return [self.conv(x).relu()]


class ColourDetector(DetectionModel):
    """Finds squares of 3 x 3 cells that are red or green: a score follows from these cells and no others."""

    def __init__(self):
        super().__init__(backbone := Backbone(Means(), strides=(CELL,), mean=(0.0,) * 3, std=(1.0,) * 3))
        self.backbone = backbone
        self.score_threshold, self.iou_threshold = 0.001, 0.05

    def raw(self, images):
        (maps,) = self.backbone(self.normalise(images))
        around = F.avg_pool2d(maps, 3, stride=1, padding=1)
        scores = (10 * (around - 0.5)).sigmoid().flatten(2).transpose(1, 2)
        rows, columns = maps.shape[-2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        low = (torch.stack([x, y], -1).view(1, -1, 2) - 1.0) * CELL
        return torch.cat([low, low + 3 * CELL], -1).expand(len(images), -1, 4), scores

    def forward(self, images, targets=None):
        boxes, scores = self.raw(images)
        return [select(b, s, images.shape[-2:], self).found for b, s in zip(boxes, scores, strict=True)]


def detector(**options):
    categories = [{"id": 3 * k, "name": name} for k, name in enumerate(("red", "green"))]
    made = Detector(ColourDetector(), {"categories": categories, "size": SIZE})
    for name, value in options.items():
        setattr(made.model, name, value)
    return made


def scene(*objects, height=SIZE, width=SIZE):
    """A grey image; of each object (x, y, side, colour) a square."""
    image = np.full((height, width, 3), 128, np.uint8)
    for x, y, side, colour in objects:
        image[y : y + side, x : x + side] = {"red": (255, 0, 0), "green": (0, 255, 0)}[colour]
    return image


def middle(heat):
    """(x, y) of the centre of mass, pixels from the corner."""
    y, x = (np.arange(n) + 0.5 for n in heat.shape)
    return float(heat.sum(0) @ x / heat.sum()), float(heat.sum(1) @ y / heat.sum())


def share_near(heat, x1, y1, x2, y2, margin):
    """How much of the heat lies in a box that is larger by a margin."""
    low, high = (max(0, round(v - margin)) for v in (x1, y1)), (round(v + margin) for v in (x2, y2))
    (x1, y1), (x2, y2) = low, high
    return float(heat[y1:y2, x1:x2].sum() / heat.sum())


# ------------------------------------------------------------------ the heat is where the cause is


def test_the_heat_is_in_the_box_and_nowhere_else():
    seen = explain_detections(detector(), scene((24, 40, 24, "red")))
    assert seen.found.labels.tolist() == [0] and seen.found.boxes.tolist() == [[24, 40, 48, 64]]
    heat = seen.in_image(0)
    assert heat.shape == (SIZE, SIZE) and heat.dtype == np.float32 and (heat >= 0).all()
    assert share_near(heat, 24, 40, 48, 64, CELL / 2) == pytest.approx(1, abs=1e-6), "cells fade over half a cell"
    assert 0.8 < seen.shares()[0] < 1
    assert middle(heat) == pytest.approx((36, 52), abs=0.01)


def test_each_detection_has_the_heat_of_its_own_object():
    image = scene((8, 8, 24, "red"), (56, 56, 24, "red"), (56, 8, 24, "green"))
    seen = explain_detections(detector(), image)
    assert len(seen.found) == 3 and sorted(seen.found.labels.tolist()) == [0, 0, 1]
    for row, box in enumerate(seen.found.boxes.tolist()):
        assert share_near(seen.in_image(row), *box, CELL / 2) == pytest.approx(1, abs=1e-6), box
    # Grad-CAM, which averages the gradient over places, marks all that is red.
    model = detector().model
    sight = look(model, model_input(model, image[None]))
    cam = grad_cam(sight.scores[sight.found["labels"] == 0][:1][None], sight.maps[0])[0, 0]
    assert (cam[1:4, 1:4] > 0).all() and (cam[7:10, 7:10] > 0).all() and (cam[1:4, 7:10] == 0).all()


def test_what_draws_the_heat_away_lowers_the_share():
    """Objects larger than the box that is found: the rest is as red, and yet does not count."""
    seen = explain_detections(detector(), scene((16, 16, 64, "red")), top=1)
    (box,) = seen.found.boxes.tolist()
    assert share_near(seen.in_image(0), *box, CELL / 2) == pytest.approx(1, abs=1e-6)
    model = detector()
    model.model.raw = lambda images, raw=model.model.raw: (raw(images)[0] + 40, raw(images)[1])
    moved = explain_detections(model, scene((16, 16, 24, "red")), top=1)
    assert moved.found.boxes.tolist() == [[56, 56, 80, 80]]
    assert moved.shares()[0] == pytest.approx(0, abs=1e-6), "the box is not what was looked at"


@pytest.mark.parametrize(("height", "width"), [(96, 192), (300, 120), (48, 48), (500, 500), (70, 101), (33, 200)])
def test_heat_lies_in_the_images_own_pixels(height, width):
    scale = max(height, width) / SIZE
    x, y, side = round(width * 0.4), round(height * 0.3), max(8, round(24 * scale))
    image = scene((x, y, min(side, height - y), "red"), height=height, width=width)
    seen = explain_detections(detector(), image, score_threshold=0.02, top=1)
    heat, (x1, y1, x2, y2) = seen.in_image(0), seen.found.boxes[0].tolist()
    assert heat.shape == (height, width)
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    assert share_near(heat, x1, y1, x2, y2, CELL * scale / 2 + 1) > 0.98
    (predicted,) = detector().predict([image], score_threshold=0.02)
    np.testing.assert_allclose(seen.found.boxes, predicted.boxes[:1], atol=1e-4)
    left, upper, right, lower = seen.area
    assert min(right - left, lower - upper) >= max(height, width) - scale
    assert left <= 0 and upper <= 0 and right >= width and lower >= height, "all of the image was seen"
    # A ramp laid over the square comes out as the places that the square's pixels have.
    ramp = np.tile(np.linspace(0.5, SIZE - 0.5, SIZE, dtype=np.float32), (SIZE, 1))
    object.__setattr__(seen, "heat", np.stack([ramp]))
    expected = (np.arange(width) + 0.5 - left) * SIZE / (right - left)
    np.testing.assert_allclose(seen.in_image(0)[height // 2], expected.clip(0.5, SIZE - 0.5), atol=0.04)


def test_a_mirrored_image_has_mirrored_heat():
    for height, width in ((96, 96), (96, 64), (60, 96)):
        image = scene((10, 14, 20, "red"), (40, 20, 26, "green"), height=height, width=width)
        plain = explain_detections(detector(), image)
        mirrored = explain_detections(detector(), np.ascontiguousarray(image[:, ::-1]))
        assert len(plain.found) == len(mirrored.found) >= 2
        for row in range(len(plain.found)):
            x1, y1, x2, y2 = plain.found.boxes[row].tolist()
            same = np.abs(mirrored.found.boxes - (width - x2, y1, width - x1, y2)).sum(1).argmin()
            assert mirrored.found.labels[same] == plain.found.labels[row]
            np.testing.assert_allclose(mirrored.in_image(same)[:, ::-1], plain.in_image(row), atol=1e-6)


def test_objects_that_the_border_cuts_off():
    image = scene((80, 0, 24, "red"), (0, 80, 16, "green"))
    seen = explain_detections(detector(), image, score_threshold=0.2)
    assert len(seen.found) >= 2
    for row, (x1, y1, x2, y2) in enumerate(seen.found.boxes.tolist()):
        assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
        heat = seen.in_image(row)
        assert np.isfinite(heat).all() and share_near(heat, x1, y1, x2, y2, CELL / 2) > 0.999
    assert (seen.shares() > 0.8).all()


def areas_under_deletion_and_insertion(order, image, score):
    """Means of the score while places, in an order, are greyed, and while they come back into a grey image."""
    empty, means = scene(), []
    for start, end in ((image, empty), (empty, image)):
        now, found = start.copy().reshape(-1, 3), []
        for part in np.array_split(order, 32):
            now[part] = end.reshape(-1, 3)[part]
            found.append(score(now.reshape(image.shape)))
        means.append(float(np.mean(found)))
    return means


def test_deletion_and_insertion():
    """Grey the hottest places first, and the score falls at once; show them first, and it is there at once."""
    image = scene((16, 24, 24, "red"), (64, 56, 24, "red"))
    model = detector()
    seen = explain_detections(model, image, top=1)
    x1, y1 = seen.found.boxes[0, :2].astype(int).tolist()

    def score(now):
        with torch.no_grad():
            scores = model.model.raw(torch.from_numpy(now).permute(2, 0, 1)[None])[1][0, :, 0]
        return float(scores[(y1 // CELL + 1) * (SIZE // CELL) + x1 // CELL + 1])

    heat = seen.in_image(0).ravel()
    hottest = np.argsort(-heat, kind="stable")
    deleted, inserted = areas_under_deletion_and_insertion(hottest, image, score)
    others = [np.random.default_rng(seed).permutation(heat.size) for seed in range(3)] + [hottest[::-1]]
    for order in others:
        deleted_else, inserted_else = areas_under_deletion_and_insertion(order, image, score)
        assert deleted < 0.5 * deleted_else and inserted > 1.5 * inserted_else
    assert deleted < 0.1 and inserted > 0.9


# ------------------------------------------------------------------ which detections


def test_none_one_and_many():
    nothing = explain_detections(detector(), scene())
    assert len(nothing.found) == 0 and nothing.heat.shape == (0, SIZE, SIZE) and nothing.shares().shape == (0,)
    image = scene(*((8 + 32 * i, 8 + 32 * k, 24, "red") for i in range(3) for k in range(3)))
    (predicted,) = detector().predict([image])
    assert len(predicted) == 9
    assert len(explain_detections(detector(), image).found) == 5
    for top, count in ((1, 1), (9, 9), (50, 9)):
        seen = explain_detections(detector(), image, top=top)
        assert len(seen.found) == len(seen.heat) == count
        np.testing.assert_allclose(seen.found.boxes, predicted.boxes[:count])
        np.testing.assert_allclose(seen.found.scores, predicted.scores[:count], atol=1e-6)


def test_the_score_threshold_is_that_of_predictions():
    image = scene((8, 8, 24, "red"), (50, 50, 20, "red"))
    for threshold in (0.0, 0.3, 0.9, 1.0):
        (predicted,) = detector().predict([image], score_threshold=threshold)
        seen = explain_detections(detector(), image, score_threshold=threshold, top=1000)
        np.testing.assert_allclose(seen.found.scores, predicted.scores, atol=1e-6)
        np.testing.assert_allclose(seen.found.boxes, predicted.boxes, atol=1e-4)


def test_chosen_detections():
    image = scene((8, 8, 24, "red"), (56, 8, 24, "green"), (8, 56, 24, "green"))
    seen = explain_detections(detector(), image, choose=lambda found: np.flatnonzero(found.labels == 1))
    assert seen.found.labels.tolist() == [1, 1] and seen.heat.max((1, 2)).min() > 0
    assert share_near(seen.in_image(1), *seen.found.boxes[1].tolist(), CELL / 2) == pytest.approx(1, abs=1e-6)
    assert len(explain_detections(detector(), image, choose=lambda found: [2, 0], top=1).found) == 1
    assert len(explain_detections(detector(), image, choose=lambda found: []).found) == 0


def test_scores_are_calibrated_and_the_heat_is_the_same():
    image = scene((24, 24, 24, "red"))
    plain, other = detector(), detector(calibration=Calibration(0.5, -0.2))
    before, after = (explain_detections(one, image) for one in (plain, other))
    (predicted,) = other.predict([image])
    np.testing.assert_allclose(after.found.scores, predicted.scores, atol=1e-6)
    assert after.found.scores[0] < before.found.scores[0] - 0.01
    np.testing.assert_array_equal(after.heat, before.heat)


def test_images_come_in_any_form(tmp_path):
    image = scene((24, 24, 24, "red"), width=120)
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = explain_detections(detector(), image)
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), PIL.Image.fromarray(image), tensor, tensor / 255):
        seen = explain_detections(detector(), given)
        np.testing.assert_array_equal(seen.heat, expected.heat)
        np.testing.assert_array_equal(seen.in_image(0), expected.in_image(0))


def test_a_detection_that_nothing_speaks_for():
    model = detector()
    model.model.raw = lambda images, raw=model.model.raw: (raw(images)[0], 0 * raw(images)[1] + 0.5)
    seen = explain_detections(model, scene((24, 24, 24, "red")), top=2)
    assert (seen.heat == 0).all() and np.isnan(seen.shares()).all()


def test_what_cannot_be_explained():
    with pytest.raises(ValueError, match=r"not a ColourDetector; .* explained by `detseg.predict.explain_detections`"):
        explain(detector(), scene())
    localizer = detector()
    localizer.model.task = "localize"
    with pytest.raises(ValueError, match=r"not a ColourDetector; .* `detseg\.predict\.explain\.explain`"):
        explain_detections(localizer, scene())
    other = detector()
    other.model = nn.ModuleList([other.model])
    with pytest.raises(ValueError, match="only a detector has detections to explain, not a ModuleList; give"):
        explain_detections(other, scene())
    with pytest.raises(ValueError, match="top must be at least 1, the number of detections to explain, not 0"):
        explain_detections(detector(), scene(), top=0)
    with pytest.raises(ValueError, match=r"uint8 array of shape \(H, W, 3\)"):
        explain_detections(detector(), np.zeros((64, 64), np.uint8))
