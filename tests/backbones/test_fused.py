"""Convolutions that do the activation behind them: the results of both, one after the other."""

import copy
from collections.abc import Callable

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import create_backbone, fused
from detseg.backbones.folding import fold_backbone
from detseg.backbones.fused import FusedConv2d, fuse_activations
from detseg.backbones.quick_convolutions import quicken

ACTIVATIONS = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.SiLU(), nn.Hardswish()]


def fused_and_plain(*layers: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """A chain with its activation fused, and as it was."""
    plain = nn.Sequential(*layers).eval()
    chain = copy.deepcopy(plain)
    quicken(chain)
    assert fuse_activations(chain, torch.zeros(1, layers[0].in_channels, 8, 8)) == 1
    assert chain.state_dict().keys() == plain.state_dict().keys()
    return chain, plain


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@torch.no_grad()
def test_equals_both_layers(activation: nn.Module) -> None:
    torch.manual_seed(0)
    for conv in (
        nn.Conv2d(6, 8, 1),
        nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(6, 6, 5, padding=2, groups=6),
        Conv2dSame(6, 6, 3, 2, groups=6),
        Conv2dSame(6, 6, 5, 2, groups=6, bias=False),
        Conv2dSame(6, 6, 5, 4, groups=6),  # padded by two numbers that differ by more than one, if at all
        Conv2dSame(6, 5, 3, 2),
    ):
        chain, plain = fused_and_plain(conv, activation)
        for size in ((8, 8), (9, 8), (7, 13), (1, 1), (20, 31)):
            x = 5 * torch.randn(2, 6, *size)
            for layout in (torch.channels_last, torch.contiguous_format):
                given = x.contiguous(memory_format=layout)
                torch.testing.assert_close(chain(given), plain(given), msg=lambda m, c=conv: f"{c}: {m}")
        assert chain(torch.zeros(0, 6, 8, 8)).shape == plain(torch.zeros(0, 6, 8, 8)).shape


@torch.no_grad()
def test_bounds_are_exact_in_bfloat16() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not compute in bfloat16")
    chain, plain = fused_and_plain(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU6())
    x = 5 * torch.randn(2, 16, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = chain(x), plain(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, wanted)
    assert chain(x).dtype == torch.float32


def test_gradients_are_those_of_both_layers() -> None:
    chain, plain = fused_and_plain(nn.Conv2d(3, 4, 3), nn.ReLU6(inplace=True))
    results = []
    for net in (chain, plain):
        x = torch.linspace(-9, 9, 3 * 49).reshape(1, 3, 7, 7).requires_grad_()
        net(x).square().sum().backward()
        results.append([x.grad, *(p.grad for p in net.parameters())])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)
    assert all(torch.any(gradient != 0) for gradient in results[0])


@torch.no_grad()
def test_weights_that_change_are_seen() -> None:
    chain, plain = fused_and_plain(nn.Conv2d(3, 4, 3), nn.ReLU())
    x = torch.randn(1, 3, 8, 8)
    for change in (
        lambda net: net[0].weight.mul_(2),
        lambda net: net[0].bias.add_(1),
        lambda net: net.load_state_dict({name: -tensor for name, tensor in net.state_dict().items()}),
        lambda net: setattr(net[0], "weight", nn.Parameter(net[0].weight.flip(0))),
        lambda net: net.to(memory_format=torch.channels_last),
    ):
        torch.testing.assert_close(chain(x), plain(x))
        change(chain)
        change(plain)
    torch.testing.assert_close(chain(x), plain(x))
    torch.testing.assert_close(copy.deepcopy(chain)(x), plain(x))


@torch.no_grad()
def test_weights_are_laid_out_for_each_shape_and_for_few() -> None:
    """A layer that several levels share is not laid out anew whenever the next of them comes."""
    chain, plain = fused_and_plain(nn.Conv2d(64, 64, 1), nn.SiLU())
    images = [torch.randn(1, 64, side, side) for side in (8, 16, 32)]
    for x in images:
        torch.testing.assert_close(chain(x), plain(x))
    laid_out = [kept.weight for kept in chain[0]._resting.values()]
    for x in images:
        chain(x)
    assert all(kept.weight is weight for kept, weight in zip(chain[0]._resting.values(), laid_out, strict=True))
    for side in range(1, 20):
        x = torch.randn(1, 64, side, side)
        torch.testing.assert_close(chain(x), plain(x))
    assert len(chain[0]._resting) == fused.SHAPES


class Net(nn.Module):
    """A convolution and an activation, used as a test wants it."""

    def __init__(self, forward: Callable[..., object], inplace: bool) -> None:
        super().__init__()
        self.conv, self.act, self.use = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace), forward

    def forward(self, x: Tensor) -> object:
        return self.use(self.conv, self.act, x)


