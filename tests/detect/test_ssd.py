"""SSD against torchvision's: the same parameters find the same; and what its losses teach."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import nn
from torchvision.models import detection
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.ssd import SSD, DefaultBoxGenerator
from torchvision.ops import box_iou

from detseg.detect.default_boxes import lay_out
from detseg.detect.model import CANDIDATES, flatten_targets
from detseg.detect.ssd import NEGATIVES, SsdDetector, ssd_losses
from detseg.models import build_model
from detseg.train.config import config_for


@torch.no_grad()
def shaken(model, images):
    """The model in evaluation mode: batch norms with statistics of their own, scores and offsets well apart."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one run sets the statistics
            nn.init.normal_(module.bias, std=0.1)
    x = model.transform(list(images))[0].tensors
    model.train().head(list(model.backbone(x).values()))
    maps = list(model.eval().backbone(x).values())
    for head, spread in ((model.head.classification_head, 2.0), (model.head.regression_head, 1.0)):
        for layers, x in zip(head.module_list, maps, strict=True):
            last = layers if isinstance(layers, nn.Conv2d) else layers[-1]
            spreads, means = torch.std_mean(layers(x), (0, 2, 3))
            factors = spread / spreads.clamp(min=1e-3)
            last.weight *= factors[:, None, None, None]
            last.bias.copy_((last.bias - means) * factors)
    return model


@pytest.mark.parametrize(
    ("backbone", "size", "threshold"),
    [
        pytest.param("ssd_vgg16", 300, 0.9, marks=pytest.mark.slow),
        ("ssdlite_mobilenet_v3_large", 320, 0.9),
    ],
)
@torch.no_grad()
def test_torchvisions_parameters_find_the_same(backbone, size, threshold):
    published = SsdDetector.coco[backbone]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    build = getattr(detection, published.builder)
    theirs = shaken(build(weights=None, weights_backbone=None, num_classes=5, score_thresh=threshold), images)
    options = {**published.options, "score_threshold": threshold}
    ours = build_model({"kind": "ssd", "backbone": backbone, "num_classes": 4, **options}).eval()
    ours.load_state_dict(published.rename(theirs.state_dict()))
    scores = ours.raw(images)[1] >= threshold
    # Theirs looks at the best few hundred of each class, ours at those of all classes.
    assert scores.sum(1).max() < theirs.topk_candidates and scores.sum((1, 2)).max() < CANDIDATES
    found, wanted = ours(images), theirs(list(images))
    for mine, other in zip(found, wanted, strict=True):
        assert len(mine["scores"]) > 50
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=0, atol=1e-4)
        # Scores that are equal but for rounding may stand in another order.
        rows = [torch.cat([f["boxes"] / size, f["scores"][:, None]], 1) for f in (mine, other)]
        apart = (rows[0][:, None] - rows[1]).abs().amax(2) + (mine["labels"][:, None] != other["labels"] - 1)
        assert apart.amin(0).max() < 1e-4 and apart.amin(1).max() < 1e-4


def target(boxes, labels, crowd=None):
    result = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    return result if crowd is None else {**result, "iscrowd": torch.tensor(crowd)}


def lite_priors():
    """The default boxes of SSDLite320."""
    shapes = [torch.tensor(s) for s in SsdDetector.coco["ssdlite_mobilenet_v3_large"].options["shapes"]]
    return lay_out(shapes, [(side, side) for side in (20, 10, 5, 3, 2, 1)], (320, 320))


def predictions(images, priors, classes=3):
    generator = torch.Generator().manual_seed(2)
    deltas = torch.randn(images, len(priors), 4, generator=generator)
    return deltas, torch.randn(images, len(priors), classes + 1, generator=generator)


def test_torchvisions_losses():
    """Where no two objects want one prior, and images have more than a few positive ones."""
    targets = [target([[10, 10, 110, 90], [150, 100, 310, 300]], [0, 2]), target([[40, 60, 200, 220]], [1])]
    priors = lite_priors()
    deltas, logits = predictions(2, priors)
    found = ssd_losses(priors, deltas, logits, flatten_targets(targets, 2))
    matched = [SSDMatcher(0.5)(box_iou(t["boxes"], priors)) for t in targets]
    assert all((m >= 0).sum() * 3 > NEGATIVES for m in matched)
    theirs = SSD(nn.Identity(), DefaultBoxGenerator([[2]]), (320, 320), 4, head=nn.Identity())
    wanted = theirs.compute_loss(
        [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets],
        {"bbox_regression": deltas, "cls_logits": logits},
        [priors, priors],
        matched,
    )
    torch.testing.assert_close(found["loss_box"], wanted["bbox_regression"])
    torch.testing.assert_close(found["loss_class"], wanted["classification"])


def test_images_without_objects_teach_their_strongest_false_detections():
    priors = lite_priors()
    deltas, logits = predictions(2, priors)
    found = ssd_losses(priors, deltas, logits, flatten_targets([target([], [])] * 2, 2))
    background = -logits.log_softmax(-1)[..., 0]
    assert found["loss_box"] == 0
    torch.testing.assert_close(found["loss_class"], background.topk(NEGATIVES).values.sum())


