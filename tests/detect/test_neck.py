"""The feature pyramid: levels lie on each other, whatever their strides and the image's size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detseg.detect.pyramid import FeaturePyramid


def test_a_map_that_ends_early_is_cut_from_the_whole_one() -> None:
    for strides, size in (((8, 32), 9), ((8, 24), 7), ((8, 16), 5)):
        torch.manual_seed(0)
        pyramid = FeaturePyramid((4, 6), strides, 8).eval()
        pyramid.smooth = nn.ModuleList([nn.Identity(), nn.Identity()])  # which would see beyond the border
        fine, coarse = torch.randn(1, 4, size, size), torch.randn(1, 6, 3, 3)
        missing = 3 * strides[1] // strides[0] - size
        whole, _ = pyramid([F.pad(fine, (0, missing, 0, missing)), coarse])
        torch.testing.assert_close(pyramid([fine, coarse])[0], whole[..., :size, :size])


def test_strides_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="stride 12 is no multiple of stride 8"):
        FeaturePyramid((4, 6), (8, 12), 8)
