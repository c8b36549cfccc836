"""Padding that writes every number once: torch's results and gradients."""

import copy
import itertools

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import create_backbone
from detseg.backbones.padding import pad_zeros
from detseg.backbones.quick_convolutions import QuickConv2dSame, quicken

SIDES = [(0, 1, 0, 1), (1, 2, 2, 1), (0, 0, 3, 0), (2, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1)]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_equals_torch(memory_format):
    for case in itertools.product(SIDES, [torch.float32, torch.bfloat16]):
        sides, dtype = case
        x = torch.randn(2, 3, 5, 4, dtype=dtype).contiguous(memory_format=memory_format)
        wanted = F.pad(x, sides)
        with torch.no_grad():
            got = pad_zeros(x, *sides)
        assert torch.equal(got, wanted), case
        assert got.is_contiguous(memory_format=memory_format), case
        assert torch.equal(pad_zeros(x.requires_grad_(), *sides), wanted), case


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_a_part_of_an_image_keeps_its_layout(memory_format):
    part = torch.randn(2, 3, 5, 6).contiguous(memory_format=memory_format)[..., 1:5]
    padded = pad_zeros(part, 0, 2)
    assert torch.equal(padded, F.pad(part, (0, 2)))
    assert padded.is_contiguous(memory_format=memory_format)


def test_gradient():
    for sides in SIDES:
        x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, sides=sides: pad_zeros(x, *sides), (x,)), sides


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (2, 3, 1), ((3, 5), 2, 1)])
def test_convolution_equals_timms(kernel, stride, dilation):
    for size in [(8, 8), (7, 9), (1, 1), (2, 5)]:
        check_same_as_timm(size, kernel, stride, dilation)


def check_same_as_timm(size, kernel, stride, dilation):
    torch.manual_seed(0)
    conv = Conv2dSame(3, 4, kernel, stride, dilation=dilation)
    net = nn.Sequential(copy.deepcopy(conv))
    assert quicken(net) == 1
    assert type(net[0]) is QuickConv2dSame
    results = []
    for module in (conv, net):
        x = torch.linspace(-1, 1, 2 * 3 * size[0] * size[1]).reshape(2, 3, *size).requires_grad_()
        out = module(x)
        out.square().sum().backward()
        results.append((out, x.grad, *(p.grad for p in module.parameters())))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_network_keeps_its_results():
    torch.manual_seed(0)
    backbone = create_backbone("tf_efficientnet_lite0", pretrained=False, strides=(8, 16)).eval()
    x = torch.rand(1, 3, 65, 96)
    with torch.no_grad():
        before = backbone(x)
        assert quicken(backbone) > 0
        assert quicken(backbone) == 0
        for got, wanted in zip(backbone(x), before, strict=True):
            torch.testing.assert_close(got, wanted)


def test_any_device():
    with FakeTensorMode():
        conv = QuickConv2dSame(3, 4, 3, 2, device="cuda")
        x = torch.empty(2, 3, 9, 8, device="cuda", requires_grad=True)
        assert conv(x).shape == (2, 4, 5, 4)
        assert conv(x).device.type == "cuda"
