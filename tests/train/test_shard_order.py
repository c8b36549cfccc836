"""The order of training from shards: a pure function that stays near, and changes nothing else."""

import numpy as np
import pytest

from detseg.data.shard_cache import TOGETHER
from detseg.train.sampler import BatchPlan, SizeSchedule, TrainingSamples, epoch_order, epoch_windows
from tests.train.runs import Drawn


class Plain:
    """In place of an augmentation, which takes long."""

    def __init__(self, size):
        pass

    def __call__(self, sample, rng):
        return sample

    def mosaic(self, samples, rng):
        return samples[0]

    def copy_paste(self, onto, other, rng):
        return onto


def shards_of(count, each):
    return np.repeat(np.arange(count), each)


def test_every_image_comes_once_and_few_shards_are_read_at_a_time():
    rng = np.random.default_rng(0)
    shards = rng.permutation(np.repeat(np.arange(50), rng.integers(1, 40, 50)))  # of any size and order
    order = epoch_order(len(shards), 1, seed=3, epoch=2, shards=shards)
    assert sorted(order.tolist()) == list(range(len(shards)))
    window = epoch_windows(shards, seed=3, epoch=2)
    assert (np.diff(window[order]) >= 0).all(), "a window is left for good"
    read = [set(shards[window == w].tolist()) for w in range(window.max() + 1)]
    assert [len(one) for one in read] == [TOGETHER] * 3 + [50 % TOGETHER]
    assert len(set.union(*read)) == 50


def test_it_is_random_between_windows_and_in_them():
    shards = shards_of(3 * TOGETHER, 5)
    orders = [epoch_order(len(shards), 1, seed=1, epoch=epoch, shards=shards) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(orders[2], epoch_order(len(shards), 1, seed=1, epoch=2, shards=shards))
    firsts = [frozenset(shards[order[: 5 * TOGETHER]]) for order in orders]
    assert len(set(firsts)) == 4, "windows have other shards in every epoch"
    assert (np.abs(np.diff(shards[orders[0]])) > 0).mean() > 0.8, "neighbours are of different shards"


@pytest.mark.parametrize("count", [1, 2, TOGETHER])
def test_one_window_over_all_is_the_order_of_files(count):
    shards = shards_of(count, 7)
    for epoch in range(3):
        expected = epoch_order(len(shards), 4, seed=5, epoch=epoch)
        assert np.array_equal(epoch_order(len(shards), 4, seed=5, epoch=epoch, shards=shards), expected)


def plan(shards, batch_size, count, first_step=0, **options):
    batches = BatchPlan(len(shards), batch_size, SizeSchedule(64, 64), lambda _: 0.0, seed=2, shards=shards,
                        first_step=first_step, **options)  # fmt: skip
    return [[request.image for request in batch] for _, batch in zip(range(count), batches, strict=False)]


@pytest.mark.parametrize("world", [2, 4])
def test_so_many_processes_see_the_same_batches_together(world):
    shards = shards_of(40, 6)
    alone = plan(shards, 8, 50)
    shares = [plan(shards, 8 // world, 50, rank=rank, world=world) for rank in range(world)]
    assert [[image for part in parts for image in part] for parts in zip(*shares, strict=True)] == alone
    assert plan(shards, 8, 20, first_step=30) == alone[30:], "and go on in the midst"


def test_partners_are_of_the_same_window():
    shards = shards_of(3 * TOGETHER, 2)
    images = Drawn(images=len(shards))
    images.shards = shards
    samples = TrainingSamples(images, 2, Plain)
    sizes = SizeSchedule(64, 64, mosaic=0.5, mixup=0.5, copy_paste=0.5)
    batches = BatchPlan(len(shards), 8, sizes, lambda _: 0.0, seed=2, shards=shards)
    partners = set()
    for _, batch in zip(range(18), batches, strict=False):
        for request in batch:
            _, indices = samples[request]
            windows = epoch_windows(shards, seed=2, epoch=request.epoch)[indices]
            assert len(set(windows.tolist())) == 1
            partners |= set(indices[1:])
    assert len(partners) > 60


def test_with_one_window_partners_are_those_of_files():
    images, sharded = Drawn(images=12), Drawn(images=12)
    sharded.shards = shards_of(3, 4)
    sizes = SizeSchedule(64, 64, mosaic=0.5, mixup=0.5, copy_paste=0.5)
    for request in next(iter(BatchPlan(12, 12, sizes, lambda _: 0.0, seed=2))):
        assert TrainingSamples(images, 2, Plain)[request][1] == TrainingSamples(sharded, 2, Plain)[request][1]
