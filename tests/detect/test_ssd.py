"""SSD against torchvision's: the same parameters find the same; and what its losses teach."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import detection

from detseg.detect.model import CANDIDATES
from detseg.detect.ssd import SsdDetector, ssd_losses
from detseg.models import build_model


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
