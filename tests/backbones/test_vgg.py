"""VGG with convolutions for fc6 and fc7, as a backbone of fully convolutional networks."""

import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models.vgg import VGG, make_layers

from detseg.backbones import create_backbone, sources, torchvision_adapter
from detseg.backbones.weights import load_weights
from detseg.backbones.zoo.vgg import convolutional_vgg
from detseg.segment import FCN8s, FCN16s, FCN32s


def small_vgg(batch_norm: bool = False) -> VGG:
    """VGG's structure with few channels."""
    torch.manual_seed(0)
    model = VGG(make_layers([4, "M", 6, "M", 8, "M", 10, "M", 12, "M"], batch_norm), num_classes=5)
    dense = [nn.Linear(12 * 49, 16), nn.Linear(16, 14), nn.Linear(14, 5)]
    between = [nn.ReLU(True), nn.Dropout()]
    model.classifier = nn.Sequential(dense[0], *between, dense[1], *between, dense[2])
    return model.eval()


@pytest.mark.parametrize("batch_norm", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_middle_cell_is_what_fc7_says(batch_norm: bool) -> None:
    """With 7 x 7 cells the padded fc6 sees all of them, as in training, from the one in the middle."""
    classifier = small_vgg(batch_norm)
    backbone = convolutional_vgg(classifier).eval()
    x = torch.randn(2, 3, 224, 224)
    pool3, pool4, fc7 = backbone(x)
    assert backbone.channels == (8, 10, 14) and backbone.strides == (8, 16, 32)
    flat = classifier.features(x).flatten(1)
    torch.testing.assert_close(fc7[..., 3, 3], classifier.classifier[:6](flat), rtol=1e-4, atol=1e-5)
    ends = [i for i, layer in enumerate(classifier.features) if isinstance(layer, nn.MaxPool2d)]
    torch.testing.assert_close(pool3, classifier.features[: ends[2] + 1](x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pool4, classifier.features[: ends[3] + 1](x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_all_stages_of_the_paper() -> None:
    stages = [
        make(convolutional_vgg(small_vgg(), strides=strides), 3)
        for make, strides in ((FCN32s, (32,)), (FCN16s, (16, 32)), (FCN8s, (8, 16, 32)))
    ]
    images = torch.rand(1, 3, 97, 65)
    for earlier, later in pairwise(stages):
        later.start_from(earlier)
    for model in stages:
        losses = model(images, torch.ones(1, 97, 65, dtype=torch.uint8))
        losses["loss_ce"].backward()
        assert model(images).shape == (1, 3, 97, 65)


@pytest.mark.slow
def test_fewer_strides_cut_the_network() -> None:
    backbone = convolutional_vgg(small_vgg(), strides=(4, 16))
    assert backbone.channels == (6, 10) and not any("classifier" in name for name in backbone.state_dict())


@pytest.mark.slow
def test_a_pickle_knows_what_was_cut_off() -> None:
    backbone = convolutional_vgg(small_vgg())
    twin = pickle.loads(pickle.dumps(backbone))
    assert twin.whole_network() == backbone.whole_network() and "classifier.6.bias" in twin.whole_network()


@pytest.mark.slow
def test_a_file_of_the_classifier_fits_and_nothing_else(tmp_path) -> None:
    classifier, trained = small_vgg(), small_vgg()
    for parameter in trained.parameters():
        parameter.data += 0.01
    torch.save(trained.state_dict(), tmp_path / "vgg.pth")
    backbone = convolutional_vgg(classifier).eval()
    report = load_weights(backbone, tmp_path / "vgg.pth")
    assert len(report.reshaped) == 2 and set(report.skipped) == {"classifier.6.weight", "classifier.6.bias"}
    images = torch.rand(1, 3, 224, 224)
    for found, expected in zip(backbone(images), convolutional_vgg(trained).eval()(images), strict=True):
        torch.testing.assert_close(found, expected)
    torch.save(trained.state_dict() | {"classifier.0.weight": torch.zeros(16, 12 * 36)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"classifier_0.weight has shape"):
        load_weights(backbone, tmp_path / "other.pth")


@pytest.mark.slow
def test_imagenet_weights_come_from_torchvisions_vgg(monkeypatch) -> None:
    asked = []
    published = small_vgg()
    for parameter in published.parameters():
        parameter.data += 0.01

    def download(name: str, **options: object) -> nn.Module:
        asked.append((name, options))
        return published

    monkeypatch.setattr("torchvision.models.vgg16", small_vgg)
    monkeypatch.setattr(torchvision_adapter, "_model", download)
    backbone = create_backbone("vgg16_fcn", pretrained=True).eval()
    assert asked == [("vgg16", {"weights": "DEFAULT"})]
    assert backbone.weight_report.source == "torchvision's hub (vgg16)"
    images = torch.rand(1, 3, 224, 224)
    for found, expected in zip(backbone(images), convolutional_vgg(published).eval()(images), strict=True):
        torch.testing.assert_close(found, expected)
    assert sources.weights_at_hand("vgg16_fcn") in ("download", "cached")


def test_a_download_that_fails_names_the_options(monkeypatch) -> None:
    def fail(name: str, **options: object) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models.vgg16", small_vgg)
    monkeypatch.setattr(torchvision_adapter, "_model", fail)
    with pytest.raises(RuntimeError, match=r"'vgg16_fcn'.*no route to host\n.*--weights FILE.*--weights none"):
        create_backbone("vgg16_fcn", pretrained=True)


@pytest.mark.slow
def test_vgg16_fcn() -> None:
    backbone = create_backbone("vgg16_fcn")
    assert backbone.channels == (256, 512, 4096)
    assert sum(p.numel() for p in backbone.parameters()) == 134_260_544  # VGG-16's 138 357 544 without its last layer


def test_what_is_no_vgg() -> None:
    with pytest.raises(ValueError, match="no VGG: it has 0 poolings and then 0"):
        convolutional_vgg(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="stride 64"):
        convolutional_vgg(small_vgg(), strides=(8, 64))
    with pytest.raises(ValueError, match="3 input channels"):
        create_backbone("vgg16_fcn", in_channels=1)
