"""Windows cut from images: what is an object's own, what is background, what is written."""

import math

import numpy as np
import pytest

from detseg.data.annotations import Category
from detseg.data.checks.validate import validate
from detseg.data.formats import read_annotations
from detseg.data.images import read_image
from detseg.data.windows import CLEAR, FINEST, Window, WindowGrid, WindowsReport, choose_windows, cut_window, windows_of
from tests.cases import case
from tests.data.annotation_samples import make, write_picture

GRID = WindowGrid(size=160, stride=32)
NOTHING = np.zeros((0, 4))


def test_shares_by_hand():
    assert GRID.shares == pytest.approx((0.75 / math.sqrt(2), 0.75))
    assert WindowGrid(size=128, stride=32, ratio=1.5).shares == pytest.approx((0.5, 0.75))


def test_misfit_by_hand():
    for box, wanted in [
        # The middle of the window is (100, 100), half a step 16; the best size 160 * 0.75 / 2^(1/4) = 100.9.
        ((49.55, 80, 150.45, 120), 0),
        ((80, 49.55, 120, 150.45), 0),
        ((57.55, 80, 158.45, 120), 0.5),
        ((49.55, 48, 150.45, 88), 2),
        ((40, 90, 160, 110), 1),
        ((100 - 60 / math.sqrt(2), 90, 100 + 60 / math.sqrt(2), 110), 1),
        ((100 - 60, 100 - 120, 100 + 60, 100 + 120), 5),
        ((100, 100, 100, 100), math.inf),
    ]:
        with case(box, wanted):
            assert GRID.misfit(np.array([box]), Window(100, 100, 160))[0] == pytest.approx(wanted, abs=0.01)


def test_a_window_is_as_far_off_as_it_was_asked_to_be():
    rng = np.random.default_rng(0)
    for _ in range(100):
        corner, sides = rng.uniform(0, 400, 2), rng.uniform(1, 300, 2)
        box, steps = np.concatenate([corner, corner + sides]), rng.uniform(-4, 4, 3)
        window = GRID.around(box, steps)
        assert GRID.misfit(box[None], window)[0] == pytest.approx(np.abs(steps).max())
        assert GRID.misfit(box[None] * 3 + 7, Window(window.x * 3 + 7, window.y * 3 + 7, window.side * 3)) == (
            pytest.approx(np.abs(steps).max())
        ), "in a larger copy of the image the same"


