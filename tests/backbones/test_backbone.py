"""What a backbone is made of, by hand and against the libraries' own networks."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from detseg.backbones import create_backbone
from tests.params import slow_but


@pytest.mark.slow
def test_layers_beyond_the_deepest_stride_do_not_exist() -> None:
    for name in ("resnet18", "tf_efficientnet_lite0", "googlenet", "legacy_xception"):
        backbone = create_backbone(name, strides=(8,))
        whole = sum(shape.numel() for shape in backbone.whole_network().values())
        assert sum(p.numel() for p in backbone.parameters()) < 0.1 * whole, name


def test_stages_by_hand() -> None:
    lite = create_backbone("tf_efficientnet_lite0")
    blocks = lite.net.blocks
    assert lite.stage_strides == (2, 4, 8, 16, 32)
    assert lite.stages[0] == [lite.net.conv_stem, lite.net.bn1, *blocks[0]]
    assert lite.stages[3] == [*blocks[3], *blocks[4]]
    # HRNet's last layers give all strides, the finest first; they run after the deepest stage and belong to it.
    hrnet = create_backbone("hrnet_w18_small", strides=(4, 8, 16, 32))
    ending = [*hrnet.net.stage4, *(module[0] for module in hrnet.net.incre_modules)]
    assert hrnet.stages[-1][-len(ending) :] == ending


def test_one_pixel() -> None:
    assert [tuple(m.shape) for m in create_backbone("resnet18").eval()(torch.zeros(1, 3, 1, 1))] == [
        (1, c, 1, 1) for c in (128, 256, 512)
    ]


def test_a_cell_sees_the_same_whatever_the_size() -> None:
    """An image alone and the same image padded with zeros into a larger batch give the same cells."""
    backbone = create_backbone("tf_efficientnet_lite0").eval()
    x = torch.randn(1, 3, 97, 131)
    padded = torch.zeros(1, 3, 128, 160)
    padded[:, :, :97, :131] = x
    with torch.no_grad():
        alone, together = backbone(x), backbone(padded)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b[:, :, : a.shape[2], : a.shape[3]])


@pytest.mark.slow
def test_padding_inception_moves_its_cells_but_not_what_they_compute() -> None:
    """Oracle: timm's own, unpadded network.

    Its cell i at stride 8 is centred on pixel 13 + 8i (the offsets of the unpadded layers add up to 13), ours
    on 8i. On the image without its first 3 rows and columns, its cell i is our cell i + 2, wherever neither
    sees a border.
    """
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("inception_v3").eval()
    ours = create_backbone("inception_v3", strides=(8,)).eval()
    state = {k: v for k, v in theirs.state_dict().items() if f"net.{k}" in ours.state_dict()}
    ours.net.load_state_dict(state)
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        (mine,) = ours(x)
        expected = theirs.forward_intermediates(x[:, :, 3:, 3:], indices=[2], intermediates_only=True)[0]
    assert mine.shape[1:] == (288, 32, 32)
    inside = slice(11, 18)
    torch.testing.assert_close(mine[:, :, 13:20, 13:20], expected[:, :, inside, inside], rtol=1e-3, atol=1e-4)


def test_googlenet_is_torchvisions() -> None:
    """Oracle: torchvision's own forward, which first turns ImageNet's normalisation into 0.5's."""
    from torchvision.models import googlenet
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    theirs = googlenet(init_weights=False, aux_logits=False, transform_input=True).eval()
    ours = create_backbone("googlenet").eval()
    ours.net.load_state_dict({k: v for k, v in theirs.state_dict().items() if f"net.{k}" in ours.state_dict()})
    rgb = torch.rand(1, 3, 64, 64)
    imagenet_mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    imagenet_std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (ours.mean, ours.std))
    nodes = ["inception3b", "inception4e", "inception5b"]
    with torch.no_grad():
        expected = create_feature_extractor(theirs, nodes)((rgb - imagenet_mean) / imagenet_std)
        maps = ours((rgb - mean) / std)
    for mine, node in zip(maps, nodes, strict=True):
        torch.testing.assert_close(mine, next(v for k, v in expected.items() if k.startswith(node)))


def test_training_mode_and_hooks_are_left_alone_by_measuring() -> None:
    backbone = create_backbone("resnet18")
    assert all(m.training for m in backbone.modules())
    assert not any(m._forward_hooks for m in backbone.modules())
    assert all(p.device.type == "cpu" and p.grad is None for p in backbone.parameters())
    norm = next(m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_mean is not None and norm.running_mean.eq(0).all()


@pytest.mark.parametrize("name", slow_but(["repvgg_a0"], ["repvgg_a0", "mobilenetv3_small_050", "xception41p"]))
def test_what_is_measured_the_short_way_is_what_torch_does(name, monkeypatch):
    short, long = measured(name), []
    monkeypatch.setattr("detseg.backbones.meta._Short", lambda: nullcontext(long.append(name)))
    assert measured(name) == short and len(long) > 1


def measured(name):
    backbone = create_backbone(name, strides=(8, 16))
    shapes = {key: tensor.shape for key, tensor in backbone.state_dict().items()}
    return backbone.channels, backbone._stage_names, backbone.unused_parameters, shapes
