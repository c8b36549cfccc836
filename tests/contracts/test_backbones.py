"""Every backbone keeps the contract of `Backbone`: real channels and strides, any size, gradients, stages, devices.

All registered ones are tried, and at least one of each family of timm's and torchvision's.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from detseg.backbones import Backbone, create_backbone
from detseg.backbones.create import BACKBONES
from detseg.backbones.folding import fold_norms
from detseg.backbones.meta import on_meta
from tests.backbones.shaken_norms import shake_norms

FAMILIES = [
    "resnet18",
    "mobilenetv2_100",
    "tf_efficientnet_lite0",
    "densenet121",
    "convnext_atto",
    "repvgg_a0",
    # What takes long, or is wired much as one of the above.
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "resnet50",
            "vgg11_bn",
            "ghostnet_100",
            "mnasnet_small",
            "dla34",
            "hrnet_w18_small",
            "legacy_xception",
            "inception_v3",
            "nf_resnet26",
            "googlenet",
            "shufflenet_v2_x0_5",
            "mobilenetv3_small_050",
            "efficientnet_b0",
            "regnetx_002",
            "cspresnet50",
            "xception41",
            "seresnet18",
            "legacy_seresnet18",
        )
    ),
]
# Too large to run here: their shapes are enough.
SHAPES_ONLY = [
    "resnet34",
    "mobilenetv3_large_100",
    "tf_efficientnet_lite1",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "vgg16",
            "vgg19",
            "resnet101",
            "xception",
            "legacy_seresnet50",
            "tf_efficientnet_lite2",
            "inception_v4",
            "resnet152",
            "legacy_senet154",
            "densenet161",
        )
    ),
]
# The slow ones are VGG-16.
OWN = [pytest.param(name, marks=pytest.mark.slow) if "vgg16" in name else name for name in BACKBONES]
# LeNet's maps are finer than all others'; those of SSD have two.
STRIDES = {"lenet5": (1, 2, 4), "ssd_vgg16": (8, 16), "ssdlite_mobilenet_v3_large": (16, 32)}
# What cannot be cut whole: HRNet runs all its branches to the end, the Xceptions are tapped inside a block.
UNCUT = {"hrnet_w18_small", "legacy_xception", "xception41"}


@pytest.fixture(scope="module", params=[*OWN, *FAMILIES])
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


def test_maps_gradients_and_stages(backbone: Backbone) -> None:
    assert backbone.strides == STRIDES.get(backbone.name, (8, 16, 32))
    for size in (64, 96):  # two sizes: a map that is one cell short would need two strides
        assert [tuple(m.shape) for m in run(backbone, size, size)] == shapes(backbone, size, size)
    check_stages(backbone)
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


def check_stages(backbone: Backbone) -> None:
    """Each parameter in one stage; the stages from the stem to the deepest."""
    seen = [id(p) for stage in backbone.stages for module in stage for p in module.parameters()]
    assert sorted(seen) == sorted(id(p) for p in backbone.parameters())
    assert len(seen) == len(set(seen))
    assert all(any(True for m in stage for _ in m.parameters()) for stage in backbone.stages)
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


HEAVY = ("densenet121", "mobilenetv2_100")
ADAPTED = [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in FAMILIES]


@pytest.mark.parametrize("name", [*(name for name in BACKBONES if "vgg16" not in name), *ADAPTED])
def test_input_channels_and_fewer_strides(name: str) -> None:
    for in_channels, strides in ((1, (8, 16)), (4, (8,))):
        strides = STRIDES.get(name, strides)[: len(strides)]
        backbone = create_backbone(name, strides=strides, in_channels=in_channels)
        assert len(backbone.mean) == len(backbone.std) == backbone.in_channels == in_channels
        assert [tuple(m.shape) for m in run(backbone, 33, 40)] == shapes(backbone, 33, 40)
        with pytest.raises(ValueError, match=rf"\(N, {in_channels}, H, W\), got \(1, 3, 8, 8\)"):
            backbone(torch.zeros(1, 3, 8, 8))
        if name not in UNCUT:  # layers beyond the deepest stride do not exist
            assert max(backbone.stage_strides) <= strides[-1]
            assert not backbone.unused_parameters


@pytest.mark.parametrize("name", SHAPES_ONLY)
def test_large_ones_keep_the_contract_in_shapes(name: str) -> None:
    with on_meta():
        large = create_backbone(name)
        maps = large(torch.empty(1, 3, 97, 131))
    assert [tuple(m.shape) for m in maps] == shapes(large, 97, 131)
    check_stages(large)
