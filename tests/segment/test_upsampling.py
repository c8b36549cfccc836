"""Bilinear transposed convolution: alignment, kernel, equality with interpolation."""

import numpy as np
import pytest
import torch
from onnx.backend.test.case.node import collect_testcases
from onnx.helper import get_attribute_value
from onnx.reference.ops.op_conv_transpose import ConvTranspose
from torch.nn import functional as F

from detseg.segment.upsampling import BilinearUpsample, bilinear_kernel, transposed_upsample

FACTORS = [1, 2, 3, 4, 5, 8, 16, 32]


def test_kernels_by_hand() -> None:
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(bilinear_kernel(2), torch.outer(line, line))
    line = torch.tensor([1, 2, 3, 2, 1]) / 3
    torch.testing.assert_close(bilinear_kernel(3), torch.outer(line, line))
    assert bilinear_kernel(1).tolist() == [[1.0]]


def test_a_kernel_spreads_each_cell_evenly() -> None:
    """Every fine pixel gets weights that sum to one: the kernel's phases do."""
    for factor in FACTORS:
        kernel = bilinear_kernel(factor)
        assert len(kernel) == 2 * factor - factor % 2
        for y in range(factor):
            for x in range(factor):
                assert float(kernel[y::factor, x::factor].sum()) == pytest.approx(1), factor


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4)])
def test_transposed_convolution_is_interpolation(size: tuple[int, int]) -> None:
    for factor in FACTORS:
        check_interpolation(factor, size)


def check_interpolation(factor: int, size: tuple[int, int]) -> None:
    """Everywhere, the border too, since the border is repeated as interpolation does."""
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    weight = bilinear_kernel(factor).double().repeat(3, 1, 1, 1)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(transposed_upsample(x, weight, factor), expected, rtol=0, atol=1e-6)
    learnable = BilinearUpsample(3, factor, learnable=True).double()
    fixed = BilinearUpsample(3, factor).double()
    torch.testing.assert_close(fixed(x), expected)
    torch.testing.assert_close(learnable(x), expected, rtol=0, atol=1e-6)
    assert not list(fixed.parameters())
    assert learnable(x.float()).dtype == torch.float32


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_plain_transposed_convolution_is_interpolation_in_the_interior(factor: int) -> None:
    """The derivation of the module's text without the repeated border: padding is factor // 2 and n · f come out."""
    x = torch.randn(1, 1, 5, 6)
    plain = F.conv_transpose2d(x, bilinear_kernel(factor)[None, None], stride=factor, padding=factor // 2)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert plain.shape == expected.shape
    inner = slice(factor // 2, -(factor // 2) or None)
    torch.testing.assert_close(plain[..., inner, inner], expected[..., inner, inner])
    if factor > 1:
        assert not torch.allclose(plain, expected), "at the border zeros are added"


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_onnx_agrees_on_stride_padding_and_groups(factor: int) -> None:
    """Oracle: ONNX's reference ConvTranspose, whose rules for sizes and padding are written down in its standard."""
    x = torch.randn(1, 2, 3, 4)
    weight = torch.randn(2, 1, *bilinear_kernel(factor).shape)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    pads = [factor // 2 + factor] * 4
    parts = [
        ConvTranspose.eval(padded[:, c : c + 1], weight[c : c + 1].numpy(), strides=[factor] * 2, pads=pads)
        for c in range(2)
    ]
    expected = torch.from_numpy(np.concatenate(parts, 1))
    torch.testing.assert_close(transposed_upsample(x, weight, factor), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from ONNX's cases of other operators
def test_onnx_published_cases() -> None:
    """torch's transposed convolution and the oracle above mean the same by stride, padding, dilation and groups."""
    tried = 0
    for case in collect_testcases("ConvTranspose"):
        options = {a.name: get_attribute_value(a) for a in case.model.graph.node[0].attribute}
        (inputs, (wanted,)) = case.data_sets[0]
        pads = options.get("pads", [0, 0, 0, 0])
        if inputs[0].ndim != 4 or pads[:2] != pads[2:] or {"output_shape", "auto_pad"} & options.keys():
            continue  # what torch has no words for
        tried += 1
        np.testing.assert_allclose(ConvTranspose.eval(*inputs, **options), wanted, rtol=1e-6)
        got = F.conv_transpose2d(
            *map(torch.from_numpy, inputs), None, options.get("strides", 1), tuple(pads[:2]),
            options.get("output_padding", 0), options.get("group", 1), options.get("dilations", 1),
        )  # fmt: skip
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert tried >= 6


def test_a_cell_lands_on_its_pixels() -> None:
    """One cell lit: its light is symmetric about the middle of the pixels it stands for."""
    for factor in FACTORS:
        x = torch.zeros(1, 1, 5, 5)
        x[..., 2, 3] = 1
        y = BilinearUpsample(1, factor, learnable=True)(x)[0, 0].detach()
        grid = torch.arange(5 * factor) + 0.5
        assert float((y.sum(1) * grid).sum() / y.sum()) == pytest.approx(2.5 * factor, abs=1e-3)
        assert float((y.sum(0) * grid).sum() / y.sum()) == pytest.approx(3.5 * factor, abs=1e-3)


def test_gradients_reach_kernel_and_map() -> None:
    upsample = BilinearUpsample(2, 4, learnable=True)
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    upsample(x).square().sum().backward()
    assert upsample.weight is not None and upsample.weight.grad is not None and x.grad is not None
    assert (upsample.weight.grad != 0).any() and x.grad.isfinite().all()


def test_wrong_factors() -> None:
    for factor in (0, -2, 1.5):
        with pytest.raises(ValueError, match="whole number"):
            BilinearUpsample(2, factor)  # type: ignore[arg-type]


def test_wrong_weights() -> None:
    with pytest.raises(ValueError, match=r"\(3, 1, 4, 4\) for factor 2"):
        transposed_upsample(torch.zeros(1, 3, 2, 2), torch.zeros(3, 1, 3, 3), 2)
