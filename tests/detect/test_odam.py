"""ODAM against finite differences; the detections that are explained are the model's own."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

import detseg.detect.faster_rcnn
from detseg.backbones import create_backbone
from detseg.detect import FasterRcnn
from detseg.detect.model import DetectionModel
from detseg.detect.odam import evidence, heat, look
from detseg.detect.proposals import published_anchors
from detseg.models import MODELS, build_model, models_of
from detseg.train.config import config_for
from detseg.train.runner import describe
from tests.contracts.test_models import annotations

SIZE = 64
VARIANTS = [
    *((name, {}, {}) for name in models_of("detect")),
    ("yolo", {"masks": True}, {}),
    ("yolo", {}, {"tree": [-1, 0, 0], "vote_iou": None}),
]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda one: "-".join([one[0], *one[1], *one[2]]))
def model(request):
    """Each detector with random weights that answer strongly to what is in the image."""
    name, options, more = request.param
    config = config_for("detector", name)(backbone="test_efficientnet", weights="none", size=SIZE, **options)
    torch.manual_seed(0)
    made = build_model(describe(config, annotations()) | more).eval()
    wake(made)
    return made


@torch.no_grad()
def wake(model):
    """Outputs that differ from place to place: heads start out with weights near 0."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not name.startswith("backbone"):
            nn.init.kaiming_normal_(layer.weight, generator=torch.Generator().manual_seed(len(name)))


def image(size=SIZE, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=generator)


@contextmanager
def given_proposals(monkeypatch, kept):
    """What is proposed first is proposed ever after, so that a score is a smooth function of the maps."""
    real = detseg.detect.faster_rcnn.propose

    def propose(*arguments, **options):
        if not kept:
            kept.append(real(*arguments, **options))
        return kept[0]

    with monkeypatch.context() as patched:
        patched.setattr(detseg.detect.faster_rcnn, "propose", propose)
        yield


