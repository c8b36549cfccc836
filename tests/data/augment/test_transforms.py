"""Boxes against masks: objects are drawn in pure colours and looked for again after each transform."""

import itertools
import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.augment.geometry import Geometry, warp_boxes, warp_image
from detseg.data.augment.transforms import TrainTransform
from detseg.data.letterbox import EvalTransform, Letterbox, fitted_size, resize_long_side
from detseg.data.sample import PADDING, Sample
from tests.cases import case

OFF = {
    "flip": "none",
    "scale": (1.0, 1.0),
    "aspect": 0.0,
    "rotate": 0.0,
    "light": 0.0,
    "colour": 0.0,
    "blur": 0.0,
    "noise": 0.0,
}
AXIS_ALIGNED = {
    "flip": {"flip": "horizontal"},
    "flip upside down": {"flip": "vertical"},
    "flip both": {"flip": "both"},
    "zoom in": {"scale": (1.2, 2.5)},
    "zoom out": {"scale": (0.4, 0.9)},
    "far out": {"scale": (0.2, 0.3)},
    "aspect": {"aspect": 0.6},
    "together": {"flip": "horizontal", "scale": (0.5, 1.5), "aspect": 0.2},
}
FLIPS = {
    "none": {(1, 1)},
    "horizontal": {(1, 1), (1, -1)},
    "vertical": {(1, 1), (-1, 1)},
    "both": {(1, 1), (1, -1), (-1, 1), (-1, -1)},
}
PIXELS = {"light": {"light": 0.2}, "colour": {"colour": 0.5}, "blur": {"blur": 1.0}, "noise": {"noise": 1.0}}
SHAPES = [(160, 160), (160, 97), (75, 160), (90, 61), (400, 310)]