@pytest.mark.parametrize(
    ("count", "forward"),
    [
        ((1, 1), lambda conv, act, x: act(conv(x))),
        ((1, 1), lambda conv, act, x: [act(conv(x)), act(conv(x + 1))]),
        ((1, 1), lambda conv, act, x: act(conv(x)) + x),
        ((0, 1), lambda conv, act, x: [y := conv(x), act(y)]),  # in place both are the same
        ((0, 1), lambda conv, act, x: [y := conv(x), act(y) + y][1]),
        ((0, 0), lambda conv, act, x: [y := conv(x), y * 2, act(y)][1:]),
        ((0, 0), lambda conv, act, x: act(conv(x)) + act(x + 0)),
        ((0, 0), lambda conv, act, x: act(conv(x)) + conv(x)),
        ((0, 0), lambda conv, act, x: conv(act(x + 0))),
        ((0, 0), lambda conv, act, x: act(conv(x) + 1)),
        ((0, 0), lambda conv, act, x: act(conv(x).add_(x))),
        ((0, 0), lambda conv, act, x: act(F.conv2d(x, conv.weight * 2))),
    ],
)
@torch.no_grad()
def test_only_an_activation_that_alone_takes_the_map(count: tuple[int, int], forward: Callable[..., object]) -> None:
    for inplace in (False, True):
        net = Net(forward, inplace).eval()
        x = torch.randn(1, 3, 8, 8)
        before = net(x)
        assert fuse_activations(net, torch.zeros_like(x)) == count[inplace]
        torch.testing.assert_close(net(x), before)


def test_hooked_layers_stay() -> None:
    for place in (0, 1):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        net[place].register_forward_hook(lambda *_: None)
        assert fuse_activations(net, torch.zeros(1, 3, 8, 8)) == 0


@torch.no_grad()
def test_a_backbone_keeps_its_maps() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("tf_efficientnet_lite0", strides=(8, 16, 32)).eval()
    x = torch.randn(2, 3, 96, 64)
    wanted = backbone(x)
    convolutions = fold_backbone(backbone)
    quicken(backbone)
    # All but those whose block has none behind the last convolution.
    assert 0.6 * convolutions < fuse_activations(backbone.net, torch.zeros(1, 3, 64, 64)) < convolutions
    for got, want in zip(backbone(x), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_what_traces_sees_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, plain = fused_and_plain(nn.Conv2d(3, 4, 3), nn.ReLU6())
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        traced = torch.jit.trace(chain, x)
        exported = torch.export.export(chain, (x,), strict=False)
        assert "mkldnn" not in str(traced.inlined_graph) + str(exported.graph)
        for again in (traced, exported.module()):
            torch.testing.assert_close(again(x), plain(x))
        monkeypatch.setattr(fused, "_AVAILABLE", False)
        torch.testing.assert_close(chain(x), plain(x))
    with FakeTensorMode(allow_non_fake_inputs=False):
        conv = FusedConv2d(3, 4, 3, device="cuda")
        assert conv(torch.empty(1, 3, 8, 8, device="cuda")).device.type == "cuda"
