"""Hard negatives against a plain loop."""

import pytest
import torch

from detseg.detect.hard_negatives import hard_negatives


def one_by_one(loss, positive, negative, ratio, least):
    """The same, image by image."""
    result = torch.zeros_like(negative)
    for image in range(len(loss)):
        places = sorted(negative[image].nonzero().flatten().tolist(), key=lambda place: -loss[image, place])
        result[image, places[: max(least, ratio * int(positive[image].sum()))]] = True
    return result


@pytest.mark.parametrize("seed", range(4))
def test_as_one_by_one(seed):
    generator = torch.Generator().manual_seed(seed)
    loss = torch.rand(5, 40, generator=generator)
    kinds = torch.rand(5, 40, generator=generator)
    positive, negative = kinds < 0.1 * seed, kinds > 0.1 * seed + 0.2  # many, and none in the first; some are neither
    for ratio, least in ((3, 0), (3, 7), (1, 100)):
        found = hard_negatives(loss, positive, negative, ratio=ratio, least=least)
        assert torch.equal(found, one_by_one(loss, positive, negative, ratio, least))


def test_of_equal_losses_as_many_as_wanted():
    positive = torch.tensor([[True, False, False, False, False]])
    for loss in (torch.zeros(1, 5), torch.full((1, 5), torch.inf)):
        assert hard_negatives(loss, positive, ~positive).sum() == 3


def test_nothing_to_choose_from():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert not hard_negatives(torch.ones(2, 3), ~nothing, nothing).any()
    assert hard_negatives(torch.ones(2, 0), nothing[:, :0], nothing[:, :0], least=5).shape == (2, 0)
