"""Assignment: against a slow reference, and its laws."""

import itertools

import pytest
import torch

from detseg.detect.assign import assign, candidates
from detseg.detect.grid import Grid, make_grid

ANCHORS = [torch.tensor([[10.0, 14.0], [20.0, 16.0]]), torch.tensor([[30.0, 60.0], [50.0, 40.0]])]


def small_grid() -> Grid:
    return make_grid([(8, 6), (4, 3)], (8, 16), ANCHORS)


def shape_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    overlap = min(float(a[0]), float(b[0])) * min(float(a[1]), float(b[1]))
    return overlap / (float(a.prod()) + float(b.prod()) - overlap)


def reference(
    grid: Grid, boxes: torch.Tensor, image: list[int], usable: list[bool], reach: float, least: float
) -> dict[tuple[int, int], int]:
    """(image, prediction) -> object, by loops over everything."""
    claims: dict[tuple[int, int], tuple[float, int]] = {}
    for m, box in enumerate(boxes):
        if not usable[m]:
            continue
        size, centre = box[2:] - box[:2], (box[:2] + box[2:]) / 2
        near = {}
        for p in range(len(grid.corners)):
            offset = (centre - grid.corners[p]) / grid.stride[p]
            own = bool((offset >= 0).all() and (offset < 1).all())
            if own or float((offset - 0.5).abs().max()) < reach:
                near[p] = shape_iou(size, grid.anchors[p])
        best = max(near.values())
        for p, fit in near.items():
            key = (image[m], p)
            if (fit >= least or fit >= best - 1e-7) and (key not in claims or fit > claims[key][0] + 1e-7):
                claims[key] = (fit, m)
    return {key: m for key, (_, m) in claims.items()}


def chosen_pairs(assignment, predictions: int) -> dict[tuple[int, int], int]:
    found = {}
    for m, c in assignment.chosen.nonzero().tolist():
        flat = int(assignment.prediction[m, c])
        assert divmod(flat, predictions) not in found, "a prediction learns two objects"
        found[divmod(flat, predictions)] = m
    return found


@pytest.mark.parametrize("reach", [0.5, 1.0, 1.5])
def test_equals_the_slow_reference(reach: float) -> None:
    count, grid = 7, small_grid()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([40.0, 55.0])
        boxes = torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * 60), 1)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        boxes = boxes - (centre - centre.minimum(torch.tensor([47.0, 63.0]))).repeat(1, 2)
        image = torch.randint(0, 2, (count,), generator=generator)
        usable = torch.rand(count, generator=generator) > 0.2
        got = assign(grid, boxes, image, usable, 2, reach=reach, shape_iou=0.4)
        expected = reference(grid, boxes, image.tolist(), usable.tolist(), reach, 0.4)
        assert chosen_pairs(got, len(grid.corners)) == expected, seed


def test_half_a_cell_is_the_yolo_cell_alone() -> None:
    grid = small_grid()
    index, near = candidates(grid, torch.tensor([[9.0, 9.0, 19.0, 29.0]]), 0.5)
    cells = {(*grid.corners[p].tolist(), float(grid.stride[p])) for p in index[near].tolist()}
    assert cells == {(8.0, 16.0, 8.0), (0.0, 16.0, 16.0)}


def test_every_object_has_a_prediction_unless_it_loses_it_to_a_better_one() -> None:
    grid = small_grid()
    tiny_and_huge = torch.tensor([[3.0, 3.0, 3.5, 3.5], [-200.0, -200.0, 300.0, 300.0]])
    got = assign(grid, tiny_and_huge, torch.tensor([0, 0]), torch.tensor([True, True]), 1)
    assert got.chosen.any(1).all()


def test_twins_share_without_overlap_and_crowds_get_nothing() -> None:
    grid = small_grid()
    box = torch.tensor([[10.0, 10.0, 30.0, 26.0]])
    twins = assign(grid, box.repeat(2, 1), torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool), 1)
    assert twins.chosen[0].any() and not twins.chosen[1].any()
    crowd = assign(grid, box, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.bool), 1)
    assert not crowd.chosen.any()


def test_no_objects() -> None:
    grid = small_grid()
    got = assign(grid, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool), 3)
    assert got.prediction.shape == got.chosen.shape == (0, got.prediction.shape[1])


def test_order_of_objects_does_not_matter() -> None:
    grid = small_grid()
    boxes = torch.tensor([[10.0, 10.0, 30.0, 26.0], [12.0, 11.0, 40.0, 50.0], [0.0, 0.0, 9.0, 9.0]])
    image, usable = torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.bool)
    straight = chosen_pairs(assign(grid, boxes, image, usable, 1), len(grid.corners))
    for order in itertools.permutations(range(3)):
        turned = chosen_pairs(assign(grid, boxes[list(order)], image, usable, 1), len(grid.corners))
        assert {key: order[m] for key, m in turned.items()} == straight
