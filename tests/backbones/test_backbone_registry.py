"""Names, options and errors of `create_backbone`, `register_backbone` and `list_backbones`."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from detseg.backbones import Backbone, create_backbone, list_backbones, register_backbone
from detseg.backbones.create import BACKBONES


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registrations of a test end with it."""
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    yield


class Tiny(nn.Module):
    """Two convolutions: strides 2 and 4, and one that nothing uses."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(in_channels, 5, 3, stride=2, padding=1)
        self.two = nn.Conv2d(5, 7, 3, stride=2, padding=1)
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        one = self.one(x)
        return [one, self.two(one)]


def build_tiny(*, strides: tuple[int, ...], in_channels: int) -> Backbone:
    return Backbone(Tiny(in_channels), strides=strides, in_channels=in_channels, name="tiny")


def test_registered_names_come_first() -> None:
    register_backbone("resnet18")(build_tiny)
    backbone = create_backbone("resnet18", strides=(2, 4), in_channels=2)
    assert isinstance(backbone.net, Tiny)
    assert backbone.channels == (5, 7)
    assert [tuple(m.shape) for m in backbone(torch.zeros(1, 2, 7, 9))] == [(1, 5, 4, 5), (1, 7, 2, 3)]
    assert backbone.stages == [[backbone.net.one], [backbone.net.two]]
    assert not list(backbone.net.spare.parameters())


def test_register_returns_the_builder_and_refuses_duplicates() -> None:
    assert register_backbone("tiny")(build_tiny) is build_tiny
    with pytest.raises(ValueError, match="'tiny' is registered already"):
        register_backbone("tiny")(build_tiny)


def test_registered_backbone_has_no_imagenet_weights() -> None:
    register_backbone("tiny")(build_tiny)
    with pytest.raises(ValueError, match=r"no ImageNet weights for 'tiny'; .*--weights FILE.*--weights none"):
        create_backbone("tiny", pretrained=True, strides=(2, 4))


def test_wrongly_declared_strides_are_found_out() -> None:
    register_backbone("tiny")(build_tiny)
    with pytest.raises(ValueError, match="'tiny' cannot be a backbone with strides"):
        create_backbone("tiny", strides=(4, 8))


class OneSize(Tiny):
    """Has a weight for each cell of 256 x 256 pixels, as some attention does."""

    def __init__(self, in_channels: int, *, quiet: bool) -> None:
        super().__init__(in_channels)
        self.places = nn.Parameter(torch.zeros(64, 64))
        self.quiet = quiet

    def forward(self, x: Tensor) -> list[Tensor]:
        one, two = super().forward(x)
        if self.quiet and two.shape[-2:] != self.places.shape:
            raise AssertionError
        return [one, two + self.places]


@pytest.mark.parametrize(("quiet", "why"), [(False, "Attempting to broadcast"), (True, "AssertionError")])
def test_layers_made_for_one_size_are_found_out(quiet: bool, why: str) -> None:
    net = OneSize(3, quiet=quiet)
    message = rf"'mine' cannot be .*: it works on 256 x 256 pixels but not on 20 x 12 \({why}"
    with pytest.raises(ValueError, match=message):
        Backbone(net, strides=(2, 4), name="mine")
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("name", ["botnet26t_256", "eca_botnext26ts_256"])
def test_networks_made_for_one_size_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot be .* works on 256 x 256 pixels but not on 160 x 96"):
        create_backbone(name)


def test_listing() -> None:
    register_backbone("resnet_of_mine")(build_tiny)
    names = list_backbones("resnet*")
    assert {"resnet_of_mine", "resnet18", "resnet50"} <= set(names)
    assert names == sorted(set(names))
    assert all(name.startswith("resnet") for name in names)
    assert "googlenet" in list_backbones()  # torchvision's
    assert list_backbones("no such thing") == []


def test_unknown_names_show_the_near_ones() -> None:
    for name, near in (("resnet-18", "resnet18"), ("tf_efficientnet_light0", "tf_efficientnet_lite0")):
        with pytest.raises(ValueError, match=f"no backbone is named '{name}'; did you mean .*{near}"):
            create_backbone(name)
    with pytest.raises(ValueError, match=r"there are .*, … \(\d{4} in all\)"):
        create_backbone("qqqqqqqqqq")


def test_strides_it_does_not_have() -> None:
    for name, strides, message in [
        ("resnet18", (8, 64), r"no feature map at stride 64; it has \(2, 4, 8, 16, 32\)"),
        ("convnext_atto", (2, 4), r"no feature map at stride 2; it has \(4, 8, 16, 32\)"),
        ("googlenet", (64,), r"no feature map at stride 64; it has \(2, 4, 8, 16, 32\)"),
        ("resnet18", (), "one or more positive"),
        ("resnet18", (8, -16), "one or more positive"),
        ("resnet18", (8.0, 16.0), "one or more positive"),
        ("resnet18", (16, 8), "strides must rise"),
        ("resnet18", (8, 8), "strides must rise"),
    ]:
        with pytest.raises(ValueError, match=message):
            create_backbone(name, strides=strides)


def test_networks_that_are_no_backbones_say_why() -> None:
    with pytest.raises(ValueError, match=r"Input height \(256\) doesn't match model"):
        create_backbone("swin_tiny_patch4_window7_224")
    with pytest.raises(ValueError, match="no feature map at stride 8"):
        create_backbone("vit_tiny_patch16_224")


def test_no_input_channels() -> None:
    with pytest.raises(ValueError, match="in_channels must be at least 1"):
        create_backbone("resnet18", in_channels=0)


@pytest.mark.parametrize("strides", [(4,), (4, 32), (2, 4, 8, 16, 32)])
def test_any_choice_of_strides(strides: tuple[int, ...]) -> None:
    channels = dict(zip((2, 4, 8, 16, 32), (64, 64, 128, 256, 512), strict=True))
    backbone = create_backbone("resnet18", strides=strides)
    assert backbone.strides == strides
    assert backbone.channels == tuple(channels[s] for s in strides)
    assert [m.shape[-1] for m in backbone(torch.zeros(2, 3, 64, 64))] == [64 // s for s in strides]


def test_normalisation() -> None:
    assert create_backbone("tf_efficientnet_lite0").mean == (0.5, 0.5, 0.5)
    resnet = create_backbone("resnet18")
    assert (resnet.mean, resnet.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert create_backbone("resnet18", in_channels=1).mean == pytest.approx((0.449,))
    assert create_backbone("resnet18", in_channels=4).mean == (0.485, 0.456, 0.406, 0.485)


def test_tags_are_part_of_timms_names() -> None:
    assert create_backbone("resnet18.a1_in1k").channels == (128, 256, 512)
    with pytest.raises(ValueError, match="resnet18"):
        create_backbone("resnet18.no_such_tag")


def test_copies_and_pickles_are_independent() -> None:
    import copy
    import pickle

    backbone = create_backbone("mobilenetv3_small_050").eval()
    x = torch.randn(1, 3, 32, 32)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        for a, b in zip(backbone(x), twin(x), strict=True):
            torch.testing.assert_close(a, b)
        mine = {id(p) for p in twin.parameters()}
        assert {id(p) for stage in twin.stages for m in stage for p in m.parameters()} == mine
        assert not mine & {id(p) for p in backbone.parameters()}


@pytest.mark.slow
def test_packages_stay_light() -> None:
    """The names import without timm and torchvision: they cost seconds."""
    import subprocess
    import sys

    code = "import sys, detseg.backbones; sys.exit('timm' in sys.modules or 'torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
