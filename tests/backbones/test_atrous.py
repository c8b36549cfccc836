"""The dilated last stage: its even cells are the cells of the network as it was."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from detseg.backbones import create_backbone
from detseg.backbones.atrous import dilate_last_stage
from detseg.backbones.folding import fold_norms
from detseg.backbones.quick_convolutions import quicken

FAMILIES = [
    "resnet18",
    "tf_efficientnet_lite0",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("resnet50d", "vgg11_bn", "mobilenetv2_100", "convnext_atto", "regnetx_002", "googlenet")
    ),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_even_cells_are_those_of_the_undilated_network(name: str) -> None:
    torch.manual_seed(0)
    plain = create_backbone(name, strides=(8, 32)).eval()
    for module in plain.modules():  # statistics other than 0 and 1, so that zero padding is not what norms give
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
    dilated = dilate_last_stage(copy.deepcopy(plain)).eval()
    assert dilated.strides == (8, 16) and dilated.channels == plain.channels
    assert set(dilated.state_dict()) == set(plain.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before, after = plain(x), dilated(x)
    torch.testing.assert_close(before[0], after[0])
    assert after[1].shape[-2:] == (4, 6)
    torch.testing.assert_close(after[1][..., ::2, ::2], before[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(after[1][..., 1::2, ::2], before[1], rtol=1e-3, atol=1e-4), "the others are new"


def test_the_contract_holds() -> None:
    backbone = dilate_last_stage(create_backbone("tf_efficientnet_lite0", strides=(4, 8, 32)))
    assert backbone.stage_strides[-1] == backbone.size_multiple == 16
    assert [tuple(m.shape[-2:]) for m in backbone(torch.randn(2, 3, 33, 47))] == [(9, 12), (5, 6), (3, 3)]
    seen = {id(p) for stage in backbone.stages for module in stage for p in module.parameters()}
    assert seen == {id(p) for p in backbone.parameters()}


def test_folding_and_quick_gradients_change_nothing() -> None:
    backbone = dilate_last_stage(create_backbone("tf_efficientnet_lite0", strides=(32,))).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = backbone(x)
    fold_norms(backbone.net, torch.zeros(1, 3, 128, 128))
    quicken(backbone)
    torch.testing.assert_close(backbone(x), expected, rtol=1e-3, atol=1e-4)
    sum(m.sum() for m in backbone(x)).backward()


@pytest.mark.slow
def test_quick_gradients_first_change_nothing() -> None:
    quick = create_backbone("tf_efficientnet_lite0", strides=(32,)).eval()
    expected = dilate_last_stage(copy.deepcopy(quick)).eval()
    assert quicken(quick)
    quick = dilate_last_stage(quick).eval()
    x = torch.randn(1, 3, 64, 64)
    (wanted,) = expected(x)
    torch.testing.assert_close(quick(x)[0], wanted)
    with torch.no_grad():
        torch.testing.assert_close(quick(x)[0], wanted)


def test_on_a_gpu_that_is_not_there() -> None:
    backbone = dilate_last_stage(create_backbone("tf_efficientnet_lite0", strides=(32,))).eval()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        state = {name: mode.from_tensor(tensor).to("cuda") for name, tensor in backbone.state_dict().items()}
        (x,) = torch.func.functional_call(backbone, state, (torch.zeros(1, 3, 97, 131, device="cuda"),))
    assert x.shape[-2:] == (7, 9) and x.device.type == "cuda"


def test_what_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match=r"strides \(8, 16, 32\)"):
        dilate_last_stage(create_backbone("resnet10t", strides=(8, 16, 32)))
    with pytest.raises(ValueError, match="cannot be a backbone"):
        dilate_last_stage(create_backbone("hrnet_w18_small", strides=(8, 32)))
