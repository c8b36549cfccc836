"""Boxes as offsets from priors: the box-regression parametrisation of R-CNN (Girshick et al. 2014, appendix C).

For a prior with centre (px, py), width pw and height ph, and weights (wx, wy, ww, wh)::

    tx = wx * (x - px) / pw    tw = ww * log(w / pw)
    ty = wy * (y - py) / ph    th = wh * log(h / ph)

The weights bring the four numbers to one scale: (1, 1, 1, 1) in region proposal networks, (10, 10, 5, 5) in box heads
and in SSD, where they are called variances and are their inverses (0.1, 0.1, 0.2, 0.2).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.detect.grid import MAX_LOG_SCALE

Weights = Sequence[float]
UNIT: Weights = (1.0, 1.0, 1.0, 1.0)
HEAD: Weights = (10.0, 10.0, 5.0, 5.0)


def encode_deltas(boxes: Tensor, priors: Tensor, weights: Weights = UNIT) -> Tensor:
    """(tx, ty, tw, th) (..., 4) float32 of boxes seen from priors, both (..., 4) xyxy in pixels with area."""
    centre, size = _centre_and_size(boxes)
    prior_centre, prior_size = _centre_and_size(priors)
    scale = boxes.new_tensor(weights, dtype=torch.float32)
    return torch.cat([(centre - prior_centre) / prior_size, torch.log(size / prior_size)], -1) * scale


def decode_deltas(deltas: Tensor, priors: Tensor, weights: Weights = UNIT) -> Tensor:
    """Inverse of `encode_deltas`: boxes (..., 4) xyxy float32; shapes broadcast, sizes stay below 62.5 priors'."""
    deltas = deltas.float() / deltas.new_tensor(weights, dtype=torch.float32)
    prior_centre, prior_size = _centre_and_size(priors)
    centre = prior_centre + deltas[..., :2] * prior_size
    half = prior_size * deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.float().split(2, -1)
    return (low + high) / 2, high - low
