"""Grad-CAM against finite differences and class activation maps; which maps of a network are recorded."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import create_backbone, create_deepest, create_network
from detseg.backbones.meta import on_meta
from detseg.classify import Classifier
from detseg.classify.grad_cam import grad_cam, liveliest, record


def maps(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def head(channels=4, classes=3, seed=1, dtype=torch.float32):
    """Scores of maps by something that is not linear."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (
        torch.randn(rows, columns, generator=generator, dtype=dtype) for rows, columns in ((6, channels), (classes, 6))
    )
    return lambda x: torch.tanh(x.square().mean((2, 3)) @ first.T) @ second.T


# ------------------------------------------------------------------ Grad-CAM


def test_by_hand():
    x = torch.tensor([[[[1.0, 2], [0, 0]], [[0, 1], [3, 0]]]], requires_grad=True)
    # The gradients are 2 and -1 in the first place of each map, 0 elsewhere: weights 2 / 4 and -1 / 4.
    scores = (2 * x[:, 0, 0, 0] - x[:, 1, 0, 0])[:, None]
    assert grad_cam(scores, x).tolist() == [[[[0.5, 0.75], [0, 0]]]]


def test_of_a_network_that_ends_in_pooling_it_is_the_class_activation_map():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
    x = F.relu(conv(torch.rand(2, 3, 9, 11)))
    found = grad_cam(linear(x.mean((2, 3))), x)
    cam = torch.einsum("kc,nchw->nkhw", linear.weight, x)  # Zhou et al. 2016, equation 2
    assert found.shape == (2, 5, 7, 9)
    torch.testing.assert_close(found, F.relu(cam) / (7 * 9))
    assert (found > 0).any() and (found == 0).any()


def test_weights_are_what_finite_differences_say():
    x, of = maps(1, 4, 3, 5, dtype=torch.float64), head(dtype=torch.float64)
    found = grad_cam(of(x), x)[0]
    step = 1e-5
    for k in range(3):
        total = torch.zeros(3, 5, dtype=torch.float64)
        for c in range(4):
            slopes = []
            for place in range(15):
                moved = torch.zeros(4, 15, dtype=torch.float64)
                moved[c, place] = step
                up, down = (of(x.detach() + sign * moved.reshape(1, 4, 3, 5))[0, k] for sign in (1, -1))
                slopes.append(float(up - down) / (2 * step))
            total += sum(slopes) / 15 * x.detach()[0, c]
        torch.testing.assert_close(found[k], total.clamp(min=0), rtol=1e-6, atol=1e-9)


def test_what_it_does_not_depend_on():
    x, of = maps(2, 4, 3, 5), head()
    whole = grad_cam(of(x), x)
    torch.testing.assert_close(grad_cam(of(x) + torch.tensor([5.0, -3, 100]), x), whole)
    torch.testing.assert_close(grad_cam(3 * of(x), x), 3 * whole)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(grad_cam(of(x)[:, order], x), whole[:, order])
    for n in range(2):  # alone or in company
        alone = x[n : n + 1].detach().requires_grad_()
        torch.testing.assert_close(grad_cam(of(alone), alone), whole[n : n + 1])
    mirrored = x.detach().flip(3).requires_grad_()
    torch.testing.assert_close(grad_cam(of(mirrored), mirrored), whole.flip(3))


def test_nothing_speaks_for_a_class():
    x = maps(1, 2, 3, 3).detach().abs().requires_grad_()
    assert (grad_cam(-x.sum((1, 2, 3))[:, None], x) == 0).all()
    assert grad_cam(x.flatten(1)[:, :0], x).shape == (1, 0, 3, 3)


def test_mistakes():
    for scores, x, message in [
        (torch.zeros(2), maps(2, 3, 4, 4), r"scores must be \(N, T\)"),
        (torch.zeros(1, 5), maps(2, 3, 4, 4), r"\(1, 5\), \(2, 3, 4, 4\)"),
        (torch.zeros(2, 5), maps(2, 3, 4, 4), "gradients switched on"),
        (maps(2, 5), maps(2, 3, 4, 4), "do not depend on these maps"),
    ]:
        with pytest.raises(ValueError, match=message):
            grad_cam(scores, x)


# ------------------------------------------------------------------ which maps there are


def test_the_maps_are_those_of_the_stages():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 96)
    for name, strides in (("resnet18", (2, 4, 8, 16, 32)), ("tf_efficientnet_lite0", (2, 4, 8, 16))):
        network = create_network(name).eval()
        recording = record(network, network, images)
        torch.testing.assert_close(recording.logits, network(images))
        backbone = create_backbone(name, strides=strides).eval()
        names = dict(network.state_dict())
        ours = {key: key.removeprefix("net.").replace("blocks_", "blocks.") for key in backbone.state_dict()}
        backbone.load_state_dict({key: names[theirs] for key, theirs in ours.items()})
        for stride, expected in zip(strides, backbone(images), strict=True):
            torch.testing.assert_close(recording.maps[stride], expected)
        assert list(recording.maps) == [2, 4, 8, 16, 32]
        assert torch.equal(recording.filters, network.conv1.weight if name == "resnet18" else network.conv_stem.weight)
    assert recording.deepest.shape == (2, 1280, 2, 3), "with the layer behind the last stage"


