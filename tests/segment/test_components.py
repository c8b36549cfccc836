"""Boxes from masks: by hand, against scipy and a flood fill, and the edges."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from detseg.segment import IGNORE_INDEX, masks_to_boxes


def test_by_hand() -> None:
    labels = torch.tensor(
        [
            [1, 1, 0, 0, 2],
            [1, 0, 0, 2, 0],
            [0, 0, 0, 0, 0],
            [1, 2, 2, 255, 2],
        ]
    )
    found = masks_to_boxes(labels)
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert found["labels"].dtype == torch.int64
    objects = {(int(k), *box) for k, box in zip(found["labels"], found["boxes"].int().tolist(), strict=True)}
    assert objects == {
        (1, 0, 0, 2, 2),
        (1, 0, 3, 1, 4),
        (2, 3, 0, 5, 2),  # by a corner
        (2, 1, 3, 3, 4),
        (2, 4, 3, 5, 4),  # what is ignored does not connect
    }
    assert found["areas"].tolist() == [3, 2, 2, 1, 1] and (found["scores"] == 1).all()


def test_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be torch tensors, got ndarray: torch\.from_numpy"):
        masks_to_boxes(np.zeros((2, 2), np.int64))


def test_scores_are_mean_probabilities_and_sort() -> None:
    labels = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 2]])
    probabilities = torch.zeros(3, 2, 4)
    probabilities[1] = torch.tensor([[0.5, 0.7, 9.0, 0.9], [9, 9, 9, 9]])
    probabilities[2, 1, 3] = 0.75
    found = masks_to_boxes(labels, probabilities)
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.75, 0.6]))
    assert found["labels"].tolist() == [1, 2, 1]
    assert found["boxes"].tolist() == [[3, 0, 4, 1], [3, 1, 4, 2], [0, 0, 2, 1]]


def scene(seed: int) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=(4, 37, 53)), (0, 1.5, 1.5))
    labels = smooth.argmax(0)
    labels[generator.random(labels.shape) < 0.03] = IGNORE_INDEX
    return torch.tensor(labels, dtype=torch.uint8), torch.tensor(generator.random((4, 37, 53)), dtype=torch.float32)


@pytest.mark.parametrize(("seed", "min_area"), [(0, 1), (1, 6), (2, 1)])
def test_scipy_finds_the_same(seed: int, min_area: int) -> None:
    """Oracle: `scipy.ndimage.label` with all eight neighbours."""
    labels, probabilities = scene(seed)
    found = masks_to_boxes(labels, probabilities, min_area=min_area)
    expected = []
    for k in (1, 2, 3):
        index, count = ndimage.label(labels.numpy() == k, structure=np.ones((3, 3)))
        for i, (rows, columns) in enumerate(ndimage.find_objects(index), 1):
            area = int((index == i).sum())
            score = float(probabilities[k].numpy()[index == i].mean())
            if area >= min_area:
                expected.append((k, columns.start, rows.start, columns.stop, rows.stop, area, pytest.approx(score)))
        assert count == len(ndimage.find_objects(index))
    mine = [
        (int(k), *map(int, box), int(area), float(score))
        for k, box, area, score in zip(*(found[n] for n in ("labels", "boxes", "areas", "scores")), strict=True)
    ]
    assert sorted(mine) == sorted(expected, key=lambda row: row[:6])
    assert (found["scores"].diff() <= 0).all()


def flood(mask: np.ndarray) -> set[frozenset[tuple[int, int]]]:
    todo = set(zip(*(axis.tolist() for axis in mask.nonzero()), strict=True))
    parts = set()
    while todo:
        front, part = [todo.pop()], set()
        while front:
            y, x = front.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            front += near
        parts.add(frozenset(part))
    return parts


def test_a_flood_fill_finds_the_same() -> None:
    labels, _ = scene(9)
    found = masks_to_boxes(labels, background=None)
    parts = [part for k in range(4) for part in flood(labels.numpy() == k)]
    expected = sorted(
        [min(x for _, x in p), min(y for y, _ in p), max(x for _, x in p) + 1, max(y for y, _ in p) + 1] for p in parts
    )
    assert sorted(found["boxes"].int().tolist()) == expected
    assert int(found["areas"].sum()) == int((labels != IGNORE_INDEX).sum())


def test_the_order_of_rows_and_columns_does_not_matter() -> None:
    labels, _ = scene(2)
    turned = masks_to_boxes(labels.T.contiguous())["boxes"][:, [1, 0, 3, 2]]
    assert sorted(turned.tolist()) == sorted(masks_to_boxes(labels)["boxes"].tolist())


@pytest.mark.parametrize(("value", "size"), [(0, (5, 4)), (IGNORE_INDEX, (1, 1)), (0, (0, 3))])
def test_nothing(value: int, size: tuple[int, int]) -> None:
    found = masks_to_boxes(torch.full(size, value, dtype=torch.int64), torch.zeros(2, *size))
    assert found["boxes"].shape == (0, 4) and found["boxes"].dtype == torch.float32
    assert found["labels"].shape == found["scores"].shape == (0,) and found["labels"].dtype == torch.int64


def test_one_pixel_and_everything() -> None:
    assert masks_to_boxes(torch.ones(1, 1, dtype=torch.int64))["boxes"].tolist() == [[0, 0, 1, 1]]
    assert masks_to_boxes(torch.ones(7, 9, dtype=torch.int64))["boxes"].tolist() == [[0, 0, 9, 7]]
    assert len(masks_to_boxes(torch.ones(7, 9, dtype=torch.int64), min_area=64)["boxes"]) == 0


def test_wrong_arguments_are_named() -> None:
    labels = torch.ones(3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"\(H, W\) integers, got torch.float32"):
        masks_to_boxes(labels.float())
    with pytest.raises(ValueError, match=r"\(1, 3, 4\)"):
        masks_to_boxes(labels[None])
    with pytest.raises(ValueError, match=r"\(3, 4\), got \(2, 4, 3\)"):
        masks_to_boxes(labels, torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match=r"1 classes, labels hold \[1\]"):
        masks_to_boxes(labels, torch.zeros(1, 3, 4))
    for ignored in (-1, -100):
        with pytest.raises(ValueError, match=f"labels hold {ignored}, which is no class; .* with 255"):
            masks_to_boxes(torch.tensor([[ignored, 0, 1]]))
    with pytest.raises(ValueError, match="min_area"):
        masks_to_boxes(labels, min_area=0)
