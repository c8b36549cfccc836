"""Whole classifiers by name: published sizes, attributes, weights, mistakes."""

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from detseg.backbones import (
    create_backbone,
    create_network,
    imagenet_classes,
    list_backbones,
    load_weights,
    timm_adapter,
)
from detseg.backbones.meta import on_meta
from detseg.backbones.network import OWN_NETWORKS
from detseg.backbones.sources import weights_at_hand

# Millions of parameters as published.
PUBLISHED = {
    "vgg16": 138.36,
    "vgg19": 143.67,
    "googlenet": 6.62,
    "inception_v3": 23.83,
    "inception_v4": 42.68,
    "resnet18": 11.69,
    "resnet34": 21.80,
    "resnet34_units": 21.80,
    "resnet50": 25.56,
    "resnet101": 44.55,
    "resnet152": 60.19,
    "xception": 22.86,
    "legacy_seresnet50": 28.09,
    "legacy_senet154": 115.09,
    "densenet121": 7.98,
    "densenet161": 28.68,
    "mobilenetv2_100": 3.50,
    "mobilenetv3_large_100": 5.48,
    "tf_efficientnet_lite0": 4.65,
    "tf_efficientnet_lite1": 5.42,
    "tf_efficientnet_lite2": 6.09,
}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.slow
def test_published_parameter_counts():
    with on_meta():
        assert {name: round(count(create_network(name)) / 1e6, 2) for name in PUBLISHED} == PUBLISHED


def test_auxiliary_heads_are_left_out():
    with on_meta():
        inception = count(models.get_model("inception_v3", init_weights=False))
        assert round(inception / 1e6, 2) == 27.16
        assert not any("aux" in name.lower() for name, _ in create_network("googlenet").named_parameters())


def test_torchvision_counts_the_same():
    for name in ("googlenet", "shufflenet_v2_x0_5"):
        with on_meta():
            assert count(create_network(name)) == models.get_model_weights(name)["DEFAULT"].meta["num_params"], name


@pytest.mark.parametrize(
    ("name", "size", "mean"),
    [
        ("lenet5", (32, 32), (0.1307,) * 3),
        ("alexnet_2012", (227, 227), (0.485, 0.456, 0.406)),
        ("resnet18", (224, 224), (0.485, 0.456, 0.406)),
        ("inception_v3", (299, 299), (0.5, 0.5, 0.5)),
        ("tf_efficientnet_lite1", (240, 240), (0.5, 0.5, 0.5)),
        ("googlenet", (224, 224), (0.5, 0.5, 0.5)),
    ],
)
def test_attributes_and_output(name, size, mean):
    with on_meta():
        network = create_network(name, num_classes=12)
        out = network(torch.empty(2, 3, *size))
    assert network.input_size == size
    assert network.mean == pytest.approx(mean)
    assert network.weight_report is None
    assert out.shape == (2, 12)


def test_input_channels():
    for name in ("lenet5", "resnet34_units", "resnet18", "googlenet"):
        with on_meta():
            network = create_network(name, in_channels=2)
            out = network(torch.empty(2, 2, *network.input_size))
            backbone = create_backbone(name, strides=(4,), in_channels=2)
        assert out.shape == (2, 1000), name
        assert (network.mean, network.std) == (backbone.mean, backbone.std), name


@pytest.mark.parametrize("name", ["lenet5", "mobilenetv3_small_050", "shufflenet_v2_x0_5", "regnet_x_400mf"])
def test_a_file_of_the_whole_network(name, tmp_path):
    first, second = create_network(name, num_classes=3), create_network(name, num_classes=3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in first.state_dict().items()}}, tmp_path / "a.pth")
    x = torch.randn(2, 3, *first.input_size)
    assert not torch.equal(first.eval()(x), second.eval()(x))
    loaded = create_network(name, num_classes=3, pretrained=tmp_path / "a.pth").eval()
    assert torch.equal(first(x), loaded(x))
    assert not loaded.weight_report.skipped
    with pytest.raises(ValueError, match="does not fit"):
        create_network(name, num_classes=4, pretrained=tmp_path / "a.pth")