def test_crowds_are_neither_object_nor_background():
    priors = lite_priors()
    crowd = target([[0, 0, 160, 320]], [1], [True])
    deltas, logits = predictions(1, priors)
    inside = (priors[:, 0] >= 0) & (priors[:, 2] <= 160) & (priors[:, 1] >= 0) & (priors[:, 3] <= 320)
    logits[:, inside, 1:] += 20  # the strongest false detections, were they any
    logits.requires_grad_()
    found = ssd_losses(priors, deltas, logits, flatten_targets([crowd], 1))
    assert inside.any() and found["loss_box"] == 0
    (gradient,) = torch.autograd.grad(found["loss_class"], logits)
    assert not gradient[:, inside].any() and gradient.any()


def test_a_box_without_area_changes_nothing():
    priors = lite_priors()
    deltas, logits = predictions(1, priors)
    deltas.requires_grad_()
    plain, added = (
        ssd_losses(priors, deltas, logits, flatten_targets([target(boxes, [0] * len(boxes))], 1))
        for boxes in ([[10, 10, 110, 90]], [[10, 10, 110, 90], [200, 200, 200, 250]])
    )
    assert plain == added
    assert torch.autograd.grad(added["loss_box"], deltas)[0].isfinite().all()


def config_of(**options):
    return config_for("detector", "ssd")(backbone="test_efficientnet", weights="none", **{"size": 320} | options)


def test_the_papers_maps_follow_until_one_cell_is_left():
    for size, strides, maps in ((320, (8, 16, 32), 7), (320, (16, 32), 6), (64, (32,), 2), (512, (4, 8), 8)):
        options = SsdDetector.options_for(None, config_of(size=size, strides=strides, boxes="paper"))
        assert len(options["shapes"]) == len(strides) + len(options["coarser"]) == maps
        assert options["lite"] is (PartialState().device.type == "cpu")
    assert SsdDetector.options_for(None, config_of(lite=False, boxes="paper"))["lite"] is False


def test_fitted_boxes_are_on_the_map_of_their_scale():
    sizes = np.array([[20, 24], [25, 22], [60, 50], [70, 30], [300, 280]], np.float64)  # none of stride 32's scale
    data = SimpleNamespace(sizes=np.full((1, 2), 320), image_index=np.zeros(5, int), iscrowd=np.zeros(5, bool))
    data.boxes = np.concatenate([np.zeros((5, 2)), sizes], 1)
    shapes = SsdDetector.options_for(data, config_of(size=320))["shapes"]
    assert [len(of_map) for of_map in shapes] == [6] * 4
    for of_map, wanted in ((shapes[0], sizes[:2]), (shapes[1], sizes[2:4]), (shapes[3], sizes[4:])):
        assert all(side in of_map for side in wanted.tolist())
    assert min(shapes[2]) == [pytest.approx(3.5 * 32 / 3**0.5, abs=0.01), pytest.approx(3.5 * 32 * 3**0.5, abs=0.01)]


def test_published_weights_bring_their_architecture():
    config = config_for("detector", "ssd")(backbone="ssd_vgg16", weights="coco")
    assert SsdDetector.options_for(None, config) == SsdDetector.coco["ssd_vgg16"].options
    with pytest.raises(ValueError, match="coco brings its own default boxes; leave out --boxes"):
        SsdDetector.options_for(None, replace(config, boxes="paper"))


@pytest.mark.parametrize("lite", [True, False])
def test_any_size_even_the_smallest(lite):
    torch.manual_seed(0)
    architecture = {"kind": "ssd", "backbone": "test_efficientnet", "strides": [16, 32], "num_classes": 3, "lite": lite}
    shapes = [[[40.0, 30.0], [30.0, 40.0]], [[60.0, 60.0]], [[90.0, 90.0]], [[120.0, 120.0]]]
    model = build_model({**architecture, "shapes": shapes, "coarser": [16, 8], "unpadded": 0 if lite else 1}).eval()
    for height, width in ((33, 70), (128, 96)):
        with torch.no_grad():
            for found in model(torch.rand(2, 3, height, width)):
                assert len(found["boxes"]) == len(found["scores"]) > 0 and (found["scores"].diff() <= 0).all()
                assert (found["boxes"] >= 0).all() and (
                    found["boxes"].amax(0)[2:] <= torch.tensor([width, height])
                ).all()
    for name, rows in model.class_layers().items():
        assert len(model.get_submodule(name).weight) == rows.groups * (1 + 3) * rows.each and rows.background


def test_batches_of_one_image():
    torch.manual_seed(0)
    shapes = [[[40.0, 30.0]], [[60.0, 60.0]], [[90.0, 90.0]]]
    architecture = {"kind": "ssd", "backbone": "test_efficientnet", "strides": [32], "num_classes": 3}
    model = build_model({**architecture, "shapes": shapes, "coarser": [16, 16]}).train()
    losses = model(torch.rand(1, 3, 64, 64), [target([[5, 5, 50, 60]], [1])])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_shapes_that_do_not_fit_the_maps():
    architecture = {"kind": "ssd", "backbone": "test_efficientnet", "strides": [16, 32], "num_classes": 3}
    with pytest.raises(ValueError, match=r"each of 2 maps, 2 of the backbone and 0 coarser ones; got \[\(1, 2\)\]"):
        build_model({**architecture, "shapes": [[[40.0, 30.0]]]})
    with pytest.raises(ValueError, match="positive"):
        build_model({**architecture, "shapes": [[[40.0, 30.0]], [[0.0, 3.0]]]})


def test_tensors_of_another_network_have_no_place():
    with pytest.raises(ValueError, match=r"rpn\.head\.weight has no place in the detector"):
        SsdDetector.coco["ssd_vgg16"].rename({"rpn.head.weight": torch.zeros(1)})