def test_every_object_is_some_windows_own():
    """The law that a pyramid of any offset, with windows a step apart, leaves no object out."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        corner, sides = rng.uniform(0, 400, 2), rng.uniform(20, 300, 2)
        box = np.concatenate([corner, corner + sides])[None]
        least = math.inf
        for level in np.arange(-6, 7) + rng.uniform():
            side = 160 * GRID.ratio**level
            step, start = side / 5, rng.uniform(0, 100, 2)
            x, y = start + step * np.round((box[0].reshape(2, 2).mean(0) - start) / step)
            least = min(least, GRID.misfit(box, Window(x, y, side))[0])
        assert least <= 1 + 1e-9
        assert (
            sum(
                GRID.misfit(box, Window(*box[0].reshape(2, 2).mean(0), 160 * 2 ** (k / 2)))[0] <= 1
                for k in range(-9, 10)
            )
            == 1
        )


def choose(boxes, crowds=NOTHING, size=(480, 360), seed=0, **options):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    options = {"centred": np.arange(len(boxes))} | options
    return boxes, choose_windows(boxes, crowds, size, GRID, np.random.default_rng(seed), **options)


def test_windows_have_their_object_and_background_none():
    boxes, chosen = choose([[50, 60, 130, 160], [300, 100, 330, 120], [200, 200, 400, 350]], per_object=20)
    owners = np.array(chosen.owners)
    assert (np.bincount(owners[owners >= 0]) == 20).all(), "they are far from each other"
    assert 50 <= (owners < 0).sum() <= 61
    misfits = np.array([GRID.misfit(boxes, window) for window in chosen.windows])
    assert (misfits[np.flatnonzero(owners >= 0), owners[owners >= 0]] <= 1).all()
    assert (misfits[owners < 0] >= CLEAR).all()
    near = misfits[owners < 0].min(1)
    assert (near < 5).sum() >= 20 and (near > 8).any(), "both near misses and others"
    sides = np.array([window.side for window in chosen.windows])[owners < 0]
    assert sides.max() > 1.5 * sides.min()


def test_background_keeps_off_crowds_and_within_the_image():
    _, chosen = choose([[50, 60, 90, 100]], np.array([[240.0, 0, 480, 360]]), per_object=60)
    background = [window for window, owner in zip(chosen.windows, chosen.owners, strict=True) if owner < 0]
    assert len(background) > 10
    for x, y, side in background:
        assert x + side / 2 <= 240, "beside the crowd"
        assert x + side / 2 > 0 and y + side / 2 > 0 and y - side / 2 < 360


def test_there_are_no_near_misses_of_objects_without_windows():
    tiny = [100, 100, 104, 104]  # in near misses of it, windows of 4 to 20 pixels
    boxes, chosen = choose([[50, 60, 130, 160], tiny], per_object=60, centred=np.array([0]))
    background = [window for window, owner in zip(chosen.windows, chosen.owners, strict=True) if owner < 0]
    assert len(background) > 50 and min(window.side for window in background) > 50
    # It counts all the same where the question is whether a window is background.
    assert all(GRID.misfit(boxes, window).min() >= CLEAR for window in background)


def test_the_long_side_that_finds_an_object_by_hand():
    # A window of 160 has objects from 160 * 0.75 / sqrt(2) = 84.85 pixels on.
    boxes = np.array([[0, 0, 84.8528, 9], [0, 0, 9, 42.4264], [5, 5, 5, 5]])
    np.testing.assert_allclose(GRID.long_side(boxes, (480, 360)), [480, 960, np.inf], rtol=1e-5)
    np.testing.assert_allclose(GRID.long_side(boxes[:1] * 2, (700, 960)), 480, rtol=1e-5)


def test_an_image_without_objects_is_background():
    _, chosen = choose([])
    assert len(chosen.windows) == 1 and chosen.owners == [-1]
    assert 480 / FINEST <= chosen.windows[0].side <= 480 / GRID.shares[0]
    assert choose([], background=0)[1].windows == []


def test_a_neighbour_that_fits_better_owns_the_window():
    """Two objects half a step apart: windows meant for one may be the other's."""
    boxes, chosen = choose([[100, 100, 200, 200], [112, 100, 212, 200]], per_object=50, background=0)
    for window, owner in zip(chosen.windows, chosen.owners, strict=True):
        assert owner == GRID.misfit(boxes, window).argmin()
    first = np.array(chosen.owners[:50])
    assert 0 < (first == 1).sum() < 50


def test_the_pixels_of_a_window():
    pixels = np.arange(48 * 64 * 3, dtype=np.int64).reshape(48, 64, 3).astype(np.uint8)
    same = cut_window(pixels, Window(32, 24, 20), 20)
    np.testing.assert_array_equal(same, pixels[14:34, 22:42])
    over = cut_window(pixels, Window(5, 44, 20), 20)
    np.testing.assert_array_equal(over[:14, 5:], pixels[34:48, :15])
    assert (over[14:] == 114).all() and (over[:, :5] == 114).all()
    flat = np.full((50, 50, 3), 9, np.uint8)
    assert (cut_window(flat, Window(25, 25, 10), 40) == 9).all() and cut_window(flat, Window(25, 25, 50), 7).shape == (
        7,
        7,
        3,
    )


@pytest.fixture
def annotations(tmp_path):
    """Two images of the same name; objects: two fine ones, a crowd, a thin one."""
    paths = [write_picture(tmp_path / place / "a.png", 96, 80, seed) for seed, place in enumerate("xy")]
    boxes = [[8, 8, 40, 40], [60, 0, 80, 20], [5, 50, 35, 54], [40, 20, 90, 70]]
    return make(
        boxes,
        [2, 0, 0, 1],
        [0, 0, 0, 1],
        sizes=((96, 80), (96, 80)),
        paths=[str(path) for path in paths],
        iscrowd=np.array([False, True, False, False]),
    )


