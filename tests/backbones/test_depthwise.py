"""Quick depthwise convolutions: the numbers of `nn.Conv2d`, in less time."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import create_backbone
from detseg.backbones.quick_convolutions import DepthwiseConv2d, quicken, weight_gradient

CASES = [
    # kernel, stride, padding, height, width
    ((5, 5), (1, 1), (2, 2), 9, 7),
    ((5, 5), (2, 2), (2, 2), 9, 8),
    ((5, 5), (2, 2), (0, 0), 11, 12),  # the last column is not looked at
    ((7, 7), (1, 1), (3, 3), 8, 10),
    ((3, 5), (1, 2), (1, 2), 6, 9),
    ((5, 4), (3, 3), (0, 1), 13, 14),
    ((5, 5), (1, 1), (2, 2), 1, 1),  # one pixel
    ((1, 9), (1, 4), (0, 6), 3, 5),
    ((3, 3), (2, 2), (1, 1), 8, 9),
    ((3, 3), (1, 1), (1, 1), 8, 9),
    ((3, 3), (1, 1), (3, 0), 4, 9),  # more padding than the kernel can reach
]


def gradients(conv, x):
    """Output and gradients of a loss that weighs every output differently."""
    x = x.clone().requires_grad_()
    conv.zero_grad()
    out = conv(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in conv.parameters())]


def quick(conv):
    net = nn.Sequential(copy.deepcopy(conv))
    assert quicken(net) == 1
    assert type(net[0]) is DepthwiseConv2d
    return net[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_equals_torch(bias, memory_format):
    for kernel, stride, padding, height, width in CASES:
        conv = nn.Conv2d(6, 6, kernel, stride, padding, groups=6, bias=bias).to(memory_format=memory_format)
        assert_same_gradients(conv, torch.randn(3, 6, height, width).contiguous(memory_format=memory_format))


def assert_same_gradients(conv, x):
    for got, wanted in zip(gradients(quick(conv), x), gradients(conv, x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5, msg=lambda message: f"{conv}: {message}")


@pytest.mark.slow
def test_gradients_by_differences():
    for kernel, stride, padding, height, width in CASES:
        conv = quick(nn.Conv2d(2, 2, kernel, stride, padding, groups=2).double())
        x = torch.randn(2, 2, height, width, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda x, w, b, conv=conv: torch.func.functional_call(conv, {"weight": w, "bias": b}, (x,)),
            (x, conv.weight, conv.bias),
        ), conv


def test_weight_gradient_by_hand():
    # One pixel in, one out, in the middle of a kernel of five: only the middle weight saw anything.
    got = weight_gradient(
        torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0), torch.zeros(1, 1, 5, 5), (1, 1), (2, 2)
    )
    wanted = torch.zeros(1, 1, 5, 5)
    wanted[0, 0, 2, 2] = 6.0
    assert torch.equal(got, wanted)


def test_tensorflow_padding():
    for size in (32, 33, 7):
        for stride in (1, 2):
            conv, x = Conv2dSame(4, 4, 5, stride, groups=4), torch.randn(2, 4, size, size)
            assert_same_gradients(conv.double(), x.double())


def test_dilated_afterwards():
    conv = nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4)
    late = quick(nn.Conv2d(4, 4, 5, padding=2, groups=4))
    late.load_state_dict(conv.state_dict())
    late.dilation, late.padding = conv.dilation, conv.padding
    x = torch.randn(2, 4, 9, 8)
    for got, wanted in zip(gradients(late, x), gradients(conv, x), strict=True):
        torch.testing.assert_close(got, wanted)


class Scaled(nn.Conv2d):
    """A convolution that is more than one."""

    def forward(self, x):
        return super().forward(x) * 2


def test_others_stay():
    for conv in (
        nn.Conv2d(4, 4, 3, padding=1, groups=2, stride=2),
        nn.Conv2d(4, 4, 5, padding=2, groups=2),
        nn.Conv2d(4, 8, 5, padding=2, groups=4),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.Conv2d(1, 1, 5, padding=2),
        nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4),
        nn.Conv2d(4, 4, 5, padding="same", groups=4),
        nn.Conv2d(4, 4, 5, padding=2, padding_mode="reflect", groups=4),
        Scaled(4, 4, 5, padding=2, groups=4),
    ):
        net = nn.Sequential(conv)
        assert quicken(net) == 0, conv
        assert net[0] is conv


def test_a_backbone_keeps_names_weights_and_results():
    backbone = create_backbone("tf_efficientnet_lite0", strides=(8, 16, 32)).train()
    depthwise = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    slow = len(depthwise) + sum(type(m) is Conv2dSame and m.groups == 1 for m in backbone.modules())  # the first layer
    x = torch.randn(2, 3, 64, 64)
    other = copy.deepcopy(backbone)
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    assert quicken(backbone) == slow > 0
    assert quicken(backbone) == 0
    assert backbone.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())
    for got, wanted in zip(backbone(x), other(x), strict=True):
        torch.testing.assert_close(got, wanted)
    for stage, wanted in zip(backbone.stages, other.stages, strict=True):
        parameters = [[n for m in modules for n, _ in m.named_parameters()] for modules in (stage, wanted)]
        assert parameters[0] == parameters[1]


@pytest.mark.parametrize("stride", [1, 2])
def test_autocast_rounds_and_nothing_else(stride):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not compute in bfloat16")
    torch.manual_seed(0)
    conv = quick(nn.Conv2d(8, 8, 5, stride, padding=2, groups=8))
    x = torch.randn(2, 8, 12, 12)
    wanted = gradients(conv, x)
    with torch.autocast("cpu", torch.bfloat16):
        half = gradients(conv, x.bfloat16())
    assert half[0].dtype == torch.bfloat16
    for got, want in zip(half, wanted, strict=True):
        assert (got.float() - want).norm() < 0.02 * want.norm()


def test_nothing_is_recorded_where_nothing_learns():
    conv = quick(nn.Conv2d(4, 4, 5, padding=2, groups=4))
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=2, groups=4))
    conv.requires_grad_(False)
    out = conv(x.requires_grad_())
    out.sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None


def test_other_devices_are_left_to_torch():
    conv = quick(nn.Conv2d(4, 4, 5, padding=2, groups=4))
    with FakeTensorMode(allow_non_fake_inputs=False):
        x = torch.empty(2, 4, 8, 8, device="cuda")
        fake = DepthwiseConv2d(4, 4, 5, padding=2, groups=4, device="cuda")
        out = fake(x)
    assert out.device.type == "cuda"
    assert out.shape == conv(torch.randn(2, 4, 8, 8)).shape
    assert "Conv" in type(out.grad_fn).__name__
