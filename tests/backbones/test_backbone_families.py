"""Every family keeps the contract of `Backbone`: real channels and strides, any size, gradients, stages."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from detseg.backbones import Backbone, create_backbone
from detseg.backbones.folding import fold_norms
from detseg.backbones.measure import on_meta
from tests.backbones.shaken_norms import shake_norms

FAMILIES = [
    "resnet18",
    "resnet50",
    "vgg11_bn",
    "vgg16",
    "mobilenetv2_100",
    "mobilenetv3_small_050",
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "densenet121",
    "regnetx_002",
    "convnext_atto",
    "ghostnet_100",
    "mnasnet_small",
    "dla34",
    "hrnet_w18_small",
    "repvgg_a0",
    "cspresnet50",
    "xception41",
    "legacy_xception",
    "inception_v3",
    "seresnet18",
    "nf_resnet26",
    "googlenet",
    "shufflenet_v2_x0_5",
    "lenet5",
    "alexnet_2012",
    "alexnet_2012_bn",
    "zfnet",
    "resnet34_units",
    "legacy_seresnet18",
]
# LeNet's maps are finer than all others'.
STRIDES = {"lenet5": (1, 2, 4)}


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(request.param, strides=STRIDES.get(request.param, (8, 16, 32)))


def shapes(backbone: Backbone, height: int, width: int) -> list[tuple[int, ...]]:
    """What the contract promises for one image."""
    pairs = zip(backbone.channels, backbone.strides, strict=True)
    return [(1, c, math.ceil(height / s), math.ceil(width / s)) for c, s in pairs]


@torch.no_grad()
def run(backbone: Backbone, height: int, width: int) -> list[Tensor]:
    return backbone.eval()(torch.randn(1, backbone.in_channels, height, width))


def test_channels_and_strides_are_the_real_ones(backbone: Backbone) -> None:
    assert backbone.strides == STRIDES.get(backbone.name, (8, 16, 32))
    for size in (64, 96):  # two sizes: a map that is one cell short would need two strides
        maps = run(backbone, size, size)
        assert [tuple(m.shape) for m in maps] == shapes(backbone, size, size)


def test_odd_sizes_give_whole_grids_and_finite_gradients(backbone: Backbone) -> None:
    backbone.train()
    backbone.zero_grad()
    maps = backbone(torch.randn(2, 3, 97, 131))
    assert [tuple(m.shape[1:]) for m in maps] == [s[1:] for s in shapes(backbone, 97, 131)]
    sum(m.square().mean() for m in maps).backward()
    for name, parameter in backbone.named_parameters():
        if name in backbone.unused_parameters:
            assert not parameter.requires_grad, name
        else:
            assert parameter.grad is not None, f"{name} gets no gradient and is not said to be unused"
            assert parameter.grad.isfinite().all(), name
    backbone.zero_grad()


def test_stages_partition_the_parameters(backbone: Backbone) -> None:
    seen = [id(p) for stage in backbone.stages for module in stage for p in module.parameters()]
    assert sorted(seen) == sorted(id(p) for p in backbone.parameters())
    assert len(seen) == len(set(seen))
    assert all(any(True for m in stage for _ in m.parameters()) for stage in backbone.stages)


def test_stages_go_from_stem_to_deepest(backbone: Backbone) -> None:
    assert list(backbone.stage_strides) == sorted(set(backbone.stage_strides))
    assert len(backbone.stages) == len(backbone.stage_strides) >= 3
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert any(m is first for module in backbone.stages[0] for m in module.modules())


@torch.no_grad()
def test_folding_norms_changes_no_map(backbone: Backbone) -> None:
    net = copy.deepcopy(backbone).eval().double()
    shake_norms(net)
    x = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    before = net(x)
    fold_norms(net.net, torch.zeros_like(x))
    for a, b in zip(before, net(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(a.abs().max()))


def test_shapes_on_a_gpu_that_is_not_there(backbone: Backbone) -> None:
    """No tensor is created on the wrong device in forward."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        state = {name: mode.from_tensor(tensor).to("cuda") for name, tensor in backbone.state_dict().items()}
        maps = torch.func.functional_call(backbone.eval(), state, (torch.zeros(1, 3, 97, 131, device="cuda"),))
    assert [tuple(m.shape) for m in maps] == shapes(backbone, 97, 131)
    assert {m.device.type for m in maps} == {"cuda"}


# Too large to run here: their shapes are enough.
LARGE = [
    "vgg19",
    pytest.param("inception_v4", marks=pytest.mark.slow),
    "resnet34",
    "resnet101",
    pytest.param("resnet152", marks=pytest.mark.slow),
    "xception",
    "legacy_seresnet50",
    pytest.param("legacy_senet154", marks=pytest.mark.slow),
    pytest.param("densenet161", marks=pytest.mark.slow),
    "mobilenetv3_large_100",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
]


@pytest.mark.parametrize("name", LARGE)
def test_large_ones_keep_the_contract_in_shapes(name: str) -> None:
    with on_meta():
        large = create_backbone(name)
        maps = large(torch.empty(1, 3, 97, 131))
    assert [tuple(m.shape) for m in maps] == shapes(large, 97, 131)
    test_stages_partition_the_parameters(large)
    test_stages_go_from_stem_to_deepest(large)


# What cannot be cut whole: HRNet runs all its branches to the end, the Xceptions are tapped inside a block.
UNCUT = {"hrnet_w18_small", "legacy_xception", "xception41"}


@pytest.mark.parametrize(("in_channels", "strides"), [(1, (8, 16)), (4, (8,))])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "vgg16"])  # vgg11_bn is its small twin
def test_input_channels_and_fewer_strides(name: str, in_channels: int, strides: tuple[int, ...]) -> None:
    strides = STRIDES.get(name, strides)[: len(strides)]
    backbone = create_backbone(name, strides=strides, in_channels=in_channels)
    assert len(backbone.mean) == len(backbone.std) == backbone.in_channels == in_channels
    assert [tuple(m.shape) for m in run(backbone, 33, 40)] == shapes(backbone, 33, 40)
    with pytest.raises(ValueError, match=rf"\(N, {in_channels}, H, W\), got \(1, 3, 8, 8\)"):
        backbone(torch.zeros(1, 3, 8, 8))
    if name not in UNCUT:  # layers beyond the deepest stride do not exist
        assert max(backbone.stage_strides) <= strides[-1]
        assert not backbone.unused_parameters


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "googlenet", "legacy_xception"])
def test_layers_beyond_the_deepest_stride_do_not_exist(name: str) -> None:
    backbone = create_backbone(name, strides=(8,))
    whole = sum(shape.numel() for shape in backbone.whole_network().values())
    assert sum(p.numel() for p in backbone.parameters()) < 0.1 * whole


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
    assert [tuple(m.shape) for m in run(create_backbone("resnet18"), 1, 1)] == [(1, c, 1, 1) for c in (128, 256, 512)]


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
