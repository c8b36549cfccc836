"""The arithmetic of convolutions that a textbook works out, on the layers and the padding this project uses."""

import itertools
import math

import torch
from torch import nn

from detseg.backbones.quick_convolutions import pad_same


def test_parameters_of_a_convolution():
    """(5 * 5 * 3 + 1) * 200, whatever the image's size; fully connected, the same maps of 150 x 100 need 135 G."""
    assert sum(p.numel() for p in nn.Conv2d(3, 200, 5).parameters()) == 15_200


def test_thirteen_wide_with_a_kernel_of_six_at_stride_five():
    """VALID drops what does not fit, SAME pads 3: one zero on the left, two on the right."""
    conv = nn.Conv2d(1, 1, (1, 6), stride=(1, 5), bias=False)
    conv.weight.data.fill_(1)
    x = torch.arange(1.0, 14).view(1, 1, 1, 13)
    assert conv(x).flatten().tolist() == [sum(range(1, 7)), sum(range(6, 12))]
    padded = pad_same(x, conv)
    assert padded.flatten().tolist() == [0, *range(1, 14), 0, 0]
    assert conv(padded).flatten().tolist() == [sum(range(1, 6)), sum(range(5, 11)), sum(range(10, 14))]


def test_sizes_of_valid_and_same():
    for size, stride, kernel in itertools.product([1, 6, 13, 28], [1, 2, 5], [1, 2, 3, 6]):
        case = f"{size} wide, kernel {kernel}, stride {stride}"
        conv = nn.Conv2d(1, 1, kernel, stride)
        x = torch.zeros(1, 1, size, size)
        if size >= kernel:
            assert conv(x).shape[-1] == math.ceil((size - kernel + 1) / stride), case
        assert conv(pad_same(x, conv)).shape[-2:] == (math.ceil(size / stride),) * 2, case
