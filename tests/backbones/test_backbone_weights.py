"""Files of weights: what fits is copied exactly, what does not fit is an error that names it."""

import logging
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from detseg.backbones import WeightReport, create_backbone, load_weights
from detseg.backbones.weights import adapt_input, copy_weights, read_weights, rename_by_position
from detseg.reading import FileError


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every tensor another random one, running statistics too, so that nothing passes unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.2, 1, generator=generator)
    return model.eval()


def save(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return randomised(timm.create_model("resnet18")).state_dict()


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("resnet18", ".safetensors"),
        ("resnet18", ".pth"),
        pytest.param("efficientnet_b0", ".pth", marks=pytest.mark.slow),
        ("convnext_atto", ".safetensors"),
        pytest.param("vgg11_bn", ".safetensors", marks=pytest.mark.slow),
        ("mobilenetv3_small_050", ".safetensors"),
        pytest.param("mobilenetv3_small_050", ".pth", marks=pytest.mark.slow),
        pytest.param("densenet121", ".pth", marks=pytest.mark.slow),
        pytest.param("regnetx_002", ".safetensors", marks=pytest.mark.slow),
        pytest.param("repvgg_a0", ".safetensors", marks=pytest.mark.slow),
        pytest.param("hrnet_w18_small", ".safetensors", marks=pytest.mark.slow),
        pytest.param("legacy_xception", ".pth", marks=pytest.mark.slow),
    ],
)
def test_a_classifiers_file_gives_the_classifiers_features(name: str, suffix: str, tmp_path: Path) -> None:
    """Oracle: timm's `forward_intermediates` of the classifier that was saved."""
    torch.manual_seed(0)
    model = randomised(timm.create_model(name))
    # VGG's dense layers are half a gigabyte; the test has no use for them.
    state = {k: v for k, v in model.state_dict().items() if v.numel() < 5_000_000}
    path = save(state, tmp_path / f"weights{suffix}")
    backbone = create_backbone(name, pretrained=path).eval()

    report = backbone.weight_report
    assert report is not None and not report.missing and not report.reshaped
    assert set(report.copied) == set(backbone.state_dict())
    assert len(report.copied) + len(report.skipped) == len(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = {m.shape[-1]: m for m in backbone(x)}
        if name in (
            "legacy_xception",
            "hrnet_w18_small",
        ):  # no intermediates to compare with: compare tensors
            for target, tensor in backbone.net.state_dict().items():
                torch.testing.assert_close(tensor, state[target.removeprefix("body.")])
            return
        expected = model.forward_intermediates(x, intermediates_only=True)
    by_size = {m.shape[-1]: m for m in expected}
    for size, mine in maps.items():
        torch.testing.assert_close(mine, by_size[size])


@pytest.mark.slow
def test_torchvisions_googlenet(tmp_path: Path) -> None:
    from torchvision.models import googlenet

    model = randomised(googlenet(init_weights=False, aux_logits=True))
    path = save(model.state_dict(), tmp_path / "googlenet.pth")
    backbone = create_backbone("googlenet", pretrained=path)
    assert any(name.startswith("aux1.") for name in backbone.weight_report.skipped)
    for name, tensor in backbone.net.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


def test_prefixes_are_stripped(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    backbone = create_backbone("resnet18")
    for prefix in ("module.", "backbone.", "model.", "module.model.", "_orig_mod.", "net."):
        nn.init.zeros_(backbone.net.layer4[1].conv2.weight)
        copy_weights(backbone, {prefix + k: v for k, v in resnet_state.items()}, prefix)
        assert torch.equal(backbone.net.layer4[1].conv2.weight, resnet_state["layer4.1.conv2.weight"]), prefix


def test_wrapped_state_dicts(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    for key in ("state_dict", "model", "model_state_dict"):
        torch.save({"epoch": 3, key: resnet_state}, tmp_path / "a.pth")
        tensors = read_weights(tmp_path / "a.pth")
        assert tensors.keys() == resnet_state.keys(), key
        assert torch.equal(tensors["conv1.weight"], resnet_state["conv1.weight"]), key


def test_averaged_weights_are_preferred(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    raw = {k: torch.zeros_like(v) for k, v in resnet_state.items()}
    torch.save({"state_dict": raw, "state_dict_ema": resnet_state}, tmp_path / "a.pth")
    backbone = create_backbone("resnet18", pretrained=tmp_path / "a.pth")
    torch.testing.assert_close(backbone.net.conv1.weight, resnet_state["conv1.weight"])


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_atto", "legacy_xception"))]
)
def test_a_saved_backbone_loads_again_also_with_fewer_strides(name: str, tmp_path: Path) -> None:
    source = randomised(create_backbone(name))
    path = save(source.state_dict(), tmp_path / "a.safetensors")
    again = create_backbone(name, pretrained=path)
    assert not again.weight_report.skipped
    fewer = create_backbone(name, pretrained=path, strides=(8, 16)).eval()
    assert fewer.weight_report.skipped
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(source(x), fewer(x), strict=False):
            torch.testing.assert_close(a, b)


def test_the_backbone_part_of_a_larger_model(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {f"backbone.net.{k}": v for k, v in resnet_state.items() if not k.startswith("fc.")}
    state |= {"neck.weight": torch.zeros(3), "head.weight": torch.zeros(2)}
    backbone = create_backbone("resnet18", pretrained=save(state, tmp_path / "a.safetensors"))
    assert set(backbone.weight_report.skipped) == {"neck.weight", "head.weight"}
    torch.testing.assert_close(backbone.net.conv1.weight, resnet_state["conv1.weight"])


def test_the_report_is_logged(
    resnet_state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = create_backbone("resnet18")
    path = save(resnet_state, tmp_path / "a.safetensors")
    with caplog.at_level(logging.DEBUG, logger="detseg"):
        report = load_weights(backbone, path)
    assert isinstance(report, WeightReport) and backbone.weight_report is report
    assert set(report.skipped) == {"fc.weight", "fc.bias"}
    assert str(path) in caplog.text and "120 tensors copied, 2 skipped (fc" in caplog.text


# --- input channels ---


def test_grey_images_give_what_colour_images_gave(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(resnet_state, tmp_path / "a.safetensors")
    grey, colour = (create_backbone("resnet18", pretrained=path, in_channels=c).eval() for c in (1, 3))
    assert grey.weight_report.reshaped == ("net.conv1.weight",)
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        for a, b in zip(grey(x), colour(x.expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_four_channels_repeat_the_colours(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(resnet_state, tmp_path / "a.safetensors")
    weight = create_backbone("resnet18", pretrained=path, in_channels=4).net.conv1.weight
    old = resnet_state["conv1.weight"]
    torch.testing.assert_close(weight, torch.cat([old, old[:, :1]], 1) * 0.75)


def test_adapted_input_is_timms() -> None:
    from timm.models import adapt_input_conv

    weight = torch.randn(5, 3, 3, 3)
    for in_channels in (1, 2, 3, 4, 7):
        torch.testing.assert_close(adapt_input(weight, in_channels), adapt_input_conv(in_channels, weight))


def test_both_input_convolutions_of_repvgg_are_adapted(tmp_path: Path) -> None:
    path = save(timm.create_model("repvgg_a0").state_dict(), tmp_path / "a.safetensors")
    report = create_backbone("repvgg_a0", pretrained=path, in_channels=4).weight_report
    assert len(report.reshaped) == 2


# --- what does not fit ---


def refused(state: dict[str, Tensor], path: Path, match: str, **options: object) -> None:
    """`state` is refused with a message, and nothing was copied."""
    backbone = create_backbone("resnet18", **options)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        load_weights(backbone, save(state, path))
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert backbone.weight_report is None


def test_a_tensor_that_is_missing(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    for name in ("layer3.0.conv2.weight", "bn1.running_var", "layer1.1.bn2.bias"):
        state = {k: v for k, v in resnet_state.items() if k != name}
        refused(state, tmp_path / "a.pth", f"net.{name} .* gets nothing")


def test_a_name_that_is_misspelt_shows_the_near_one(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {k.replace("layer1.0.conv1", "layer1.0.convolution1"): v for k, v in resnet_state.items()}
    refused(state, tmp_path / "a.pth", r"layer1.0.conv1.weight .* \(near: layer1.0.convolution1.weight\)")


def test_another_shape_names_both(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = resnet_state | {"layer2.0.conv1.weight": torch.zeros(128, 64, 1, 1)}
    refused(state, tmp_path / "a.pth", r"\(128, 64, 3, 3\), .* has \(128, 64, 1, 1\)")


def test_a_transposed_shape_of_the_same_size_is_refused(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    name = "layer2.0.conv1.weight"
    state = resnet_state | {name: resnet_state[name].transpose(0, 1).contiguous()}
    refused(state, tmp_path / "a.pth", r"\(128, 64, 3, 3\), .* has \(64, 128, 3, 3\)")


def test_a_deeper_network_of_the_same_family_is_refused(tmp_path: Path) -> None:
    """Every tensor of ResNet-18 has its namesake of the same shape in ResNet-34: only the surplus tells."""
    refused(timm.create_model("resnet34").state_dict(), tmp_path / "a.pth", r"layer1.2.conv1.weight .* no place")


def test_a_shallower_network_is_refused(tmp_path: Path) -> None:
    refused(timm.create_model("resnet10t").state_dict(), tmp_path / "a.pth", "gets nothing")


def test_values_that_are_not_finite(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        broken = resnet_state["layer1.0.bn1.weight"].clone()
        broken[3] = value
        refused(resnet_state | {"layer1.0.bn1.weight": broken}, tmp_path / "a.pth", "bn1.weight .* not finite")


def test_whole_numbers_are_no_weights(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    quantised = resnet_state["conv1.weight"].mul(100).to(torch.int8)
    refused(resnet_state | {"conv1.weight": quantised}, tmp_path / "a.pth", "holds torch.int8")
    kinds = {
        "bn1.weight": torch.float8_e4m3fn,
        "bn1.bias": torch.float8_e4m3fnuz,
        "bn1.running_mean": torch.complex64,
        "bn1.num_batches_tracked": torch.complex64,
    }
    others = {name: resnet_state[name].to(dtype) for name, dtype in kinds.items()}
    told = r"[\s\S]*".join(f"{name} in the source holds {dtype}, " for name, dtype in kinds.items())
    refused(resnet_state | others, tmp_path / "a.safetensors", told)


def test_half_precision_is_widened(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in resnet_state.items()}
    backbone = create_backbone("resnet18", pretrained=save(half, tmp_path / "a.safetensors"))
    assert backbone.net.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(backbone.net.conv1.weight, half["conv1.weight"].float())


def test_four_channel_weights_do_not_become_three(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = resnet_state | {"conv1.weight": torch.zeros(64, 4, 7, 7)}
    refused(state, tmp_path / "a.pth", r"\(64, 3, 7, 7\), .* has \(64, 4, 7, 7\)")
    refused(state, tmp_path / "a.pth", r"\(64, 1, 7, 7\), .* has \(64, 4, 7, 7\)", in_channels=1)


def test_old_files_lack_batch_counters(resnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {k: v for k, v in resnet_state.items() if not k.endswith("num_batches_tracked")}
    report = create_backbone("resnet18", pretrained=save(state, tmp_path / "a.pth")).weight_report
    assert report.missing and all(name.endswith("num_batches_tracked") for name in report.missing)


# --- files ---


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"conv1.weight": torch.zeros(1), "trap": Trap()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="refused, because reading them can run code"):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_files(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=f"a{suffix}"):
        read_weights(tmp_path / f"a{suffix}")


def test_files_without_a_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_weights(tmp_path / "a.pth")


def test_files_that_would_fill_time_or_memory(tmp_path: Path) -> None:
    path, circle = tmp_path / "a.pth", {}
    circle["state_dict"] = circle
    refusals = [
        (circle, "a.pth: cannot be read: it holds no state dict"),
        ({"a": torch.zeros(2).to_sparse()}, "a.pth: cannot be read: a is sparse, nested, quantised or empty"),
        ({"a": torch.empty(2, device="meta")}, "a.pth: cannot be read: a is sparse, nested, quantised or empty"),
    ]
    for content, message in refusals:
        torch.save(content, path)
        with pytest.raises(FileError, match=message):
            read_weights(path)
    for empty in ("b.pth", "b.pt", "b.safetensors"):
        (tmp_path / empty).touch()
        with pytest.raises(FileError, match=f"{empty}: cannot be read: "):
            read_weights(tmp_path / empty)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(FileError, match="its content is compressed"):
        read_weights(path)


def test_names_and_shapes_that_would_fill_time_or_memory() -> None:
    lenet = create_backbone("lenet5", strides=(4,))
    state = {f"{'module.' * 100_000}{name}": tensor for name, tensor in lenet.state_dict().items()}
    with pytest.raises(ValueError, match="gets nothing"):
        copy_weights(lenet, state, "source")
    first = next(iter(lenet.state_dict()))
    wide = torch.zeros(()).expand(10**6, 10**6)
    with pytest.raises(ValueError, match=r"has \(1000000, 1000000\)"):
        copy_weights(lenet, lenet.state_dict() | {first: wide}, "source")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        create_backbone("resnet18", pretrained=tmp_path / "absent.pth")


# --- by position ---

NAMES = {"a.weight": torch.Size([2, 3]), "a.bias": torch.Size([2])}


def test_position() -> None:
    tensors = {"x.weight": torch.ones(2, 3), "x.bias": torch.zeros(2)}
    assert list(rename_by_position(tensors, NAMES, "file")) == ["a.weight", "a.bias"]


def test_position_checks_everything() -> None:
    weight, bias = torch.ones(2, 3), torch.zeros(2)
    for tensors, message in [
        ({"x.weight": torch.ones(3, 2), "x.bias": bias}, r"x.weight \(3, 2\) .* a.weight \(2, 3\)"),
        ({"x.weight": weight, "x.scale": bias}, r"x.scale \(2,\) .* a.bias"),
        ({"x.weight": weight}, r"nothing \(\) .* a.bias \(2,\)"),
        ({"x.weight": weight, "x.bias": bias, "y.bias": bias}, r"y.bias \(2,\) .* nothing"),
    ]:
        with pytest.raises(ValueError, match=message):
            rename_by_position(tensors, NAMES, "file")
