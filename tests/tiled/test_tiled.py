"""Detectors in tiles: against what is drawn, a slow reference of merging, trained and exported models, and memory."""

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data.tiles import Tiling, lay_tiles
from detseg.results import Results
from detseg.runtime import ExportedDetector
from detseg.tiled import Tiled, find_in_tiles, merge
from detseg.tiled.find import _levels
from detseg.tiled.joining import IOU_THRESHOLD
from tests.cases import case

CLASSES = [(7, "a"), (3, "b"), (9, "c")]


class Sees:
    """A detector that finds what is drawn: an object of number n has the red level n and the class n % 3.

    `most` is the longest side, in pixels, of images that it sees anything in; `scores` are of numbers.
    """

    task, size, channels, categories, finds_masks = "detect", 32, 3, CLASSES, True
    names = [name for _, name in CLASSES]  # noqa: RUF012

    def __init__(self, most=10**6, scores=None, masks=True, description=None):
        self.most, self.scores, self.finds_masks = most, scores or {}, masks
        self.model, self.description, self.seen = SimpleNamespace(), description or {}, []

    def stream(self, images, *, score_threshold, batch_size, run_lengths, **options):
        assert run_lengths and len(images) <= batch_size
        self.seen.append([image.shape[:2] for image in images])
        for image in images:
            numbers = [n for n in np.unique(image[..., 0]).tolist() if n and max(image.shape) <= self.most]
            scores = {n: self.scores.get(n, 0.5 + n / 1000) for n in numbers}
            numbers = sorted((n for n in numbers if scores[n] >= score_threshold), key=lambda n: -scores[n])
            found = {"boxes": np.zeros((len(numbers), 4), np.float32), "masks": []}
            for box, number in zip(found["boxes"], numbers, strict=True):
                there = image[..., 0] == number
                rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                found["masks"].append(coco.encode(np.asfortranarray(there.astype(np.uint8))))
            found["scores"] = np.array([scores[n] for n in numbers], np.float32)
            found["labels"] = np.array([n % 3 for n in numbers], np.int64)
            if not self.finds_masks:
                del found["masks"]
            yield Results(found, image, CLASSES)


