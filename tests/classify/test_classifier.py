"""The classifier: shapes, losses, dropout, any device."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import create_backbone, create_deepest, create_network
from detseg.classify import Classifier
from detseg.classify.classifier import NetworkClassifier


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier(create_deepest("test_efficientnet"), 5)


def make_images(count=3, size=64):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def test_logits_and_losses(model):
    model.eval()
    images, labels = make_images(), torch.tensor([0, 4, 2])
    logits = model(images)
    assert logits.shape == (3, 5)
    losses = model(images, labels)
    assert losses.keys() == {"loss_class"}
    assert torch.allclose(losses["loss_class"], F.cross_entropy(logits, labels))
    model.train()
    assert isinstance(model(images), torch.Tensor)


def test_uint8_and_float_images_are_the_same(model):
    model.eval()
    images = make_images()
    network = NetworkClassifier(create_network("lenet5", num_classes=4)).eval()
    for each, given in ((model, images), (network, make_images(2, 32))):
        for dtype in (torch.float32, torch.float64):
            assert torch.allclose(each(given), each(given.to(dtype) / 255), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types_answer_in_float32(model, dtype):
    images = make_images()
    expected = model.eval()(images)
    logits = model.to(dtype)(images)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=0.02)
    model(images, torch.tensor([0, 4, 2]))["loss_class"].backward()
    assert model.classifier.weight.grad.dtype == dtype


def test_the_features_are_what_the_head_sees(model):
    model.eval()
    images = make_images()
    features = model.features(images)
    assert features.shape == (3, model.backbone.channels[-1])
    assert torch.allclose(model.classifier(features), model(images))


@pytest.mark.parametrize("size", [33, 64, 100])
def test_any_size(model, size):
    assert model.eval()(make_images(2, size)).shape == (2, 5)


def test_label_smoothing_keeps_the_best_answer_and_raises_its_loss():
    torch.manual_seed(0)
    backbone = create_deepest("test_efficientnet")
    plain, smooth = (Classifier(backbone, 3, label_smoothing=s).eval() for s in (0.0, 0.3))
    with torch.no_grad():
        smooth.load_state_dict(plain.state_dict())
        plain.classifier.bias.copy_(torch.tensor([9.0, 0, 0]))
        smooth.classifier.bias.copy_(torch.tensor([9.0, 0, 0]))
    images, labels = make_images(), torch.zeros(3, dtype=torch.int64)
    assert float(plain(images, labels)["loss_class"]) < 0.01
    # 0.3 / 3 of the target lies on each of two classes that are 9 less likely, in logs.
    assert float(smooth(images, labels)["loss_class"]) == pytest.approx(0.3 * 2 / 3 * 9, rel=0.02)


def test_dropout_only_while_training(model):
    images = make_images()
    model.train()
    for module in model.backbone.modules():
        module.eval()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_every_part_learns(model):
    model.train()
    model(make_images(), torch.tensor([0, 1, 2]))["loss_class"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "two classes"),
        ({"dropout": 1.0}, "dropout"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        Classifier(create_deepest("test_efficientnet"), **({"num_classes": 3} | options))


def test_on_another_device():
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model = Classifier(create_deepest("test_efficientnet"), 4)
        images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device="cuda")
        assert model(images).device.type == "cuda"
        losses = model(images, torch.zeros(2, dtype=torch.int64, device="cuda"))
        assert losses["loss_class"].device.type == "cuda"


# ------------------------------------------------------------------ the deepest map


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("tf_efficientnet_lite0", 320, 32),
        pytest.param("resnet18", 512, 32, marks=pytest.mark.slow),
        ("lenet5", 120, 4),
        pytest.param("alexnet", 256, 32, marks=pytest.mark.slow),
        ("mobilenet_v2", 1280, 32),
    ],
)
def test_every_kind_of_network_has_a_deepest_map(name, channels, stride):
    backbone = create_deepest(name)
    assert (backbone.channels, backbone.strides) == ((channels,), (stride,))
    side = 2 * stride if stride > 4 else 32
    assert backbone.eval()(torch.zeros(1, 3, side, side))[0].shape == (1, channels, side // stride, side // stride)
    assert len(backbone.stages) == len(backbone.stage_strides) >= 3


def test_trained_weights_and_files_of_them(tmp_path):
    trained = create_deepest("tf_efficientnet_lite0", pretrained=True)
    same = create_backbone("tf_efficientnet_lite0", pretrained=True, strides=(32,))
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), same.parameters(), strict=True))
    first = create_deepest("test_efficientnet")
    torch.save(first.net.state_dict(), tmp_path / "weights.pt")
    second = create_deepest("test_efficientnet", pretrained=tmp_path / "weights.pt")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_cannot_be_had_is_told():
    with pytest.raises(ValueError, match="no backbone is named 'resnet81'"):
        create_deepest("resnet81")
    with pytest.raises(ValueError, match="no ImageNet weights for 'lenet5'"):
        create_deepest("lenet5", pretrained=True)
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        create_deepest("test_efficientnet", pretrained="nothing.pt")


def test_hidden_layers_have_the_widths_that_are_asked_for():
    backbone = create_deepest("lenet5")
    model = Classifier(backbone, 10, head=(1000, 500, 150), dropout=0.3)
    linear = [layer for layer in model.hidden if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (backbone.channels[-1], 1000), (1000, 500), (500, 150),
    ]  # fmt: skip
    assert model.classifier.in_features == 150
    images = torch.rand(2, 3, 64, 64)
    model.eval()
    expected = model.features(images)
    for layer in linear:
        expected = (expected @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(model(images), expected @ model.classifier.weight.T + model.classifier.bias)
    torch.testing.assert_close(model.plain(images), model(images))
    model.train()(images, torch.tensor([1, 2]))["loss_class"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.hidden.parameters())