def draw(width: int, height: int, seed: int, shape: str = "rectangle") -> Sample:
    """Three objects on black: the first red, the second green, the third blue; labels 0, 1, 2."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    boxes = []
    for k in range(3):
        left, right = k * width // 3, (k + 1) * width // 3
        x1, y1 = int(rng.integers(left, left + 5)), int(rng.integers(0, height // 2))
        x2, y2 = int(rng.integers(right - 5, right + 1)), int(rng.integers(y1 + height // 3, height + 1))
        u, v = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
        inside = (u**2 + v**2 <= 1) if shape == "ellipse" else (abs(u) <= 1) & (abs(v) <= 1)
        image[inside, k] = 255
        boxes.append((x1, y1, x2, y2))
    return Sample(image, np.array(boxes, np.float32), np.arange(3), np.zeros(3, bool))


def empty(width: int, height: int) -> Sample:
    image = np.full((height, width, 3), 200, np.uint8)
    return Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


def mask_box(image: np.ndarray, k: int, threshold: int = 127) -> np.ndarray | None:
    """The tight box of the pixels in which channel k stands out; grey padding and black never do."""
    others = np.delete(image.astype(int), k, axis=2).max(axis=2)
    rows, columns = np.nonzero(image[..., k].astype(int) - others > threshold)
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def check_form(sample: Sample, size: int) -> None:
    assert sample.image.shape == (size, size, 3)
    assert sample.image.dtype == np.uint8 and sample.image.flags["C_CONTIGUOUS"]
    assert sample.boxes.dtype == np.float32 and sample.boxes.shape == (len(sample.labels), 4)
    assert sample.labels.dtype == np.int64
    assert sample.iscrowd.dtype == bool and len(sample.iscrowd) == len(sample.labels)
    assert np.isfinite(sample.boxes).all()
    assert (sample.boxes >= 0).all() and (sample.boxes <= size).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()


@pytest.mark.parametrize("options", AXIS_ALIGNED.values(), ids=AXIS_ALIGNED)
def test_geometry_moves_boxes_with_their_pixels(options: dict) -> None:
    transform = TrainTransform(160, **{**OFF, **options})
    seen = 0
    for (width, height), seed in itertools.product(SHAPES, range(12)):
        out = transform(draw(width, height, seed), np.random.default_rng(seed))
        check_form(out, 160)
        for box, label in zip(out.boxes, out.labels, strict=True):
            truth = mask_box(out.image, label)
            assert truth is not None
            np.testing.assert_allclose(box, truth, atol=1.01)
            seen += 1
        for label in set(range(3)) - set(out.labels.tolist()):
            truth = mask_box(out.image, label)
            assert truth is None or (truth[2:] - truth[:2]).min() < 4  # only slivers are dropped
    assert seen >= 12 * len(SHAPES)  # each image keeps one object at least


def test_rotated_boxes_are_tight_around_round_objects() -> None:
    for degrees, seed in itertools.product((5.0, 20.0, 45.0), range(15)):
        transform = TrainTransform(160, **{**OFF, "rotate": degrees, "scale": (0.6, 0.65)})
        out = transform(draw(160, 120, seed, "ellipse"), np.random.default_rng(seed))
        assert out.labels.tolist() == [0, 1, 2]
        for box, label in zip(out.boxes, out.labels, strict=True):
            np.testing.assert_allclose(box, mask_box(out.image, label), atol=1.5)


def test_rotated_boxes_of_boxy_objects_miss_only_the_corners() -> None:
    transform = TrainTransform(160, **{**OFF, "rotate": 8.0, "scale": (0.6, 0.65)})
    for seed in range(15):
        out = transform(draw(160, 120, seed), np.random.default_rng(seed))
        for box, label in zip(out.boxes, out.labels, strict=True):
            truth = mask_box(out.image, label)
            side = (truth[2:] - truth[:2]).max()
            assert (box[:2] > truth[:2] - 1.5).all() and (box[2:] < truth[2:] + 1.5).all()  # not larger
            assert np.abs(box - truth).max() < 0.5 * np.sin(np.radians(8)) * side + 1.5


def test_rotated_crowd_covers_the_whole_region() -> None:
    transform = TrainTransform(160, **{**OFF, "rotate": 30.0, "scale": (0.5, 0.55)})
    for seed in range(15):
        sample = replace(draw(160, 120, seed), iscrowd=np.ones(3, bool))
        out = transform(sample, np.random.default_rng(seed))
        assert out.iscrowd.tolist() == [True] * 3
        for box, label in zip(out.boxes, out.labels, strict=True):
            np.testing.assert_allclose(box, mask_box(out.image, label), atol=2.0)


def test_pixel_transforms_change_pixels_and_leave_boxes():
    for options in PIXELS.values():
        with case(options):
            transform = TrainTransform(160, **{**OFF, **options})
            changed = 0
            for seed in range(10):
                sample = draw(160, 160, seed)
                sample.image = sample.image // 255 * 180 + 20  # pure colours would saturate unchanged
                before = sample.image.copy()
                out = transform(sample, np.random.default_rng(seed))
                check_form(out, 160)
                changed += not np.array_equal(out.image, before)
                np.testing.assert_array_equal(sample.image, before)  # the cache is not written to
                np.testing.assert_array_equal(out.boxes, sample.boxes)
                for box, label in zip(out.boxes, out.labels, strict=True):
                    np.testing.assert_allclose(box, mask_box(out.image, label, threshold=70), atol=2)
            assert changed >= 9


def test_all_switched_off_is_the_identity_and_flip_the_mirror() -> None:
    sample = draw(160, 160, 0)
    sample.image[:] = np.random.default_rng(0).integers(0, 256, sample.image.shape)
    rng = np.random.default_rng(0)
    out = TrainTransform(160, **OFF)(sample, rng)
    np.testing.assert_array_equal(out.image, sample.image)
    np.testing.assert_array_equal(out.boxes, sample.boxes)
    x1, y1, x2, y2 = sample.boxes.T
    mirrored = {
        (1, 1): sample.boxes,
        (1, -1): np.stack([160 - x2, y1, 160 - x1, y2], 1),
        (-1, 1): np.stack([x1, 160 - y2, x2, 160 - y1], 1),
        (-1, -1): np.stack([160 - x2, 160 - y2, 160 - x1, 160 - y1], 1),
    }
    for flip, wanted in FLIPS.items():
        transform, counts = TrainTransform(160, **{**OFF, "flip": flip}), dict.fromkeys(mirrored, 0)
        for seed in range(200):
            out = transform(sample, np.random.default_rng(seed))
            (found,) = (k for k in mirrored if np.array_equal(out.image, sample.image[:: k[0], :: k[1]]))
            np.testing.assert_allclose(out.boxes, mirrored[found], atol=1e-4)
            counts[found] += 1
        assert {k for k, count in counts.items() if count} == wanted, flip
        assert all(abs(count - 200 / len(wanted)) < 35 for count in counts.values() if count), (flip, counts)


def test_padding_is_grey() -> None:
    out = TrainTransform(100, **OFF)(empty(100, 40), np.random.default_rng(0))
    assert (out.image == 200).all(axis=2).sum() >= 39 * 100  # two rows lie between the two
    assert (out.image == PADDING).all(axis=2).sum() >= 59 * 100


def test_every_image_keeps_an_object_however_far_it_zooms_in() -> None:
    transform = TrainTransform(160, **{**OFF, "scale": (3.0, 6.0)}, min_visible=0.05)
    for seed in range(40):
        out = transform(draw(160, 100, seed), np.random.default_rng(seed))
        assert (~out.iscrowd).any()


def test_extreme_images_and_many_objects() -> None:
    transform = TrainTransform(64)
    rng = np.random.default_rng(0)
    for width, height in [(1, 1), (1, 500), (700, 1), (2, 3), (64, 64)]:
        for _ in range(5):
            out = transform(empty(width, height), rng)
            check_form(out, 64)
            assert len(out.boxes) == 0
    corner = rng.uniform(0, 300, (100_000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 30, (100_000, 2))], axis=1).astype(np.float32)
    crowd = Sample(empty(330, 330).image, boxes, np.arange(100_000), np.zeros(100_000, bool))
    out = transform(crowd, rng)
    check_form(out, 64)
    assert (np.diff(out.labels) > 0).all()


# -- determinism ---------------------------------------------------------------------------------------


def same(a: Sample, b: Sample) -> bool:
    pairs = ((a.image, b.image), (a.boxes, b.boxes), (a.labels, b.labels), (a.iscrowd, b.iscrowd))
    return all(np.array_equal(x, y) for x, y in pairs)


def test_the_generator_decides_everything() -> None:
    options = {"blur": 0.5, "noise": 0.5}
    transform, other = TrainTransform(96, **options), TrainTransform(96, **options)
    sample = draw(96, 80, 0)
    first = [transform(sample, np.random.default_rng(seed)) for seed in range(20)]
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    for seed in reversed(range(20)):  # another order, another instance, other global states, a copy
        assert same(other(sample, np.random.default_rng(seed)), first[seed])
    copied = pickle.loads(pickle.dumps(transform))
    assert same(copied(sample, np.random.default_rng(3)), first[3])
    assert len({out.image.tobytes() for out in first}) == 20


def test_global_random_states_are_left_alone() -> None:
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    before = np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002
    TrainTransform(64, blur=1.0, noise=1.0)(draw(64, 64, 0), np.random.default_rng(0))
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == before  # noqa: NPY002


@pytest.mark.slow
def test_importing_is_lazy_silent_and_offline() -> None:
    program = (
        "import sys, socket\n"
        "def refuse(*a, **k): print('network', file=sys.stderr); raise OSError\n"
        "socket.getaddrinfo = socket.create_connection = refuse\n"
        "import detseg.data.augment.transforms as t, detseg.data.letterbox as plain\n"
        "plain.EvalTransform(32)\n"
        "assert 'albumentations' not in sys.modules, 'imported too early'\n"
        "t.TrainTransform(32)\n"
        "assert 'albumentations' in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[3]
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    environment["PYTHONPATH"] = str(root)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=root)
    assert result.returncode == 0, result.stderr
    assert result.stdout + result.stderr == ""


# -- boxes ---------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-2, 2), min_size=4, max_size=4), st.floats(1, 50), st.floats(1, 50))
@settings(max_examples=60, deadline=None)
def test_warped_box_is_the_hull_of_the_ellipse(linear: list[float], width: float, height: float) -> None:
    matrix = np.array([[linear[0], linear[1], 7.0], [linear[2], linear[3], -3.0]])
    box = np.array([[10, 20, 10 + width, 20 + height]])
    angle = np.linspace(0, 2 * np.pi, 20_001)
    points = np.stack(
        [
            10 + width / 2 * (1 + np.cos(angle)),
            20 + height / 2 * (1 + np.sin(angle)),
            np.ones_like(angle),
        ]
    )
    warped = matrix @ points
    hull = np.concatenate([warped.min(axis=1), warped.max(axis=1)])
    np.testing.assert_allclose(warp_boxes(box, np.zeros(1, bool), matrix)[0], hull, atol=1e-4)
    x1, y1, x2, y2 = box[0]
    corners = matrix @ np.array([[x1, x2, x1, x2], [y1, y1, y2, y2], [1, 1, 1, 1]])
    hull = np.concatenate([corners.min(axis=1), corners.max(axis=1)])
    np.testing.assert_allclose(warp_boxes(box, np.ones(1, bool), matrix)[0], hull, atol=1e-9)


def test_shrinking_far_averages_instead_of_skipping() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::8] = 240
    small = warp_image(stripes, np.array([[0.125, 0, 0], [0, 0.125, 0]]), (32, 32))
    assert np.abs(small.astype(int) - 30).max() <= 1
    assert np.abs(resize_long_side(stripes, 32).astype(int) - 30).max() <= 1


# -- letterbox -----------------------------------------------------------------------------------------

sides = st.one_of(st.just(1), st.integers(1, 900))


@given(sides, sides, st.integers(1, 320), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_letterbox_round_trip(width: int, height: int, size: int, seed: int) -> None:
    box = Letterbox.fit(width, height, size)
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (5, 2, 2)), axis=1).reshape(5, 4)
    boxes = corners * [width, height, width, height]
    square = box.to_square(boxes)
    assert (square >= 0).all() and (square <= size + 1e-9).all()
    np.testing.assert_allclose(box.to_original(square, (width, height)), boxes, atol=1e-9 * 900)
    whole = box.to_square(np.array([[0.0, 0.0, width, height]]))[0]
    assert max(whole[2] - whole[0], whole[3] - whole[1]) == pytest.approx(size)
    assert abs(whole[0] + whole[2] - size) <= 1 + 1e-9 and abs(whole[1] + whole[3] - size) <= 1 + 1e-9


@given(sides, sides, st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_letterbox_says_where_the_image_lies(width: int, height: int, size: int) -> None:
    image = np.full((height, width, 3), 255, np.uint8)
    sample = Sample(image, np.array([[0, 0, width, height]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool))
    out, box = EvalTransform(size)(sample)
    check_form(out, size)
    rows, columns = np.nonzero((out.image == 255).all(axis=2))
    assert len(rows) == (out.image == 255).all(axis=2).sum()
    truth = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(out.boxes[0], truth, atol=1e-3)
    np.testing.assert_allclose(box.to_original(out.boxes, (width, height)), sample.boxes, rtol=1e-4, atol=1e-3)
    outside = np.ones((size, size), bool)
    outside[truth[1] : truth[3], truth[0] : truth[2]] = False
    assert (out.image[outside] == PADDING).all()


def test_eval_transform_moves_boxes_with_their_pixels() -> None:
    for width, height in SHAPES:
        out, _ = EvalTransform(160)(draw(width, height, 3))
        assert out.labels.tolist() == [0, 1, 2]
        for box, label in zip(out.boxes, out.labels, strict=True):
            np.testing.assert_allclose(box, mask_box(out.image, label), atol=1.01)


@given(sides, sides, st.integers(1, 320))
@settings(max_examples=50, deadline=None)
def test_a_cached_image_gives_the_same_square(width: int, height: int, size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    sample = replace(empty(width, height), image=image)
    cached = replace(sample, image=resize_long_side(image, size))
    transform = EvalTransform(size)
    np.testing.assert_array_equal(transform(sample)[0].image, transform(cached)[0].image)
    box = transform(cached)[1]
    assert (box.scale_x, box.scale_y) == (1, 1)


def test_letterbox_takes_torch_and_clips() -> None:
    box = Letterbox.fit(640, 480, 320)
    assert (box.scale_x, box.scale_y, box.pad_x, box.pad_y) == (0.5, 0.5, 0, 40)
    detections = torch.tensor([[-5.0, 0.0, 400.0, 300.0], [10.0, 50.0, 20.0, 60.0]])
    expected = [[0, 0, 640, 480], [20, 20, 40, 40]]
    got = box.to_original(detections, (640, 480))
    assert isinstance(got, torch.Tensor) and got.tolist() == expected
    assert box.to_original(detections.numpy(), (640, 480)).tolist() == expected
    assert detections[0, 0] == -5  # a new array
    assert box.to_original(detections[:0], (640, 480)).shape == (0, 4)


def test_wrong_options_are_named() -> None:
    for call, message in (
        (lambda: TrainTransform(0), "size"),
        (lambda: TrainTransform(32, flip="left"), "flip must be one of none, horizontal, vertical, both, not 'left'"),
        (lambda: TrainTransform(32, scale=(0, 1)), "scale"),
        (lambda: TrainTransform(32, scale=(2, 1)), "scale"),
        (lambda: TrainTransform(32, rotate=-1), "rotate"),
        (lambda: TrainTransform(32, noise=2), "noise"),
        (lambda: Geometry(min_visible=-0.1), "min_visible"),
        (lambda: EvalTransform(0), "size"),
        (lambda: Letterbox.fit(0, 5, 32), "0x5"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_boxes_come_back_through_a_resized_copy() -> None:
    for original in [(1000, 205), (640, 480), (31, 999)]:
        copy = fitted_size(*original, 320)
        box = Letterbox.fit_copy(copy, original, 256)
        corners = np.array([[0, 0, *original]], np.float32)
        inside = Letterbox.fit(*copy, 256).to_square(np.array([[0, 0, *copy]], np.float32))
        np.testing.assert_allclose(box.to_square(corners), inside, rtol=1e-5)
        np.testing.assert_allclose(box.to_original(inside, original), corners, rtol=1e-5)
        assert Letterbox.fit_copy(original, original, 256) == Letterbox.fit(*original, 256)
