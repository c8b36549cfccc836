"""LeNet-5, AlexNet, ZF Net and ResNet-34 by hand: the papers' tables, and other people's networks as oracles."""

import pickle
from functools import partial

import pytest
import timm
import torch
import torchvision
from timm.layers import SEModule
from torch import nn
from torch.nn import functional as F

from detseg.backbones import AlexNet, LeNet5, ResidualUnit, ResNet34, SqueezeExcitation, ZFNet, create_backbone
from detseg.backbones.create import BACKBONES
from detseg.backbones.meta import on_meta
from detseg.backbones.network import OWN_NETWORKS, create_network, register_network
from detseg.backbones.weights import rename_by_position
from detseg.backbones.zoo.classic import alexnet_features, local_response_norm


def count(module):
    return sum(p.numel() for p in module.parameters())


def skeleton(make, **options):
    with on_meta():
        return make(**options)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (LeNet5, {}, 61_706),
        (AlexNet, {}, 60_965_224),  # Caffe's bvlc_alexnet; "60 million parameters" in the paper
        (AlexNet, {"groups": 1}, 62_378_344),
        (AlexNet, {"norm": "batch"}, 60_965_224 + 2 * (96 + 256)),
        (ZFNet, {}, 62_357_608),
        (ResNet34, {}, 21_797_672),  # torchvision's figure, checked against it below
    ],
)
def test_parameters_of_the_whole(make, options, expected):
    assert count(skeleton(make, **options)) == expected


def test_lenets_parameters_layer_by_layer():
    """The paper's figures: C1 156, C5 48 120, F6 10 164; C3 has 2416 where every map sees every other."""
    net = LeNet5()
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [count(m) for m in layers] == [156, 2416, 48_120, 10_164, 850]


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        # channels and size after each convolution and pooling, as the papers print them
        (LeNet5, [(6, 28), (6, 14), (16, 10), (16, 5), (120, 1)]),
        (AlexNet, [(96, 55), (96, 27), (256, 27), (256, 13), (384, 13), (384, 13), (256, 13), (256, 6)]),
        (ZFNet, [(96, 110), (96, 55), (256, 26), (256, 13), (384, 13), (384, 13), (256, 13), (256, 6)]),
    ],
)
def test_sizes_of_the_maps(make, sizes):
    net = skeleton(make)
    x = torch.zeros(2, net.in_channels, *net.input_size, device="meta")
    found = []
    for layer in net.features:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            assert x.shape[2] == x.shape[3]
            found.append((x.shape[1], x.shape[2]))
    assert found == sizes
    x = torch.zeros(2, net.in_channels, *net.input_size, device="meta")
    assert net(x).shape == (2, 10 if make is LeNet5 else 1000)


def test_alexnets_neurons():
    """Section 3.5: 290 400, 186 624, 64 896, 64 896, 43 264, 4096, 4096, 1000."""
    net = skeleton(AlexNet)
    neurons, x = [], torch.zeros(1, 3, 227, 227, device="meta")
    for layer in (*net.features, net.flatten, *net.classifier):
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            neurons.append(x.numel())
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]


def test_lenet_computes_what_its_figure_shows():
    torch.manual_seed(0)
    net = LeNet5(num_classes=7)
    f, c = net.features, net.classifier
    x = torch.randn(3, 1, 32, 32)
    y = F.avg_pool2d(torch.tanh(F.conv2d(x, f.conv1.weight, f.conv1.bias)), 2)
    y = F.avg_pool2d(torch.tanh(F.conv2d(y, f.conv3.weight, f.conv3.bias)), 2)
    y = torch.tanh(y.reshape(3, 400) @ f.conv5.weight.reshape(120, 400).T + f.conv5.bias)
    y = torch.tanh(y @ c[0].weight.T + c[0].bias) @ c[2].weight.T + c[2].bias
    torch.testing.assert_close(net(x), y)


@pytest.mark.parametrize("norm", ["lrn", "batch"])
def test_alexnet_normalises_between_activation_and_pooling(norm):
    names = [type(m).__name__ for m in alexnet_features(norm=norm)]
    kind = {"lrn": "LocalResponseNorm", "batch": "BatchNorm2d"}[norm]
    assert names[:8] == ["Conv2d", "ReLU", kind, "MaxPool2d"] * 2
    assert names.count(kind) == 2


