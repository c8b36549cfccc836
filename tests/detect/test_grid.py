"""The grid's coder: decode and encode are inverse, and mean what the papers say."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.detect.grid import MAX_LOG_SCALE, SPAN, decode, encode, make_grid, means_of

ANCHORS = [torch.tensor([[10.0, 20.0], [30.0, 15.0]]), torch.tensor([[60.0, 80.0], [100.0, 90.0]])]


def grid_of(rows=3, columns=4):
    return make_grid([(2 * rows, 2 * columns), (rows, columns)], (8, 16), ANCHORS)


def test_layout_is_level_row_column_anchor():
    grid = grid_of(1, 2)  # 2x4 cells of 8 pixels, then 1x2 of 16
    assert grid.corners.shape == (2 * 4 * 2 + 2 * 2, 2)
    assert grid.corners[:4].tolist() == [[0, 0], [0, 0], [8, 0], [8, 0]]
    assert grid.corners[8].tolist() == [0, 8]  # second row
    assert grid.corners[-2:].tolist() == [[16, 0], [16, 0]]
    assert grid.stride.flatten().tolist() == [8] * 16 + [16] * 4
    assert grid.anchors[:3].tolist() == [[10, 20], [30, 15], [10, 20]]
    assert grid.anchors[-1].tolist() == [100, 90]


def test_logits_of_zero_are_the_anchor_in_the_middle_of_its_cell():
    grid = grid_of()
    middle = grid.corners + grid.stride / 2
    for reach in (0.5, 1, 1.5):
        boxes = decode(torch.zeros(len(grid.corners), 4), grid, reach)
        torch.testing.assert_close((boxes[:, :2] + boxes[:, 2:]) / 2, middle)
        torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], grid.anchors)


def test_a_cell_computed_by_hand():
    # Cell (row 1, column 2) of stride 8 has its corner at (16, 8); its first anchor is 10 x 20.
    grid = grid_of(3, 4)
    place = (1 * 8 + 2) * 2
    logits = torch.zeros(len(grid.corners), 4)
    logits[place] = torch.tensor([math.log(3), -math.log(3), math.log(2), math.log(0.5)])  # sigmoid: 3/4 and 1/4
    # reach 1/2: the logistic itself, centre (16 + 6, 8 + 2), size 20 x 10
    assert decode(logits, grid, 0.5)[place].tolist() == pytest.approx([12, 5, 32, 15])
    # reach 1: offsets (1/4)·2 + 1/2 = 1 and 0 cells: centre (24, 8)
    assert decode(logits, grid, 1)[place].tolist() == pytest.approx([14, 3, 34, 13])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-6, 6, width=32), min_size=4, max_size=4))
def test_reach_of_half_a_cell_is_the_form_of_yolov2(t):
    """b = (sigmoid(t) + c) · stride, (pw·exp, ph·exp); Redmon & Farhadi 2017, section 2, figure 3."""
    grid = grid_of(2, 2)
    boxes = decode(torch.tensor(t).expand(len(grid.corners), 4), grid, 0.5).double().numpy()
    cell = (grid.corners / grid.stride).double().numpy()
    centre = (1 / (1 + np.exp(-np.array(t[:2]))) + cell) * grid.stride.double().numpy()
    size = grid.anchors.double().numpy() * np.exp(np.clip(t[2:], -MAX_LOG_SCALE, MAX_LOG_SCALE))
    expected = np.concatenate([centre - size / 2, centre + size / 2], 1)
    np.testing.assert_allclose(boxes, expected, rtol=1e-5, atol=1e-3)


@settings(deadline=None, max_examples=100)
@given(
    reach=st.sampled_from([0.5, 1.0, 1.5]),
    place=st.integers(0, 2 * 6 * 8 + 2 * 3 * 4 - 1),
    inside=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
    scale=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)),
)
def test_decode_inverts_encode(reach, place, inside, scale):
    grid = grid_of(3, 4)
    share = (torch.tensor(inside) - 0.5) * 2 * reach + 0.5  # in cells from the corner, as far as the cell reaches
    centre = grid.corners[place] + share * grid.stride[place]
    half = grid.anchors[place] * torch.tensor(scale) / 2
    box = torch.cat([centre - half, centre + half])
    boxes = box.expand(len(grid.corners), 4)
    back = decode(encode(boxes, grid, reach), grid, reach)[place]
    torch.testing.assert_close(back, box, rtol=1e-4, atol=1e-3)


def test_encode_inverts_decode_and_stays_finite_out_of_reach():
    grid = grid_of()
    logits = torch.randn(2, len(grid.corners), 4, generator=torch.Generator().manual_seed(0))
    far = torch.tensor([1000.0, -1000.0, 1010.0, -990.0]).expand(len(grid.corners), 4)
    for reach in (0.5, 1, 1.5):
        torch.testing.assert_close(encode(decode(logits, grid, reach), grid, reach), logits, rtol=1e-3, atol=1e-3)
        assert encode(far, grid, reach).isfinite().all(), reach


def test_half_precision_logits_give_float32_boxes():
    grid = grid_of()
    for dtype in (torch.float16, torch.bfloat16):
        logits = torch.randn(len(grid.corners), 4, generator=torch.Generator().manual_seed(1)).to(dtype)
        boxes = decode(logits, grid, 1)
        assert boxes.dtype == torch.float32
        torch.testing.assert_close(boxes, decode(logits.float(), grid, 1), rtol=0, atol=0)


def test_huge_logits_stay_finite_with_finite_gradients():
    grid = grid_of()
    for value in (1e4, -1e4, 3e38, -3e38):
        logits = torch.full((len(grid.corners), 4), value, requires_grad=True)
        boxes = decode(logits, grid, 1)
        boxes.sum().backward()
        assert boxes.isfinite().all(), value
        assert logits.grad is not None
        assert logits.grad.isfinite().all(), value
        assert (boxes[:, 2:] - boxes[:, :2]).max() <= grid.anchors.max() * math.exp(MAX_LOG_SCALE) * 1.001, value


def test_equal_bins_are_the_anchor_in_the_middle_of_its_cell_and_sure_ones_their_value():
    grid = grid_of()
    boxes = decode(torch.zeros(len(grid.corners), 4 * 5), grid, 1)
    torch.testing.assert_close((boxes[:, :2] + boxes[:, 2:]) / 2, grid.corners + grid.stride / 2)
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], grid.anchors)
    logits = torch.full((len(grid.corners), 4, 5), -1e4)
    for number, sure in enumerate((0, 4, 3, 1)):  # -1, 1, 1/2 and -1/2
        logits[:, number, sure] = 1e4
    boxes = decode(logits.flatten(1), grid, 1.5)
    torch.testing.assert_close(
        (boxes[:, :2] + boxes[:, 2:]) / 2, grid.corners + grid.stride * torch.tensor([-1.0, 2.0])
    )
    scale = torch.tensor([math.exp(SPAN / 2), math.exp(-SPAN / 2)])
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], grid.anchors * scale)


@settings(deadline=None, max_examples=50)
@given(
    reach=st.sampled_from([0.5, 1.0, 1.5]),
    bins=st.sampled_from([2, 7, 16]),
    inside=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    scale=st.tuples(st.floats(-SPAN, SPAN), st.floats(-SPAN, SPAN)),
)
def test_the_means_of_a_box_are_those_it_is_decoded_from(reach, bins, inside, scale):
    grid = grid_of(2, 3)
    offset = torch.tensor(inside, dtype=torch.float32) * reach + 0.5
    centre = grid.corners + offset * grid.stride
    half = grid.anchors * torch.tensor(scale).exp() / 2
    boxes = torch.cat([centre - half, centre + half], 1).float()
    means = means_of(boxes, grid, reach)
    place = (means + 1) / 2 * (bins - 1)
    shares = (1 - (place[..., None] - torch.arange(bins)).abs()).clamp(min=0)  # of the two bins on either side
    back = decode(shares.log().clamp(min=-1e4).flatten(1), grid, reach)
    torch.testing.assert_close(back, boxes, rtol=1e-3, atol=2e-2)


def test_a_grid_is_taken_from_by_place():
    grid = grid_of()
    places = torch.tensor([[3, 0], [5, 3]])
    logits = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0))
    some = torch.zeros(len(grid.corners), 4)
    some[3] = logits[1, 1]
    torch.testing.assert_close(decode(logits, grid.take(places), 1)[1, 1], decode(some, grid, 1)[3])