def test_every_detector_gives_the_detections_of_its_predictions(model):
    sight = look(model, image())
    with torch.no_grad():
        (expected,) = model(image())
    assert len(sight.found["scores"]) == len(expected["scores"]) >= 3
    for name in ("boxes", "scores", "labels"):
        torch.testing.assert_close(sight.found[name], expected[name], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sight.scores.detach(), sight.found["scores"])
    assert sight.strides == [8, 16, 32] == [SIZE // x.shape[-1] for x in sight.maps]


def test_evidence_is_what_finite_differences_say(model, monkeypatch):
    kept = []
    with given_proposals(monkeypatch, kept):
        sight = look(model, image())
    rows = [0, len(sight.scores) // 2]
    parts = [evidence(sight.scores[row], sight.maps) for row in rows]
    step = 2e-3

    def slopes(factors):
        """Of the scores, where maps are multiplied by 1 + t * factors."""
        ends = []
        for t in (step, -step):

            def scaled(maps, _strides, t=t):
                return [x * (1 + t * f) for x, f in zip(maps, factors, strict=True)]

            with torch.no_grad(), given_proposals(monkeypatch, kept), model.with_maps(scaled):
                boxes, scores, *_ = model.exportable()(image())
            # Which prediction a row is stays: scores hardly change.
            ends.append([nearest(scores[0], boxes[0], sight, row) for row in rows])
        return [(up - down) / (2 * step) for up, down in zip(*ends, strict=True)]

    whole = [torch.ones_like(x[0, 0]) for x in sight.maps]
    one = [torch.zeros_like(x) for x in whole]
    one[0][3, 4] = one[1][1, 2] = 1
    for factors in (whole, one):
        for found, own in zip(slopes(factors), parts, strict=True):
            expected = sum(float((part * f).sum()) for part, f in zip(own, factors, strict=True))
            scale = sum(float(part.abs().sum()) for part in own)
            assert scale > 1e-4 and abs(found - expected) < 0.03 * scale, (found, expected, scale)


def nearest(scores, boxes, sight, row):
    """The score of the prediction that a detection is, after a small change."""
    label, score = sight.found["labels"][row], sight.found["scores"][row]
    apart = (scores[:, label] - score).abs() + 1e-3 * (boxes - sight.found["boxes"][row]).abs().sum(1)
    return float(scores[apart.argmin(), label])


def test_nothing_of_the_model_changes(model):
    next(model.parameters()).requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    model.train()
    with torch.inference_mode():
        sight = look(model, image())
    assert [p.requires_grad for p in model.parameters()] == before and model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    evidence(sight.scores[0], sight.maps)
    assert all(p.grad is None for p in model.parameters())
    next(model.parameters()).requires_grad_(True)
    model.eval()


def test_a_tapped_backbone_has_a_map_more():
    torch.manual_seed(0)
    anchors = published_anchors([[16, 32]] * 3, (0.5, 1.0, 2.0))
    backbone = create_backbone("mobilenet_v3_large", strides=(32,))
    tap = FasterRcnn.coco["mobilenet_v3_large"].options["tap"]
    model = FasterRcnn(backbone, 2, anchors, published=True, tap=tap, width=8, hidden=16, proposals=20).eval()
    wake(model)
    sight = look(model, image())
    assert [x.shape[2:] for x in sight.maps] == [(2, 2), (2, 2)] and sight.strides == [32, 32]
    found = [float(part.abs().sum()) for part in evidence(sight.scores[0], sight.maps)]
    assert all(value > 0 for value in found)


def test_an_image_without_detections():
    torch.manual_seed(0)
    config = config_for("detector", "yolo")(backbone="test_efficientnet", weights="none", size=SIZE)
    model = build_model(describe(config, annotations())).eval()
    model.score_threshold = 1.0
    sight = look(model, image())
    assert sight.scores.shape == (0,) and sight.found["boxes"].shape == (0, 4)


# ------------------------------------------------------------------ evidence and heat by hand


def test_evidence_by_hand():
    fine = torch.tensor([[[[1.0, 2], [0, 0]], [[0, 1], [3, 0]]]], requires_grad=True)
    coarse = torch.tensor([[[[5.0]], [[-1.0]]]], requires_grad=True)
    score = 2 * fine[0, 0, 0, 1] - fine[0, 1, 1, 0] + 3 * coarse[0, 1, 0, 0]
    assert [part.tolist() for part in evidence(score, [fine, coarse])] == [[[0, 4], [-3, 0]], [[-3]]]
    other = torch.zeros(1, 1, 2, 2, requires_grad=True)
    assert evidence(score, [fine, other])[1].tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="the score does not depend on these maps"):
        evidence(score, [other])


def test_a_cell_is_spread_over_its_pixels():
    for stride, (y, x) in ((8, (3, 5)), (32, (0, 1)), (16, (2, 0))):
        part = torch.zeros(-(-70 // stride), -(-90 // stride))
        part[y, x] = 2
        found = heat([part], [stride], (70, 90)).double()
        assert found.shape == (70, 90)
        rows, columns = found.sum(1), found.sum(0)
        if 0 < y < part.shape[0] - 2 and 0 < x < part.shape[1] - 2:
            assert float(found.sum()) == pytest.approx(2)
            assert float(rows @ torch.arange(70.0).double()) / 2 == pytest.approx((y + 0.5) * stride - 0.5)
            assert float(columns @ torch.arange(90.0).double()) / 2 == pytest.approx((x + 0.5) * stride - 0.5)
        middle = int((y + 0.5) * stride), int((x + 0.5) * stride)
        assert float(found[middle]) == pytest.approx(float(found.max()), rel=0.1)


def test_maps_add_up_and_what_speaks_against_is_nothing():
    fine, coarse = torch.ones(4, 4), torch.full((2, 2), 4.0)
    np.testing.assert_allclose(heat([fine, coarse], [8, 16], (32, 32)), 1 / 64 + 4 / 256)
    np.testing.assert_allclose(heat([fine, -coarse], [8, 16], (32, 32)), 0)
    np.testing.assert_allclose(heat([fine, -2 * coarse], [8, 16], (32, 32)), 0)
    np.testing.assert_allclose(heat([3 * fine, -coarse], [8, 16], (32, 32)), 2 / 64, rtol=1e-6)


class Aside(DetectionModel):
    """A detector that does not call its backbone."""

    def __init__(self):
        super().__init__(create_backbone("test_efficientnet", strides=(8,)))
        self.backbone = nn.Identity()
        self.score_threshold, self.iou_threshold = 0.0, 0.5

    def raw(self, images):
        return torch.zeros(len(images), 2, 4), torch.ones(len(images), 2, 1)


def test_a_model_without_maps():
    with pytest.raises(ValueError, match="Aside does not look at maps of its backbone: override `with_maps`"):
        look(Aside(), image())


def test_the_registry_is_covered():
    assert set(models_of("detect")) == {name for name in MODELS if MODELS[name].task == "detect"} >= {"yolo", "ssd"}