def test_pooling_overlaps_and_dropout_follows_both_hidden_layers():
    net = skeleton(AlexNet)
    assert {(m.kernel_size, m.stride) for m in net.features if isinstance(m, nn.MaxPool2d)} == {(3, 2)}
    assert [type(m).__name__ for m in net.classifier] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert [m.p for m in net.classifier if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_two_gpus_see_half_of_the_maps_each():
    shapes = [tuple(m.weight.shape) for m in alexnet_features() if isinstance(m, nn.Conv2d)]
    assert shapes == [(96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3)]


def test_local_response_norm_by_the_formula():
    torch.manual_seed(0)
    a = 300 * torch.rand(2, 7, 3, 2)  # large, so that 1 + the sum is far from 1
    expected = torch.empty_like(a)
    for i in range(7):
        total = sum(a[:, j].square() for j in range(max(0, i - 2), min(6, i + 2) + 1))
        expected[:, i] = a[:, i] / (1 + 2e-5 * total) ** 0.75
    torch.testing.assert_close(local_response_norm(7)(a), expected)
    assert (expected < 0.5 * a).any()


def test_wrong_options_of_alexnet():
    with pytest.raises(ValueError, match="norm must be 'lrn' or 'batch', got 'layer'"):
        AlexNet(norm="layer")
    with pytest.raises(ValueError, match="groups must be 1 or 2, got 3"):
        AlexNet(groups=3)


def test_resnet34_is_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet34(num_classes=5).eval()
    ours = ResNet34(num_classes=5).eval()
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(rename_by_position(theirs.state_dict(), shapes, "torchvision"))
    for size in (64, 75):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(ours(x), theirs(x))


def test_resnet34_with_squeeze_and_excitation_is_timms():
    """Hu et al. put the block on the residual branch, before the sum."""
    torch.manual_seed(0)
    block = partial(SEModule, rd_divisor=1)  # timm would round the hidden neurons to multiples of 8
    theirs = timm.create_model("resnet34", num_classes=5, zero_init_last=False, block_args={"attn_layer": block}).eval()
    ours = ResNet34(num_classes=5).eval()
    for unit in ours.features:
        if isinstance(unit, ResidualUnit):
            unit.main = SqueezeExcitation(unit.main, unit.main[0].out_channels)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(rename_by_position(theirs.state_dict(), shapes, "timm"))
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_units_keep_their_channels_unless_they_have_a_stride():
    assert len(ResidualUnit(8, 8).skip) == 0
    assert ResidualUnit(8, 12, stride=2)(torch.zeros(1, 8, 5, 6)).shape == (1, 12, 3, 3)
    with pytest.raises(ValueError, match="8 in, 12 out"):
        ResidualUnit(8, 12)


def test_own_names_hide_nobody():
    assert OWN_NETWORKS.keys() >= {"lenet5", "alexnet_2012", "alexnet_2012_bn", "zfnet", "resnet34_units"}
    assert not OWN_NETWORKS.keys() & {*timm.list_models(), *torchvision.models.list_models()}
    assert OWN_NETWORKS.keys() <= BACKBONES.keys()


def test_registering_a_taken_name():
    before = dict(OWN_NETWORKS)
    with pytest.raises(ValueError, match="'lenet5' is registered already"):
        register_network("lenet5", LeNet5, alexnet_features)
    assert before == OWN_NETWORKS


def test_a_trained_classifier_gives_its_backbone_its_weights(tmp_path):
    torch.manual_seed(0)
    net = create_network("lenet5", num_classes=4, in_channels=1)
    torch.save(net.state_dict(), tmp_path / "lenet.pt")
    backbone = create_backbone("lenet5", strides=(2, 4), in_channels=1, pretrained=tmp_path / "lenet.pt")
    assert {name.split(".")[0] for name in backbone.weight_report.skipped} == {"classifier"}
    assert len(backbone.weight_report.copied) == 6
    # ... and on the image without its first 2 rows and columns, cell i of the unpadded network is cell i + 4 of the
    # padded one at either stride.
    x = torch.randn(1, 1, 64, 64)
    fine, coarse = backbone(x)
    inner = net.features[:5](x[:, :, 2:, 2:])
    torch.testing.assert_close(fine[:, :, 4:29, 4:29], inner)
    torch.testing.assert_close(coarse[:, :, 4:12, 4:12], net.features(x[:, :, 2:, 2:]))


def test_backbones_of_the_mnist_kind():
    lenet = create_backbone("lenet5", strides=(1, 2, 4), in_channels=1)
    assert lenet.channels == (6, 16, 120)
    assert lenet.mean == (0.1307,) and lenet.std == (0.3081,)
    twin = pickle.loads(pickle.dumps(lenet))
    assert twin.whole_network() == lenet.whole_network() and "classifier.2.weight" in twin.whole_network()
    with pytest.raises(ValueError, match=r"no feature map at stride 8; it has \(1, 2, 4\)"):
        create_backbone("lenet5")
    with pytest.raises(ValueError, match="no ImageNet weights for 'lenet5'"):
        create_backbone("lenet5", strides=(4,), pretrained=True)
