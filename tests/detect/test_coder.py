"""Deltas of boxes against torchvision's coder."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from detseg.detect.coder import HEAD, UNIT, decode_deltas, encode_deltas


def boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corners, corners + 1 + 80 * torch.rand(count, 2, generator=generator)], 1)


@pytest.mark.parametrize("weights", [UNIT, HEAD])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_torchvision_codes_alike_and_back(weights, count):
    wanted, priors, theirs = boxes(count, 1), boxes(count, 2), BoxCoder(weights)
    deltas = encode_deltas(wanted, priors, weights)
    torch.testing.assert_close(deltas, theirs.encode_single(wanted, priors))
    torch.testing.assert_close(decode_deltas(deltas, priors, weights), wanted)
    wild = deltas * 3 + 1
    torch.testing.assert_close(decode_deltas(wild, priors, weights), theirs.decode_single(wild, priors))


def test_half_precision_is_widened_and_sizes_are_bounded():
    priors = boxes(4, 3)
    found = decode_deltas(torch.full((4, 4), 100.0, dtype=torch.bfloat16), priors)
    assert found.dtype == torch.float32 and found.isfinite().all()
    torch.testing.assert_close(found[:, 2:] - found[:, :2], (priors[:, 2:] - priors[:, :2]) * 62.5, rtol=1e-4, atol=0)


def test_priors_broadcast():
    priors = boxes(5, 4)
    assert decode_deltas(torch.zeros(3, 5, 4), priors).shape == (3, 5, 4)