def drawing(boxes, size=(200, 150)):
    """An image with these boxes xyxy, numbered from 1."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for number, (x, y, u, v) in enumerate(boxes, 1):
        image[y:v, x:u, 0] = number
    return image


def by_number(found):
    """What was found, in the order of its numbers: scores rise with them."""
    return found.select(np.argsort(found.scores))


@pytest.mark.slow
def test_everything_is_found_once_wherever_it_lies():
    rng = np.random.default_rng(0)
    for number in range(6):
        boxes = []
        for _ in range(150):
            x, y, w, h = (int(v) for v in rng.integers(0, (180, 130, 20, 20)))
            box = [x, y, x + w + 1, y + h + 1]
            if all(box[2] <= o[0] or o[2] <= box[0] or box[3] <= o[1] or o[3] <= box[1] for o in boxes):
                boxes.append(box)
        image = drawing(boxes)
        for most in (70, 10**6):
            with case(number, most):
                (found,) = Tiled(Sees(most), tile=64, overlap=24).predict(image, score_threshold=0)
                assert len(found) == len(boxes)
                found = by_number(found)
                assert found.boxes.tolist() == boxes
                assert found.boxes.dtype == np.float32 and found.labels.dtype == np.int64
                assert found.masks.shape == (len(boxes), 150, 200)
                for i, mask in enumerate(found.masks):
                    np.testing.assert_array_equal(mask, image[..., 0] == i + 1)


LONG = [[20, 30, 190, 40], [5, 60, 10, 150], [80, 70, 160, 145]]  # longer than tiles across, down, and both


def test_what_is_larger_than_a_tile_is_found_in_the_whole_image():
    (found,) = Tiled(Sees(), tile=64, overlap=24).predict(drawing(LONG))
    assert by_number(found).boxes.tolist() == LONG


def test_what_is_larger_than_a_tile_and_not_found_in_the_whole_image_is_joined_of_its_parts():
    image = drawing(LONG)
    (found,) = Tiled(Sees(most=70), tile=64, overlap=24).predict(image, run_lengths=True)
    found = by_number(found)
    assert found.boxes.tolist() == LONG
    for i, mask in enumerate(found.masks):
        np.testing.assert_array_equal(coco.decode(mask), image[..., 0] == i + 1)


def test_small_objects_are_not_looked_for_in_the_whole_image():
    image = drawing([[100, 70, 108, 78]])

    def look(images):
        for found in Sees().stream(list(images), score_threshold=0, batch_size=9, run_lengths=True):
            yield found if images[0].shape == image.shape else found.select(slice(0, 0))

    assert len(find_in_tiles(look, image, Tiling(64, 9))["scores"]) == 0
    assert len(find_in_tiles(look, image, Tiling(64, 8))["scores"]) == 1, "of half the overlap before"


def test_an_image_that_is_no_larger_than_a_tile_is_looked_at_once():
    detector = Sees()
    (found,) = Tiled(detector, tile=200, overlap=24).predict([drawing(LONG)])
    assert detector.seen == [[(150, 200)]] and by_number(found).boxes.tolist() == LONG


def test_tiles_come_in_batches():
    detector = Sees()
    tiled = Tiled(detector, tile=64, overlap=24)
    list(tiled.stream([drawing(LONG)], batch_size=3))
    assert len(lay_tiles(200, 150, 64, 24)) == 20 and len(lay_tiles(200, 150, 128, 48)) == 4
    expected = [*[[(64, 64)] * 3] * 6, [(64, 64)] * 2, [(128, 128)] * 3, [(128, 128)], [(150, 200)]]
    assert detector.seen == expected, "tiles, those that are twice as large, and the whole image"


def test_nothing_and_one_and_no_masks():
    for boxes in ([], [[60, 60, 66, 70]]):
        (found,) = Tiled(Sees(masks=False), tile=64, overlap=24).predict(drawing(boxes))
        assert found.boxes.tolist() == boxes and found.boxes.shape == (len(boxes), 4) and found.masks is None
    (found,) = Tiled(Sees(), tile=64, overlap=24).predict(drawing([]))
    assert found.masks.shape == (0, 150, 200)


def test_the_most_detections_of_an_image():
    tiled = Tiled(Sees(), tile=64, overlap=24)
    assert tiled.max_detections is None
    tiled.max_detections = 2
    (found,) = tiled.predict(drawing(LONG))
    assert found.scores == pytest.approx([0.503, 0.502])
    with pytest.raises(ValueError, match="max-detections must be at least 1, not 0"):
        tiled.max_detections = 0


def test_several_images_and_files(tmp_path):
    image = drawing([[60, 60, 80, 80]])
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), image[..., ::-1])
    tiled = Tiled(Sees(), tile=64, overlap=24)
    of_file, of_array = tiled.stream(iter([path, image]))
    assert of_file.source == path and of_array.source is image
    assert of_file.boxes.tolist() == of_array.boxes.tolist() == [[60, 60, 80, 80]]
    assert str(of_file) == "1 b" and of_file.plot().shape == image.shape


def one(box, score, label=0):
    return {
        "boxes": np.array([box], np.float32).reshape(-1, 4),
        "scores": np.array([score], np.float32),
        "labels": np.array([label]),
    }


def merged(*views, rectangles):
    """Of views with one detection each: (box, score, label, whether it is cut)."""
    found = merge([one(*view[:3]) for view in views], np.array(rectangles), [np.array(view[3:]) for view in views])
    return [
        (box, round(score, 3)) for box, score in zip(found["boxes"].tolist(), found["scores"].tolist(), strict=True)
    ]


SIDES = [[0, 0, 100, 100], [60, 0, 160, 100]]


def test_the_better_of_two_detections_stays_if_they_are_of_a_class():
    a, b = [65, 10, 85, 30], [66, 10, 86, 30]
    assert merged((a, 0.8, 0, False), (b, 0.9, 0, False), rectangles=SIDES) == [(b, 0.9)]
    assert merged((a, 0.8, 0, False), (b, 0.8, 0, False), rectangles=SIDES) == [(a, 0.8)], "ties keep the first"
    assert len(merged((a, 0.8, 0, False), (b, 0.9, 1, False), rectangles=SIDES)) == 2
    assert len(merged((a, 0.8, 0, False), ([79, 10, 99, 30], 0.9, 0, False), rectangles=SIDES)) == 2


def test_a_part_yields_to_the_whole_with_half_its_score():
    part, whole = [70, 10, 100, 30], [70, 10, 150, 30]
    rectangles = [[0, 0, 100, 100], [0, 0, 160, 100]]
    assert merged((part, 0.9, 0, True), (whole, 0.5, 0, False), rectangles=rectangles) == [(whole, 0.5)]
    assert merged((part, 0.9, 0, True), (whole, 0.4, 0, False), rectangles=rectangles) == [(part, 0.9)]
    beside = [20, 0, 150, 90]
    assert len(merged((part, 0.9, 0, True), (beside, 0.9, 0, False), rectangles=rectangles)) == 2


def test_parts_that_agree_where_both_are_seen_are_joined():
    left, right = [30, 10, 100, 30], [60, 12, 140, 30]
    assert merged((left, 0.8, 0, True), (right, 0.7, 0, True), rectangles=SIDES) == [([30, 10, 140, 30], 0.8)]
    assert len(merged((left, 0.8, 0, True), ([60, 40, 140, 60], 0.7, 0, True), rectangles=SIDES)) == 2


def test_without_regard_to_classes():
    a, b = [65, 10, 85, 30], [66, 10, 86, 30]
    views = [one(a, 0.8, 0), one(b, 0.9, 1)]
    cuts = [np.zeros(1, bool)] * 2
    assert merge(views, np.array(SIDES), cuts, agnostic=True)["labels"].tolist() == [1]
    detector = Sees()
    tiled = Tiled(detector, tile=64, overlap=24)
    tiled.agnostic, tiled.iou_threshold = True, 0.7
    assert (detector.agnostic, detector.iou_threshold) == (True, 0.7) == (tiled.agnostic, tiled.iou_threshold)


def slow_merge(views, rectangles):
    """Greedy, of whole detections only: a detection of a better rank takes the place of those of other views."""
    rows = [(s, v, b, c) for v, f in enumerate(views) for b, s, c in zip(*(f[n].tolist() for n in NAMES), strict=True)]
    kept = []
    for score, view, box, label in sorted(rows, key=lambda row: -row[0]):
        if not any(v != view and c == label and overlap(b, box) > IOU_THRESHOLD for _, v, b, c in kept):
            kept.append((score, view, box, label))
    return kept


NAMES = ("boxes", "scores", "labels")


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0


def test_merging_is_greedy_suppression_between_views():
    rng = np.random.default_rng(0)
    for number in range(60):
        rectangles = np.vstack([[0, 0, 120, 90], lay_tiles(120, 90, 60, 30)])
        views = []
        for x, y, u, v in rectangles.tolist():
            count = int(rng.integers(0, 12))
            low = rng.uniform((x, y), (u - 12, v - 12), (count, 2))
            boxes = np.hstack([low, low + rng.uniform(8, 12, (count, 2))]).astype(np.float32)
            scores = -np.sort(-rng.permutation(1000)[:count]).astype(np.float32) / 1000
            views.append({"boxes": boxes, "scores": scores, "labels": rng.integers(0, 2, count)})
        found = merge(views, rectangles, [np.zeros(len(view["scores"]), bool) for view in views])
        expected = slow_merge(views, rectangles)
        with case(number):
            assert found["scores"].tolist() == [score for score, *_ in expected]
            assert found["boxes"].tolist() == [box for _, _, box, _ in expected]
            assert found["labels"].tolist() == [label for *_, label in expected]


def test_by_the_objects_of_training():
    objects = {"sides": [40, 70, 80], "long_side": 64}
    tiled = Tiled(Sees(description={"objects": objects}))
    assert tiled.tiling[:2] == (64, 32), "at most half of a tile"
    assert Tiled(Sees()).tiling[:2] == (32, 6)


def test_what_does_not_go_in_tiles():
    other = Sees()
    other.task = "segment"
    with pytest.raises(ValueError, match="only detectors look at images in tiles"):
        Tiled(other)
    tree = Sees()
    tree.model.tree = object()
    with pytest.raises(ValueError, match="with a tree of classes they may differ"):
        Tiled(tree)
    with pytest.raises(ValueError, match="must overlap by 0 to 63 px, not 64"):
        Tiled(Sees(), tile=64, overlap=64)


class Engine:
    """An exported model that finds the bright part of each square."""

    def __init__(self):
        categories = [{"id": number, "name": name} for number, name in CLASSES]
        self.description = {
            **{"task": "detect", "channels": 3, "categories": categories, "size": 64, "any_size": True},
            **{"input": "uint8", "masks": False, "max_detections": 100, "objects": None, "letterbox": False},
        }

    def __call__(self, images):
        found = {"images": [], "boxes": [], "scores": [], "labels": []}
        for number, image in enumerate(images):
            rows, columns = np.nonzero(image[0] > 200)
            if len(rows):
                box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                for name, value in zip(found, (number, box, 0.9, 1), strict=True):
                    found[name].append(value)
        kinds = {"images": np.int64, "boxes": np.float32, "scores": np.float32, "labels": np.int64}
        found = {name: np.array(values, kinds[name]) for name, values in found.items()}
        return found | {"boxes": found["boxes"].reshape(-1, 4)}


def test_exported_and_trained_models():
    from detseg.predict import Detector

    image = np.full((150, 200, 3), 90, np.uint8)
    image[50:80, 120:136] = 255
    exported, trained = ExportedDetector(Engine()), Detector(bright(), bright.description)
    for detector in (exported, trained):
        (found,) = Tiled(detector, tile=64, overlap=32).predict(image)
        assert found.boxes.tolist() == [[120, 50, 136, 80]] and found.names == ["a", "b", "c"]
        assert found.labels.tolist() == [1] and found.scores == pytest.approx([0.9])


def test_masks_of_a_trained_model_and_its_options():
    from detseg.predict import Detector

    image = np.full((150, 200, 3), 90, np.uint8)
    image[50:80, 120:136] = 255
    tiled = Tiled(Detector(bright(masks=True), bright.description), tile=64, overlap=40)
    assert tiled.finds_masks and tiled.size == 64 and tiled.channels == 3
    for options in ({}, {"size": 128}, {"tta": True}):
        (found,) = tiled.predict([image], **options)
        assert found.masks.dtype == bool and found.masks.shape == (1, 150, 200)
        there = found.masks[0][50:80, 120:136]
        assert there.mean() > 0.9 and found.masks[0].sum() == there.sum()
    (coded,) = tiled.predict([image], run_lengths=True)
    assert coco.decode(coded.masks[0]).sum() == 480


def test_the_sides_of_tiles_grow_until_one_shows_the_whole_image():
    levels = [(level.tile, level.overlap, least) for level, least in _levels(700, Tiling(100, 20))]
    assert levels == [(100, 20, 0), (200, 40, 10), (400, 80, 20), (800, 160, 40)]
    assert [level.tile for level, _ in _levels(400, Tiling(100, 20))] == [100, 200, 400]
    assert list(_levels(100, Tiling(100, 20))) == [(Tiling(100, 20), 0)]


def bright(masks=False):
    """A trained model that finds what `Engine` does, with masks that fill their boxes if it is asked for them."""
    import torch

    class Bright(torch.nn.Module):
        task, max_detections, finds_masks = "detect", 100, masks

        def __init__(self):
            super().__init__()
            self.unused, self.engine = torch.nn.Parameter(torch.zeros(1)), Engine()

        def forward(self, images):
            found = {name: torch.from_numpy(values) for name, values in self.engine(images.numpy()).items()}
            owners = found.pop("images")
            if masks:
                found |= {"masks": torch.ones(len(owners), 28, 28), "regions": found["boxes"]}
            return [{name: values[owners == i] for name, values in found.items()} for i in range(len(images))]

    return Bright()


bright.description = {"categories": [{"id": i, "name": n} for i, n in CLASSES], "size": 64}


def megabytes():
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def look_at_a_large_image():
    """Print how much memory 80 million pixels take beyond the image itself, in megabytes."""
    from detseg.predict import Detector

    detector = Detector(bright(), bright.description)
    tiled = Tiled(detector, tile=640, overlap=100)
    list(tiled.stream([np.zeros((800, 1000, 3), np.uint8)]))  # what is loaded once
    image = np.zeros((8000, 10000, 3), np.uint8)
    image[:] = 90
    image[7000:7050, 9000:9040] = 255
    before = megabytes()
    (found,) = tiled.stream([image])
    assert found.boxes.shape == (1, 4)
    print(megabytes() - before)


@pytest.mark.slow
def test_the_memory_of_a_large_image():
    code = "from tests.tiled.test_tiled import look_at_a_large_image as look; look()"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60, "megabytes beyond the 240 of the image"
