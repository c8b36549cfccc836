"""Layers that work across channels: depthwise max-pooling, squeeze and excitation."""

import pytest
import torch
from timm.models.senet import SEModule
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import DepthwiseMaxPool, SqueezeExcitation


@pytest.mark.parametrize(("channels", "size"), [(6, 3), (6, 2), (5, 1), (4, 4)])
def test_depthwise_max_pooling_is_pooling_along_a_third_axis(channels, size):
    x = torch.randn(2, channels, 5, 3)
    expected = F.max_pool3d(x[:, None], (size, 1, 1))[:, 0]
    assert torch.equal(DepthwiseMaxPool(size)(x), expected)


def test_depthwise_max_pooling_by_hand():
    x = torch.tensor([1.0, 7.0, 3.0, -2.0, -1.0, -5.0]).view(1, 6, 1, 1)
    assert DepthwiseMaxPool(3)(x).flatten().tolist() == [7, -1]
    assert DepthwiseMaxPool(3)(x[:0]).shape == (0, 2, 1, 1)
    assert DepthwiseMaxPool(2)(x.index_fill(1, torch.tensor([0]), torch.nan)).flatten()[0].isnan()


def test_only_the_strongest_map_learns():
    x = torch.tensor([1.0, 7.0, 3.0]).view(1, 3, 1, 1).requires_grad_()
    DepthwiseMaxPool(3)(x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 0]


def test_depthwise_max_pooling_of_what_does_not_divide():
    with pytest.raises(ValueError, match="7 maps cannot be pooled 3 by 3; use a size that divides them"):
        DepthwiseMaxPool(3)(torch.zeros(1, 7, 2, 2))
    with pytest.raises(ValueError, match="size must be at least 1"):
        DepthwiseMaxPool(0)


def test_squeeze_and_excitation_is_timms_after_the_stage():
    torch.manual_seed(0)
    stage, theirs = nn.Conv2d(3, 32, 3), SEModule(32, 16)
    ours = SqueezeExcitation(stage, 32)
    assert ours.squeeze.out_channels == 2
    ours.squeeze.load_state_dict(theirs.fc1.state_dict())
    ours.excite.load_state_dict(theirs.fc2.state_dict())
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(ours(x), theirs(stage(x)))


def test_squeeze_and_excitation_by_hand():
    net = SqueezeExcitation(nn.Identity(), 2, ratio=2)
    for layer, weight, bias in ((net.squeeze, [[1.0, -1.0]], [0.5]), (net.excite, [[2.0], [0.0]], [0.0, 1.0])):
        layer.weight.data = torch.tensor(weight)[:, :, None, None]
        layer.bias.data = torch.tensor(bias)
    x = torch.tensor([[[[0.0, 4.0]], [[1.0, 1.0]]]])  # means 2 and 1: hidden 1.5
    factors = torch.tensor([3.0, 1.0]).sigmoid().view(1, 2, 1, 1)
    torch.testing.assert_close(net(x), x * factors)


def test_few_channels_keep_one_hidden_neuron_and_none_are_refused():
    assert SqueezeExcitation(nn.Identity(), 8).squeeze.out_channels == 1
    for channels, ratio in ((0, 16), (8, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            SqueezeExcitation(nn.Identity(), channels, ratio)


def test_they_run_where_their_input_is():
    with FakeTensorMode(), torch.device("cuda"):
        net = nn.Sequential(SqueezeExcitation(nn.Conv2d(3, 6, 3), 6), DepthwiseMaxPool(2))
        out = net(torch.zeros(2, 3, 8, 8))
    assert (out.shape, out.device.type) == ((2, 3, 6, 6), "cuda")
