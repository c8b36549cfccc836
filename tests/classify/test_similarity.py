"""Similarity: one for the images that the norms saw, less for others, the formula by hand."""

import math

import pytest
import torch
from torch import nn

from detseg.classify import Similarity, measure_similarity


class Net(nn.Module):
    """A convolution and two norms."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))

    def features(self, images):
        return self.layers(images.float()).mean((2, 3))


def make_images(count=8, scale=1.0, shift=0.0, seed=1):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * scale + shift


def trained():
    net = Net().train()
    for module in net.layers:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean of all batches
    with torch.no_grad():
        for _ in range(2):
            net.features(make_images(64))
    return net


def test_the_same_images_are_wholly_alike():
    found = measure_similarity(trained(), [make_images(64)])
    assert found.value == pytest.approx(1, abs=1e-3)
    assert (len(found.layers), found.images) == (2, 64)


def test_the_further_the_less_alike():
    values = [measure_similarity(trained(), [make_images(scale=s, shift=m)]).value for s, m in ((1, 0), (2, 1), (9, 9))]
    assert values[0] > 0.95
    assert values[0] > values[1] > values[2] > 0
    assert values[2] < 0.6


def test_batches_make_no_difference():
    images = make_images(12)
    whole = measure_similarity(trained(), [images])
    parts = measure_similarity(trained(), images.split([5, 4, 3]))
    assert parts.layers == pytest.approx(whole.layers, abs=1e-6)
    assert parts.images == whole.images == 12


def test_the_overlap_of_two_normal_distributions():
    """Against the integral of the root of the product of the densities."""
    net = Net()
    net.layers = nn.Sequential(nn.BatchNorm2d(3, eps=0))
    norm = net.layers[0]
    norm.running_mean.copy_(torch.tensor([0.0, 1.0, -2.0]))
    norm.running_var.copy_(torch.tensor([1.0, 4.0, 0.25]))
    images = make_images(16, 1.5, 0.5)
    mean, variance = images.mean((0, 2, 3)).double(), images.var((0, 2, 3), correction=0).double()
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)[:, None]

    def density(m, v):
        return torch.exp(-((x - m) ** 2) / (2 * v)) / torch.sqrt(2 * math.pi * v)

    product = density(mean, variance) * density(norm.running_mean.double(), norm.running_var.double())
    wanted = (product.sqrt().sum(0) * (60 / 200_000)).mean()
    assert measure_similarity(net, [images]).value == pytest.approx(float(wanted), abs=1e-6)


def test_a_model_is_left_as_it_was_but_in_evaluation_mode():
    net = trained()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measure_similarity(net, [make_images()])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training
    assert all(not module._forward_pre_hooks for module in net.modules())


def test_without_norms_or_images_nothing_is_known():
    net = Net()
    assert measure_similarity(net, []) is None
    net.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert measure_similarity(net, [make_images()]) is None
    assert isinstance(measure_similarity(Net(), [make_images()]), Similarity)
