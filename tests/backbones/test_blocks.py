import pytest
import torch

from detseg.backbones.blocks import ResidualSeparable, conv_norm_act, separable


@pytest.mark.parametrize(("kernel_size", "size"), [(3, (1, 1)), (5, (7, 12))])
def test_a_residual_block_begins_as_the_identity(kernel_size, size):
    x = torch.randn(2, 8, *size)
    assert torch.equal(ResidualSeparable(8, kernel_size).train()(x), x)
    changed = ResidualSeparable(8, kernel_size, start_at_zero=False).train()(x)
    assert changed.shape == x.shape and (size == (1, 1) or not torch.allclose(changed, x))


def test_a_separable_block_has_few_weights():
    convolutions = sum(p.numel() for p in separable(8, 16, 5).parameters() if p.ndim == 4)
    assert convolutions == 8 * (5 * 5 + 16)
    assert sum(p.numel() for p in conv_norm_act(8, 16).parameters()) == 8 * 16 + 2 * 16


def test_every_weight_of_a_residual_block_learns_after_a_step():
    block = ResidualSeparable(4).train()
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    x, wanted = torch.randn(2, 2, 4, 9, 9)
    for _ in range(2):  # with its norm at zero the first step reaches that norm only
        optimizer.zero_grad()
        (block(x) - wanted).square().mean().backward()
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for p in block.parameters())
