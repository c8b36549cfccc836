"""Memory and multiplications of networks: an exercise worked out by hand, and what the profiler measures."""

import json
from dataclasses import asdict
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from detseg.backbones import create_network
from detseg.backbones.cost import network_cost
from detseg.backbones.meta import on_meta
from detseg.cli import main

MB = 1_000_000


def three_layers():
    """Three 3 x 3 layers of 100, 200 and 400 maps, stride 2."""
    widths = (3, 100, 200, 400)
    layers = [nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths)]
    return nn.Sequential(*layers)


def test_three_layers_by_hand():
    cost = network_cost(three_layers(), (200, 300))
    assert cost.parameters == 903_400 == 9 * (3 * 100 + 100 * 200 + 200 * 400) + 100 + 200 + 400
    assert cost.parameter_bytes == 4 * 903_400 and cost.optimizer_bytes == 16 * 903_400
    images = 4 * 3 * 200 * 300
    maps = [4 * 100 * 150 * 100, 4 * 50 * 75 * 200, 4 * 25 * 38 * 400]
    assert cost.training_bytes == images + sum(maps) == 11.24 * MB
    # The image stays with whoever gave it.
    assert cost.inference_bytes == images + maps[0] + maps[1]
    assert cost.multiplications == 9 * (3 * 100 * 15000 + 100 * 200 * 3750 + 200 * 400 * 25 * 38)
    many = network_cost(three_layers(), (200, 300), batch_size=50)
    assert many.training_bytes == 50 * cost.training_bytes and many.multiplications == cost.multiplications


def test_nothing_is_computed_and_modes_stay():
    with on_meta():
        net = create_network("resnet18")
    net.layer1.eval()
    cost = network_cost(net, (224, 224), batch_size=256)
    assert not net.layer1.training and net.layer2.training
    assert cost.parameters == 11_689_512
    assert cost.multiplications == pytest.approx(1.81e9, rel=0.01), "as published"


@pytest.mark.parametrize(
    "name", ["resnet18", "lenet5", "tf_efficientnet_lite0", pytest.param("vgg11", marks=pytest.mark.slow)]
)
def test_against_what_the_profiler_measures(name):
    net, size = create_network(name), (64, 64) if name != "lenet5" else (32, 32)
    images = torch.rand(4, getattr(net, "in_channels", 3), *size)
    cost = network_cost(net, size, batch_size=4)
    net(images)  # what is made once

    def allocated(training):
        net.train(training)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen, torch.set_grad_enabled(training):
            result = net(images)
        return sum(event.self_cpu_memory_usage for event in seen.events()), result

    kept, _ = allocated(True)
    given = images.nbytes
    assert cost.training_bytes - given == pytest.approx(kept, rel=0.1)
    _, result = allocated(False)
    assert given + result.nbytes < cost.inference_bytes < 1.1 * cost.training_bytes


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match="cannot run on images of 4 x 4 pixels"):
        network_cost(create_network("alexnet_2012"), (4, 4))


def test_the_command_tells_it(capsys):
    words = ["backbones", "resnet18", "--size", "200", "300", "--batch-size", "4"]
    assert main(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "11.69 M" in text and "4 images of 200 x 300 pixels" in text
    assert main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    with on_meta():
        cost = network_cost(create_network("resnet18"), (200, 300), batch_size=4)
    assert row["cost"] == asdict(cost)
    assert main(["backbones", "lenet5", "--size", "32", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["cost"]["parameters"] == row["parameters"] == 61_706
    assert main(["backbones", "alexnet_2012", "--size", "4"]) == 1
    assert "alexnet_2012: it cannot run on images of 4 x 4 pixels" in capsys.readouterr().err
    for wrong, message in (
        (["--size", "1", "2", "3"], "--size is"),
        (["--batch-size", "0", "--size", "9"], "--batch-size"),
    ):
        assert main(["backbones", "lenet5", *wrong]) == 1
        assert message in capsys.readouterr().err