@pytest.mark.parametrize(
    ("name", "deepest", "strides", "filters"),
    [
        ("lenet5", (16, 10, 10), (1, 4), (6, 3, 5, 5)),  # the last convolution makes single cells
        ("alexnet_2012", (256, 13, 13), (4, 8, 16), (96, 3, 11, 11)),
        ("vgg16", (512, 14, 14), (1, 2, 4, 8, 16), (64, 3, 3, 3)),  # before the last pooling, as in the paper
        ("resnet50", (2048, 7, 7), (2, 4, 8, 16, 32), (64, 3, 7, 7)),
        ("googlenet", (1024, 7, 7), (2, 4, 8, 16, 32), (64, 3, 7, 7)),
        ("inception_v3", (2048, 8, 8), (2, 4, 8, 16, 32), (32, 3, 3, 3)),
        ("seresnet50", (2048, 7, 7), (2, 4, 8, 16, 32), (64, 3, 7, 7)),
        ("repvgg_a0", (1280, 7, 7), (2, 4, 8, 16, 32), (48, 3, 3, 3)),  # beside them are kernels of one pixel
    ],
)
def test_every_kind_of_network(name, deepest, strides, filters):
    with on_meta():
        network = create_network(name).eval()
        images = torch.rand(1, 3, *network.input_size)
    recording = record(network, network, images)
    assert recording.deepest.shape == (1, *deepest)
    assert tuple(recording.maps) == strides
    assert recording.filters.shape == filters
    assert grad_cam(recording.logits[:, :2], recording.deepest).shape == (1, 2, *deepest[1:])


def test_networks_that_do_not_end_in_maps():
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224"):
        with on_meta():
            network = create_network(name).eval()
            images = torch.rand(1, 3, *network.input_size)
        with pytest.raises(ValueError, match=r"does not end in the feature maps of convolutions"):
            record(network, network, images)


def test_mistakes_of_images():
    network = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="Sequential makes a single cell of 8 x 8 pixels"):
        record(network, network, torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"floats \(N, 3, H, W\), got torch.uint8 \(1, 3, 8, 8\)"):
        record(network, network, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(ValueError, match="does not end in the feature maps"):
        record(linear, linear, torch.rand(1, 3, 8, 8))


def test_activations_in_place_and_frozen_weights():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    network.requires_grad_(False)
    images = torch.rand(1, 3, 6, 6)
    recording = record(network, network, images)
    expected = F.relu(F.conv2d(images, network[0].weight, network[0].bias, padding=1))
    torch.testing.assert_close(recording.deepest, expected)
    cam = torch.einsum("kc,nchw->nkhw", network[4].weight, expected)
    torch.testing.assert_close(grad_cam(recording.logits, recording.deepest), F.relu(cam) / 36)


def test_the_model_is_left_as_it_was():
    model = Classifier(create_deepest("test_efficientnet"), 3).eval()
    images = torch.rand(1, 3, 64, 64)
    before, hooks = model(images), count_hooks(model)
    with torch.no_grad():  # whoever calls may have switched gradients off
        recording = record(model, model.backbone, images)
    grad_cam(recording.logits, recording.deepest)
    torch.testing.assert_close(model(images), before)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert count_hooks(model) == hooks


def count_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_backbone_pads_images():
    model = Classifier(create_deepest("resnet18"), 3).eval()
    recording = record(model, model.backbone, torch.rand(1, 3, 70, 96))
    assert recording.extent == (96, 96)
    assert {stride: m.shape[2:] for stride, m in recording.maps.items()} == {
        s: (96 // s, 96 // s) for s in (2, 4, 8, 16, 32)
    }


def test_on_another_device(monkeypatch):
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model = Classifier(create_deepest("test_efficientnet"), 4).eval()
        recording = record(model, model.backbone, torch.rand(2, 3, 64, 64, device="cuda"))
        # Going backwards needs a real device, even for tensors that are not there.
        monkeypatch.setattr(torch.autograd, "grad", lambda score, x, **_: (torch.ones_like(x),))
        cams = grad_cam(recording.logits, recording.deepest)
        assert cams.device.type == "cuda" and cams.shape[:2] == (2, 4)
        assert liveliest(recording.deepest[0], 3).device.type == "cuda"


def test_the_liveliest_maps():
    flat, weak, strong = torch.full((3, 3), 9.0), torch.zeros(3, 3), torch.zeros(3, 3)
    weak[1, 1], strong[0, 0] = 1, -4
    assert liveliest(torch.stack([flat, weak, strong, weak]), 3).tolist() == [2, 1, 3]
    assert liveliest(torch.stack([weak, flat]), 9).tolist() == [0, 1]
