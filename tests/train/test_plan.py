"""What a run shows the network and when."""

import numpy as np
import pytest

from detseg.data.augment.mosaic import mixup
from detseg.data.augment.transforms import TrainTransform
from detseg.train.sampler import BatchPlan, Progress, SizeSchedule, TrainingSamples, epoch_order, steps_per_epoch
from tests.train.runs import Drawn


def plan(images, batch_size, count, **options):
    sizes = options.pop("sizes", SizeSchedule(64, 64))
    fraction = options.pop("fraction", lambda step: 0.0)
    batches = iter(BatchPlan(images, batch_size, sizes, fraction, seed=options.pop("seed", 0), **options))
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize(
    ("images", "batch_size", "world", "expected"), [(10, 3, 1, 3), (12, 3, 2, 2), (2, 8, 1, 1), (1, 1, 4, 1)]
)
def test_steps_of_an_epoch(images, batch_size, world, expected):
    assert steps_per_epoch(images, batch_size, world) == expected
    assert len(epoch_order(images, batch_size, seed=0, epoch=0, world=world)) == expected * batch_size * world


def test_every_epoch_has_its_own_order_of_different_images():
    orders = [epoch_order(10, 3, seed=1, epoch=e) for e in range(5)]
    assert all(len(set(order.tolist())) == 9 for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    assert not np.array_equal(orders[0], epoch_order(10, 3, seed=2, epoch=0))


def test_a_set_smaller_than_a_batch_is_repeated():
    (batch,) = plan(3, 8, 1)
    counts = np.bincount([request.image for request in batch])
    assert sorted(counts.tolist()) == [2, 3, 3]
    assert len({request.position for request in batch}) == 8, "copies must be augmented differently"


def test_a_plan_begun_in_the_midst_goes_on_as_the_whole_one():
    options = {"sizes": SizeSchedule(128, 64, hold=2, mosaic=0.5, mixup=0.5, seed=3), "seed": 3}
    whole = plan(10, 3, 9, **options)
    assert plan(10, 3, 4, first_step=5, **options) == whole[5:]
    assert {request.epoch for batch in whole for request in batch} == {0, 1, 2}


def test_processes_share_an_epoch_without_overlap():
    shares = [plan(12, 2, 3, rank=rank, world=2) for rank in (0, 1)]
    seen = [request.image for share in shares for batch in share for request in batch]
    assert sorted(seen) == list(range(12))
    alone = plan(12, 4, 3)  # the same order as one process with batches twice as large
    joined = [[r.image for r in a + b] for a, b in zip(*shares, strict=True)]
    assert joined == [[r.image for r in batch] for batch in alone]


@pytest.mark.parametrize(("batch_size", "world", "parts"), [(4, 2, 1), (2, 4, 1), (4, 2, 2), (8, 1, 2), (1, 8, 1)])
def test_a_step_is_the_same_however_it_is_divided(batch_size, world, parts):
    """Images, and what is drawn for each, of a batch of eight; of several parts each is that of one process too."""
    sizes = SizeSchedule(128, 64, hold=1, mosaic=0.5, mixup=0.3, copy_paste=0.2)
    whole = plan(20, 8, 4 * parts, sizes=sizes, parts=parts)
    shares = [
        plan(20, batch_size, 4 * parts, sizes=sizes, parts=parts, rank=rank, world=world) for rank in range(world)
    ]
    assert [[r for share in batch for r in share] for batch in zip(*shares, strict=True)] == whole


def test_sizes_change_every_so_many_steps_and_settle_at_the_end():
    sizes = SizeSchedule(160, 96, hold=5, settle=0.3, mosaic=0.4, mixup=0.2, copy_paste=0.1)
    early = [sizes.at(step, 0.1) for step in range(200)]
    assert {size for size, *_ in early} == {96, 128}  # smaller ones, to save time
    assert all(early[i] == early[i - i % 5] for i in range(200))
    assert {look[1:] for look in early} == {(0.4, 0.2, 0.1)}
    assert {sizes.at(step, 0.7) for step in range(200)} == {(160, 0.0, 0.0, 0.0)}


def test_without_multi_scale_the_size_stays():
    assert {SizeSchedule(96, 96).at(step, 0) for step in range(50)} == {(96, 0.0, 0.0, 0.0)}


def test_mosaics_come_as_often_as_asked_for():
    batches = plan(50, 10, 100, sizes=SizeSchedule(64, 64, mosaic=0.3))
    share = np.mean([request.mosaic for batch in batches for request in batch])
    assert share == pytest.approx(0.3, abs=0.05)
    assert not any(request.mixup for batch in batches for request in batch)


def test_mixup_comes_as_often_as_asked_for_and_ends_with_the_mosaics():
    def requests(fraction, **shares):
        sizes = SizeSchedule(64, 64, **shares)
        return [request for batch in plan(50, 10, 100, sizes=sizes, fraction=lambda _: fraction) for request in batch]

    mixed = requests(0.69, mosaic=0.3, mixup=0.2)
    assert np.mean([request.mixup for request in mixed]) == pytest.approx(0.2, abs=0.05)
    assert np.mean([request.mixup and request.mosaic for request in mixed]) == pytest.approx(0.06, abs=0.03)
    assert [request._replace(mixup=False) for request in mixed] == requests(0.69, mosaic=0.3), "all else stays"
    pasted = requests(0.69, mosaic=0.3, mixup=0.2, copy_paste=0.4)
    assert np.mean([request.copy_paste for request in pasted]) == pytest.approx(0.4, abs=0.05)
    assert [request._replace(copy_paste=False) for request in pasted] == mixed, "all else stays here too"
    late = requests(0.7, mosaic=0.3, mixup=0.2, copy_paste=0.4)
    assert not any(request.mixup or request.mosaic or request.copy_paste for request in late)


def test_samples_depend_on_seed_epoch_and_position_only():
    (batch,) = plan(6, 2, 1, sizes=SizeSchedule(64, 64, mosaic=0.5))
    request = batch[0]
    samples = TrainingSamples(Drawn(), 1)
    first, indices = samples[request]
    samples[request._replace(epoch=4)]  # whatever was asked for in between
    again, _ = samples[request]
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    for other in (request._replace(epoch=1), request._replace(position=9)):
        assert not np.array_equal(samples[other][0].image, first.image)
    assert not np.array_equal(TrainingSamples(Drawn(), 2)[request][0].image, first.image)
    assert indices[0] == request.image


def test_a_mosaic_names_all_its_images():
    seen = []
    request = plan(6, 2, 1)[0][0]._replace(mosaic=True)
    sample, indices = TrainingSamples(Drawn(seen.append), 0)[request]
    assert sample.image.shape == (64, 64, 3)
    assert len(indices) == 4
    assert indices == seen
    assert indices[0] == request.image


def test_a_mixed_sample_is_two_samples_laid_over_each_other():
    request = plan(6, 2, 1)[0][0]
    images = Drawn()
    mixed, indices = TrainingSamples(images, 4)[request._replace(mixup=True)]
    rng, transform = np.random.default_rng((4, 3, request.epoch, request.position)), TrainTransform(64)
    first = transform(images[request.image], rng)
    other = int(rng.integers(len(images)))
    expected = mixup(first, transform(images[other], rng), rng)
    np.testing.assert_array_equal(mixed.image, expected.image)
    np.testing.assert_array_equal(mixed.boxes, expected.boxes)
    assert mixed.labels.tolist() == [request.image % 2, other % 2]
    assert indices == [request.image, other]


def test_a_mosaic_can_be_mixed_too():
    seen = []
    request = plan(6, 2, 1)[0][0]._replace(mosaic=True)
    alone, four = TrainingSamples(Drawn(), 0)[request]
    mixed, indices = TrainingSamples(Drawn(seen.append), 0)[request._replace(mixup=True)]
    assert indices == seen and indices[:4] == four and len(indices) == 5
    np.testing.assert_array_equal(mixed.boxes[: len(alone.boxes)], alone.boxes)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        plan(0, 2, 1)


def test_progress_by_steps():
    progress = Progress(10, None)
    assert progress.fraction() == 0
    progress.step = 5
    assert progress.fraction() == 0.5
    progress.step = 11
    assert progress.fraction() == 1


def test_progress_by_time_counts_earlier_processes(monkeypatch):
    class Clock:
        now = 50.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("detseg.train.sampler.time", clock)
    progress = Progress(None, 100.0, before=20.0)
    clock.now += 30
    assert progress.elapsed() == 50
    assert progress.fraction() == 0.5
    assert progress.fraction_at(999, 25.0) == 0.25
    clock.now += 1000
    assert progress.fraction() == 1


@pytest.mark.parametrize(("steps", "seconds"), [(None, None), (1, 1.0)])
def test_progress_needs_one_length(steps, seconds):
    with pytest.raises(ValueError, match="either"):
        Progress(steps, seconds)
