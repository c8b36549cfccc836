"""Copies of an image are found however they were saved; different scenes are told apart."""

import cv2
import numpy as np
import pytest

from detseg.data.checks.looks import read_looks
from detseg.data.checks.near_duplicates import BITS, TEXTURE, _close_pairs, _even, near_duplicate_groups
from detseg.flowers.scenes import draw_scene
from tests.small_set import write_small_set


def crop(image):
    height, width = image.shape[:2]
    return image[height // 25 : -height // 25, width // 20 : -width // 20]


COPIES = {
    "encoded anew": ("jpg", lambda image: image, [cv2.IMWRITE_JPEG_QUALITY, 30]),
    "png": ("png", lambda image: image, []),
    "enlarged": ("jpg", lambda image: cv2.resize(image, (700, 700)), []),
    "small": ("jpg", lambda image: cv2.resize(image, (120, 120), interpolation=cv2.INTER_AREA), []),
    "stretched": ("jpg", lambda image: cv2.resize(image, (256, 200), interpolation=cv2.INTER_AREA), []),
    "brighter": ("jpg", lambda image: cv2.convertScaleAbs(image, alpha=1.2, beta=20), []),
    "darker": ("jpg", lambda image: cv2.convertScaleAbs(image, alpha=0.5), []),
    "grey": ("png", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), []),
    "blurred": ("jpg", lambda image: cv2.GaussianBlur(image, (0, 0), 2), []),
    "cropped": ("jpg", crop, []),
}


def write(path, image, options=()):
    path.write_bytes(cv2.imencode(path.suffix, image, list(options))[1].tobytes())
    return str(path)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Images of 40 different flower scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    return [write(folder / f"{k}.jpg", draw_scene(k).image[..., ::-1], (1, 95)) for k in range(40)]


@pytest.mark.slow
def test_different_scenes_are_not_grouped(scenes):
    assert near_duplicate_groups(scenes) == []


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_grouped_with_what_they_are_copies_of(name, scenes, tmp_path):
    suffix, change, options = COPIES[name]
    copies = [write(tmp_path / f"{k}.{suffix}", change(cv2.imread(scenes[k])), options) for k in (3, 17, 30)]
    assert near_duplicate_groups(scenes + copies) == [[3, 40], [17, 41], [30, 42]]


def test_all_copies_of_an_image_are_one_group_whatever_their_order(scenes, tmp_path):
    image = cv2.imread(scenes[0])
    copies = [write(tmp_path / f"{k}.{copy[0]}", copy[1](image), copy[2]) for k, copy in enumerate(COPIES.values())]
    assert near_duplicate_groups([*copies[::-1], scenes[1], scenes[0]]) == [[*range(len(copies)), len(copies) + 1]]


def test_other_flowers_on_the_same_plain_ground_are_not_grouped(tmp_path):
    paths = []
    for k, petals in enumerate((5, 6, 8, 11)):
        image = np.full((240, 240, 3), 40, np.uint8)
        angles = np.linspace(0, 2 * np.pi, 721)
        radius = 60 + 30 * np.cos(petals * angles)
        points = np.stack([120 + radius * np.cos(angles), 120 + radius * np.sin(angles)], 1)
        cv2.fillPoly(image, [points.astype(np.int32)], (200, 120, 240))
        cv2.circle(image, (120, 120), 15, (60, 220, 250), -1)
        paths.append(write(tmp_path / f"{k}.png", image))
    assert near_duplicate_groups(paths) == []


def test_the_same_shapes_at_other_places_of_a_plain_ground_are_not_grouped(tmp_path):
    folder = write_small_set(tmp_path / "set", train=15, val=15)
    assert near_duplicate_groups(sorted(map(str, (folder / "images").iterdir()))) == []


def test_smooth_images_are_told_apart_and_their_copies_found(scenes, tmp_path):
    smooth = [cv2.convertScaleAbs(cv2.GaussianBlur(cv2.imread(path), (0, 0), 8), alpha=0.3, beta=90) for path in scenes]
    paths = [write(tmp_path / f"{k}.png", image) for k, image in enumerate(smooth)]
    assert near_duplicate_groups(paths) == []
    texture = [_even(thumbnail)[1] for thumbnail in read_looks(paths).thumbnails]
    faint = [row for row, share in enumerate(texture) if share <= TEXTURE][:3]
    copies = [write(tmp_path / f"copy {k}.png", cv2.resize(smooth[k], (200, 150))) for k in faint]
    copies += [write(tmp_path / f"brighter {k}.png", smooth[k] + np.uint8(20)) for k in faint]
    assert near_duplicate_groups(paths + copies) == [[k, 40 + n, 43 + n] for n, k in enumerate(faint)]
    assert len(faint) == 3


def test_small_images_must_be_the_same_but_for_their_encoding(tmp_path):
    digit = np.zeros((28, 28, 3), np.uint8)
    cv2.line(digit, (14, 5), (14, 22), (255, 255, 255), 3)
    leaning = np.zeros_like(digit)
    cv2.line(leaning, (16, 5), (12, 22), (255, 255, 255), 3)
    paths = [write(tmp_path / f"{k}.png", image) for k, image in enumerate((digit, leaning, digit))]
    paths.append(write(tmp_path / "3.jpg", leaning, (cv2.IMWRITE_JPEG_QUALITY, 80)))
    assert near_duplicate_groups(paths) == [[0, 2], [1, 3]]


def test_plain_and_unreadable_images_are_in_no_group(tmp_path):
    plain = [write(tmp_path / f"{k}.png", np.full((60, 80, 3), 30, np.uint8)) for k in range(3)]
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8 no image")
    assert near_duplicate_groups([*plain, str(tmp_path / "damaged.jpg"), str(tmp_path / "missing.jpg")]) == []
    assert near_duplicate_groups([]) == []
    assert near_duplicate_groups(plain[:1]) == []


def test_progress_counts_the_images(scenes):
    seen = []

    def track(items, total):
        for item in items:
            seen.append(total)
            yield item

    near_duplicate_groups(scenes[:5], track=track)
    assert seen == [5] * 5


def test_all_close_hashes_are_found_across_blocks():
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, 5000, dtype=np.uint64)
    hashes[[10, 700, 4999]] = hashes[3] ^ np.array([1, 2**18 - 1, 2**19 - 1], np.uint64)  # 1, 18 and 19 bits
    found = {(int(a), int(b)) for block in _close_pairs(hashes) for a, b in zip(*block, strict=True)}
    sample = np.bitwise_count(hashes[:50, None] ^ hashes[None]) <= BITS
    assert {(a, b) for a, b in found if a < 50} == {(a, b) for a, b in np.argwhere(sample).tolist() if a < b}
    assert {(3, 10), (3, 700)} <= found
    assert (3, 4999) not in found
