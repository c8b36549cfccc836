"""Folding fixed batch norms into convolutions changes nothing but the time it takes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from detseg.backbones import create_backbone
from detseg.backbones.folding import fold_backbone, fold_norms


def shake_norms(net: nn.Module) -> int:
    """Give every batch norm statistics and an affine map that matter; returns how many there are."""
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        for tensor, low, high in (
            (norm.running_mean, -0.2, 0.2),
            (norm.running_var, 0.5, 2.0),
            (norm.weight, 0.5, 1.5),
        ):
            tensor.data.uniform_(low, high, generator=generator)
        norm.bias.data.uniform_(-0.2, 0.2, generator=generator)
    return len(norms)


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("tf_efficientnet_lite0", True),
        ("resnet18", True),
        ("mobilenetv3_small_050", True),
        ("regnetx_002", True),
        ("repvgg_a0", False),  # some norms stand alone, on the identity branch
        ("densenet121", False),  # norms before convolutions
        ("convnext_atto", True),  # no batch norm at all
    ],
)
@torch.no_grad()
def test_outputs_stay_and_norms_go(name: str, every: bool) -> None:
    backbone = create_backbone(name, strides=(8, 16, 32)).eval()
    norms = shake_norms(backbone)
    stages = [sum(p.numel() for m in stage for p in m.parameters()) for stage in backbone.stages]
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    before = backbone(x)
    folded = fold_norms(backbone.net, x)
    assert folded == norms if every else 0 < folded < norms
    assert sum(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()) == norms - folded
    for a, b in zip(before, backbone(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    after = [sum(p.numel() for m in stage for p in m.parameters()) for stage in backbone.stages]
    assert len(after) == len(stages) and all(n > 0 for n in after), "stages can still be frozen"


@pytest.mark.parametrize(("name", "first", "then", "folded"), [
    ("resnet18", (32,), (8, 16, 32), True),
    ("resnet18", (4, 8, 16, 32), (4, 8), True),  # two stages of the file have no place
    ("resnet18", (16,), (4, 8), False),
    ("densenet121", (8, 16), (4, 8), True),  # some norms stay
    ("repvgg_a0", (8,), (4, 8), True),
    ("repvgg_a0", (8,), (4, 8), False),
    ("convnext_atto", (16,), (8,), True),  # no batch norm at all
])  # fmt: skip
def test_files_of_folded_backbones(
    name: str, first: tuple[int, ...], then: tuple[int, ...], folded: bool, tmp_path: Path
) -> None:
    """A file's weights get their places by name, folded or not, whatever maps either network gives out."""
    trained = create_backbone(name, strides=first)
    norms = shake_norms(trained)
    if folded:
        fold_backbone(trained)
    # As in the file of a trained model: with the rest of it.
    state = {f"backbone.{key}": value for key, value in trained.state_dict().items()} | {"fc.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "model.pt")
    new = create_backbone(name, strides=then, pretrained=tmp_path / "model.pt")
    assert sum(isinstance(m, nn.BatchNorm2d) for m in new.modules()) < norms or not (folded and norms)
    for key, value in new.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key
    assert new.strides == then


def test_training_mode_and_gradients_survive() -> None:
    backbone = create_backbone("resnet18", strides=(8, 16, 32)).train()
    fold_norms(backbone.net, torch.zeros(1, 3, 64, 64))
    assert backbone.training
    sum(map(torch.sum, backbone(torch.randn(2, 3, 64, 64)))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@torch.no_grad()
def test_a_convolution_used_twice_keeps_its_norm() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(self.conv(x)))

    net = Shared().eval()
    shake_norms(net)
    x = torch.randn(1, 3, 8, 8)
    before = net(x)
    assert fold_norms(net, x) == 0
    torch.testing.assert_close(net(x), before)
