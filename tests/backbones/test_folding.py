"""Folding fixed batch norms into convolutions changes nothing but the time it takes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from detseg.backbones import create_backbone
from detseg.backbones.folding import fold_backbone, fold_norms
from tests.backbones.shaken_norms import shake_norms


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("tf_efficientnet_lite0", True),
        ("resnet18", True),
        ("mobilenetv3_small_050", True),
        ("regnetx_002", True),
        ("repvgg_a0", False),  # some norms stand alone, on the identity branch
        ("densenet121", False),  # norms before convolutions
        ("convnext_atto", True),  # no batch norm at all
        ("xception41p", False),  # some convolutions' maps are also read before the norm
    ],
)
@torch.no_grad()
def test_outputs_stay_and_norms_go(name: str, every: bool) -> None:
    backbone = create_backbone(name, strides=(8, 16, 32)).eval()
    norms = shake_norms(backbone)
    stages = [sum(p.numel() for m in stage for p in m.parameters()) for stage in backbone.stages]
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    before = backbone(x)
    folded = fold_norms(backbone.net, x)
    assert folded == norms if every else 0 < folded < norms
    assert sum(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()) == norms - folded
    for a, b in zip(before, backbone(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    after = [sum(p.numel() for m in stage for p in m.parameters()) for stage in backbone.stages]
    assert len(after) == len(stages) and all(n > 0 for n in after), "stages can still be frozen"


@pytest.mark.parametrize(("name", "first", "then", "folded"), [
    ("resnet18", (32,), (8, 16, 32), True),
    ("resnet18", (4, 8, 16, 32), (4, 8), True),  # two stages of the file have no place
    ("resnet18", (16,), (4, 8), False),
    pytest.param("densenet121", (8, 16), (4, 8), True, marks=pytest.mark.slow),  # some norms stay
    ("repvgg_a0", (8,), (4, 8), True),
    ("repvgg_a0", (8,), (4, 8), False),
    ("convnext_atto", (16,), (8,), True),  # no batch norm at all
])  # fmt: skip
def test_files_of_folded_backbones(
    name: str, first: tuple[int, ...], then: tuple[int, ...], folded: bool, tmp_path: Path
) -> None:
    """A file's weights get their places by name, folded or not, whatever maps either network gives out."""
    trained = create_backbone(name, strides=first)
    norms = shake_norms(trained)
    if folded:
        fold_backbone(trained)
    # As in the file of a trained model: with the rest of it.
    state = {f"backbone.{key}": value for key, value in trained.state_dict().items()} | {"fc.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "model.pt")
    new = create_backbone(name, strides=then, pretrained=tmp_path / "model.pt")
    assert sum(isinstance(m, nn.BatchNorm2d) for m in new.modules()) < norms or not (folded and norms)
    for key, value in new.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key
    assert new.strides == then


def test_training_mode_and_gradients_survive() -> None:
    backbone = create_backbone("resnet18", strides=(8, 16, 32)).train()
    fold_norms(backbone.net, torch.zeros(1, 3, 64, 64))
    assert backbone.training
    sum(map(torch.sum, backbone(torch.randn(2, 3, 64, 64)))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


class Net(nn.Module):
    """A convolution and a norm, and what is done between and beside them."""

    def __init__(self, forward: Callable[[nn.Conv2d, nn.BatchNorm2d, Tensor], object]) -> None:
        super().__init__()
        self.conv, self.norm, self.way = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), forward

    def forward(self, x: Tensor) -> object:
        return self.way(self.conv, self.norm, x)


def plus_itself(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return norm(x) + x


@pytest.mark.parametrize(
    ("folded", "forward"),
    [
        pytest.param(1, lambda conv, norm, x: norm(conv(x)), id="norm after convolution"),
        pytest.param(1, lambda conv, norm, x: norm(conv(x)).relu_() + x, id="whatever comes after the norm"),
        pytest.param(0, lambda conv, norm, x: norm(conv(conv(x))), id="convolution used twice"),
        pytest.param(0, lambda conv, norm, x: norm(norm(conv(x))), id="norm used twice"),
        pytest.param(0, lambda conv, norm, x: norm(conv(x).relu_()), id="activation in place between them"),
        pytest.param(0, lambda conv, norm, x: norm(conv(x).relu()), id="activation between them"),
        pytest.param(0, lambda conv, norm, x: plus_itself(norm, conv(x)), id="map read after the norm"),
        pytest.param(0, lambda conv, norm, x: [y := conv(x), norm(y)], id="map given out"),
        pytest.param(0, lambda conv, norm, x: [y := conv(x), norm(y)][1] + y[:, :1], id="part of the map read"),
        pytest.param(0, lambda conv, norm, x: norm(conv(x)) + conv.weight.sum(), id="weights used elsewhere"),
        pytest.param(0, lambda conv, norm, x: norm(conv2d(x, conv.weight * 2, conv.bias)), id="weights computed"),
        pytest.param(0, lambda conv, norm, x: norm(conv2d(x, conv.weight)), id="without the bias"),
    ],
)
@torch.no_grad()
def test_only_a_norm_that_alone_takes_the_map_is_folded(folded: int, forward: Callable[..., object]) -> None:
    torch.manual_seed(0)
    net = Net(forward).double().eval()
    shake_norms(net)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    before = net(x)
    assert fold_norms(net, torch.zeros_like(x)) == folded
    torch.testing.assert_close(net(x), before)


@torch.no_grad()
def test_standardised_weights_are_no_plain_convolution() -> None:
    """timm's takes out of its weights the scale that the norm would bring in."""
    from timm.layers import StdConv2d

    net = nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    shake_norms(net)
    x = torch.randn(1, 3, 8, 8)
    before = net(x)
    assert fold_norms(net, x) == 0
    torch.testing.assert_close(net(x), before)


@torch.no_grad()
def test_a_norm_with_two_names_goes_under_both() -> None:
    net = nn.ModuleDict({"norm": nn.BatchNorm2d(4)})
    net["chain"] = nn.Sequential(nn.Conv2d(3, 4, 3), net["norm"])
    net.forward = net["chain"].forward
    shake_norms(net.eval())
    x = torch.randn(1, 3, 8, 8)
    before = net(x)
    assert fold_norms(net, x) == 1
    torch.testing.assert_close(net(x), before)


def test_what_is_folded_does_not_hang_on_numbers() -> None:
    """A saved model is built anew without its numbers, and must get the layers it was saved with."""
    for fill in (0.0, 1.0, float("nan")):
        net = Net(lambda conv, norm, x: norm(conv(x)))
        for parameter in net.parameters():
            parameter.data.fill_(fill)
        assert fold_norms(net, torch.zeros(1, 3, 8, 8)) == 1