def test_what_is_written(annotations, tmp_path):
    grid = WindowGrid(size=64, stride=32)
    report = windows_of(annotations, tmp_path / "out", "train", grid=grid, per_object=3)
    assert report == WindowsReport(objects=6, background=report.background, small=1, crowds=1)
    assert 3 <= report.background <= 8
    data = read_annotations(tmp_path / "out/train.json")
    assert validate(data) == [] and data.categories == annotations.categories
    assert len(data) == report.objects + report.background and (data.sizes == 64).all()
    assert len(data.boxes) == 6 and sorted(data.labels.tolist()) == [1, 1, 1, 2, 2, 2]
    assert (np.diff(data.offsets) <= 1).all()
    sides = (data.boxes[:, 2:] - data.boxes[:, :2]).max(1) / 64
    low, high = grid.shares
    assert (sides >= low - 1e-6).all() and (sides <= high + 1e-6).all()
    assert (np.abs(data.boxes.reshape(-1, 2, 2).mean(1) - 32) <= 16 + 1e-6).all()
    # What is in the box is what was in the object's.
    for index, box, label in zip(data.image_index, data.boxes, data.labels, strict=True):
        source = int(label == 1)
        x1, y1, x2, y2 = np.round(box).astype(int)
        found = read_image(str(data.paths[index]))[y1:y2, x1:x2]
        left, top, right, bottom = annotations.boxes[3 if source else 0].astype(int)
        wanted = read_image(str(annotations.paths[source]))[top:bottom, left:right]
        assert np.abs(found.mean((0, 1)) - wanted.mean((0, 1))).max() < 12


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_objects_without_extent_are_left_out(annotations, tmp_path):
    annotations.boxes[:] = [[8, 8, 40, 40], [60, 0, 80, 20], [5, 50, 5, 50], [40, 20, 40, 70]]
    report = windows_of(annotations, tmp_path / "out", "train", per_object=1, background=50)
    assert (report.objects, report.small, report.crowds) == (1, 2, 1) and report.background > 20
    annotations.boxes[0] = 9
    report = windows_of(annotations, tmp_path / "none", "train", background=50)
    assert (report.objects, report.small, report.background) == (0, 3, 2)


def test_the_same_seed_gives_the_same_windows(annotations, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        windows_of(annotations, tmp_path / name, "train", seed=seed)
    a, b, c = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in sorted((tmp_path / name).rglob("*.*"))}
        for name in "abc"
    )
    assert a == b and a != c


def test_progress_and_wrong_input(annotations, tmp_path):
    seen = []

    def track(items, total):
        for item in items:
            seen.append((item, total))
            yield item

    windows_of(annotations, tmp_path / "out", "val", track=track)
    assert seen == [(0, 2), (1, 2)]
    for options in ({"per_object": 0}, {"background": -1}, {"min_side": 0}):
        with pytest.raises(ValueError, match="per_object and min_side must be at least 1"):
            windows_of(annotations, tmp_path / "bad", "train", **options)
    for options in ({"size": 32}, {"size": 100}, {"stride": 0}):
        with pytest.raises(ValueError, match="must be a multiple of the stride"):
            WindowGrid(**options)
    with pytest.raises(ValueError, match="ratio between levels must be above 1"):
        WindowGrid(ratio=1)
    annotations.labels[3] = -1
    with pytest.raises(ValueError, match=r"y/a\.png: object 4 has no class or no finite box"):
        windows_of(annotations, tmp_path / "bad", "train")


def test_a_set_without_objects(annotations, tmp_path):
    from dataclasses import replace

    none = replace(annotations, **annotations.take_objects(np.arange(0)), categories=(Category(1, "rose"),))
    report = windows_of(none, tmp_path / "out", "train")
    assert report == WindowsReport(0, 2, 0, 0)
    assert len(read_annotations(tmp_path / "out/train.json")) == 2
