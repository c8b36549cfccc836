"""torchvision's R-CNNs with random parameters, and models of ours with the same."""

import torch
from torch import nn
from torchvision.models import detection

from detseg.models import MODELS, build_model
from tests.backbones.shaken_norms import shake_norms

CLASSES = 6


def pair(kind, backbone, size):
    """torchvision's network for images of `size`, and ours with its parameters, both evaluating."""
    published = MODELS[kind].coco[backbone]
    torch.manual_seed(1)
    builder = getattr(detection, published.builder)
    theirs = builder(weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=size, max_size=size).eval()
    shake(theirs, size, eps=0.0 if "resnet" in backbone else None)
    ours = build_model({"kind": kind, "backbone": backbone, "num_classes": CLASSES, **published.options}).eval()
    found = ours.load_state_dict(published.rename(theirs.state_dict()), strict=False)
    assert not found.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in found.missing_keys)
    return theirs, ours


@torch.no_grad()
def shake(theirs, size, eps):
    """Statistics that matter, and heads that find objects; `eps` as the builder sets it with published weights."""
    shake_norms(theirs.backbone)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d) and eps is not None:
            module.eps = eps
    # Features of size 1, as trained ones: of huge ones rounding alone moves boxes.
    maps = list(theirs.backbone(torch.rand(1, 3, size, size)).values())
    for block, x in zip(theirs.backbone.fpn.layer_blocks, maps, strict=False):
        block[0].weight.div_(x.std())
    for layer, factor in (
        (theirs.rpn.head.cls_logits, 30),
        (theirs.rpn.head.bbox_pred, 10),
        (theirs.roi_heads.box_predictor.cls_score, 10),
        (theirs.roi_heads.box_predictor.bbox_pred, 3),
    ):
        layer.weight.mul_(factor)


def found_alike(theirs, ours):
    """Compare detections of images one by one; those of equal scores, but for rounding, may come in any order."""
    for a, b in zip(theirs, ours, strict=True):
        assert len(a["boxes"]) == len(b["boxes"]) >= 20
        torch.testing.assert_close(b["scores"], a["scores"], rtol=1e-4, atol=1e-4)
        apart = torch.cdist(a["boxes"], b["boxes"]) + 1e3 * (a["scores"][:, None] - b["scores"]).abs()
        apart += 1e6 * (a["labels"][:, None] - 1 != b["labels"])  # torchvision counts classes from 1
        same = apart.argmin(1)
        assert len(same.unique()) == len(same)
        assert torch.equal(b["labels"][same], a["labels"] - 1)
        torch.testing.assert_close(b["boxes"][same], a["boxes"], rtol=1e-4, atol=1e-4)
        if "masks" in a:
            torch.testing.assert_close(b["masks"][same], a["masks"][:, 0], rtol=1e-4, atol=1e-4)