def test_hub_weights_of_torchvision(monkeypatch):
    published = models.googlenet(init_weights=False, aux_logits=True).state_dict()
    monkeypatch.setattr(models.GoogLeNet_Weights, "get_state_dict", lambda *_args, **_named: published)
    network = create_network("googlenet", num_classes=5, pretrained=True)
    assert not any(name.startswith("aux") for name in network.weight_report.copied)
    assert torch.equal(network.conv1.conv.weight, published["conv1.conv.weight"])
    assert network.fc.weight.shape == (5, 1024)


def test_networks_that_timm_has_renamed(monkeypatch):
    """Their weights, sizes and normalisation are those of the present name."""
    network = create_network("xception")
    assert (network.input_size, network.mean) == ((299, 299), (0.5, 0.5, 0.5))
    assert weights_at_hand("xception") == weights_at_hand("legacy_xception") != "none"
    assert timm_adapter.current_name("tf_efficientnet_b0_ap") == "tf_efficientnet_b0.ap_in1k"
    assert timm_adapter.current_name("resnet18.a1_in1k") == "resnet18.a1_in1k"
    asked = []
    published = network.state_dict()
    create = timm.create_model

    def hub(name, *, pretrained=False, **options):
        if pretrained:
            asked.append(name)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", hub)
    loaded = create_network("xception", num_classes=5, pretrained=True)
    assert asked == ["legacy_xception.tf_in1k"] or asked == ["legacy_xception"]
    assert loaded.state_dict().keys() == published.keys() and loaded.fc.out_features == 5


def test_torchvisions_files_fit_timms_vggs(tmp_path):
    """Narrow ones, with the layers and names of the real ones."""
    from timm.models.vgg import VGG, ConvMlp

    torch.manual_seed(0)
    config = [4, "M", 4, "M", 4, "M", 4, "M", 8, "M"]
    theirs = models.VGG(models.vgg.make_layers(config), num_classes=3, init_weights=False).eval()
    for i, layer in ((0, nn.Linear(8 * 49, 16)), (3, nn.Linear(16, 16)), (6, nn.Linear(16, 3))):
        theirs.classifier[i] = layer
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    ours = VGG(config, num_classes=3).eval()
    ours.pre_logits, ours.head.fc = ConvMlp(8, 16).eval(), nn.Linear(16, 3)
    report = load_weights(ours, tmp_path / "vgg.pth")
    assert report.reshaped == ("pre_logits.fc1.weight", "pre_logits.fc2.weight") and not report.skipped
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
    with on_meta():
        names = create_network("vgg16").state_dict().keys() - ours.state_dict().keys()
    assert all(name.startswith("features.") for name in names)


def test_imagenets_classes():
    names = imagenet_classes()
    assert len(names) == 1000
    assert (names[0], names[985], names[698]) == ("tench, Tinca tinca", "daisy", "palace")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet-18", {}, "did you mean .*resnet18"),
        ("lenet5", {"pretrained": True}, "no ImageNet weights for 'lenet5'"),
        ("lenet5", {"num_classes": 0}, "num_classes and in_channels must be at least 1, got 0 and 3"),
        ("resnet18", {"in_channels": 0}, "got 1000 and 0"),
    ],
)
def test_mistakes(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_network(name, **options)


def test_no_file():
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        create_network("lenet5", pretrained="none.pth")


def test_skeletons_have_the_shapes_of_the_real_ones():
    with on_meta():
        bare = timm.create_model("mobilenetv3_small_050")
    real = timm.create_model("mobilenetv3_small_050")
    assert all(t.is_meta for t in bare.state_dict().values())
    assert [(k, v.shape) for k, v in bare.state_dict().items()] == [(k, v.shape) for k, v in real.state_dict().items()]
    assert torch.nn.Linear(3, 4).weight.abs().sum() > 0, "outside, layers are initialised again"


def test_own_networks_are_listed():
    assert set(OWN_NETWORKS) <= set(list_backbones())
