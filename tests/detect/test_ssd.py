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
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
    maps = list(model.eval().backbone(model.transform(list(images))[0].tensors).values())
    for head, spread in ((model.head.classification_head, 2.0), (model.head.regression_head, 1.0)):
        for layers, x in zip(head.module_list, maps, strict=True):
            last = layers if isinstance(layers, nn.Conv2d) else layers[-1]
            last.weight *= spread / layers(x).std()
    return model


@pytest.mark.parametrize(
    ("backbone", "size"), [("ssd_vgg16", 300), ("ssdlite_mobilenet_v3_large", 320)], ids=["ssd300", "ssdlite320"]
)
@torch.no_grad()
def test_torchvisions_parameters_find_the_same(backbone, size):
    published, threshold = SsdDetector.coco[backbone], 0.9
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
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=0, atol=1e-4 * size)
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=0, atol=1e-4)
        assert torch.equal(mine["labels"], other["labels"] - 1)
