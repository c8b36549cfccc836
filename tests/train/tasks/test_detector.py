"""The detector's data: masks where they are learnt or pasted along, and what a resumed run notices of them."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from detseg.data.annotations import AnnotationError
from detseg.detect import calibration
from detseg.registry import MODELS
from detseg.train.config import TrainDetector
from detseg.train.fingerprint import fingerprint
from detseg.train.sampler import Request
from detseg.train.tasks.detector import DetectorTask
from tests.small_set import write_small_set
from tests.train.runs import ARCHITECTURE


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """The small set; its objects have polygons, but for the first of a split."""
    folder = write_small_set(tmp_path_factory.mktemp("set") / "set")
    for file in (folder / "train.json", folder / "val.json"):
        content = json.loads(file.read_text())
        for entry in content["annotations"][1:]:
            x, y, width, height = entry["bbox"]
            entry["segmentation"] = [[x, y, x + width, y, x + width, y + height]]
        file.write_text(json.dumps(content))
    return folder


def task(folder, **options):
    config = TrainDetector(data=folder, size=64, **options).check()
    made = DetectorTask(config, Console(quiet=True))
    train, val = made.load()
    return made, made.open(train, "training"), made.open(val, "validation")


def test_masks_are_drawn_to_paste_along_them_and_not_given_to_a_model_that_learns_boxes(flowers):
    made, train, val = task(flowers, copy_paste=0.5)
    assert train.masks and not val.masks and not made.masks
    samples = made.samples(train, made.config)
    request = Request(0, 3, 1, 64, False)
    plain, indices = samples[request]
    pasted, both = samples[request._replace(copy_paste=True)]
    assert both[0] == indices[0] == 1 and len(both) == 2
    assert len(pasted.labels) > 0 and pasted.masks.shape == (len(pasted.labels), 64, 64)
    assert not np.array_equal(plain.image, pasted.image)
    images, targets = made.collate([plain, pasted])
    assert images.shape == (2, 3, 64, 64) and all("masks" not in target for target in targets)
    alone = task(flowers)[1]
    assert not alone.masks and alone[0].masks is None


def test_a_model_that_learns_masks_gets_them(flowers, monkeypatch):
    monkeypatch.setattr(MODELS["yolo"], "needs_masks", classmethod(lambda cls, config: True))
    made, train, _ = task(flowers)
    assert made.masks and not made.pastes
    sample, _ = made.samples(train, made.config)[Request(0, 0, 1, 64, False)]
    (target,) = made.collate([sample])[1]
    assert target["masks"].shape == (len(target["boxes"]), 64, 64)


def test_boxes_alone_are_refused_before_images_are_read(tmp_path):
    folder = write_small_set(tmp_path / "set")
    message = "train.json: has boxes but no masks, none of its 11 objects has polygons or run lengths"
    with pytest.raises(AnnotationError, match=message):
        DetectorTask(TrainDetector(data=folder, size=64, copy_paste=0.1), Console(quiet=True)).load()


def test_a_run_is_resumed_with_the_same_masks_only(flowers):
    for copy_paste, noticed in ((0.0, False), (0.1, True)):
        made, train, _ = task(flowers, copy_paste=copy_paste)
        before = fingerprint((), made.contents(train))
        segments = train.annotations.segments
        train.annotations = replace(train.annotations, segments=replace(segments, points=segments.points + 0.5))
        assert (fingerprint((), made.contents(train)) != before) == noticed


def test_the_share_is_checked():
    with pytest.raises(ValueError, match="--copy-paste is a share between 0 and 1, not 2"):
        TrainDetector(data="flowers", copy_paste=2).check()


@pytest.mark.parametrize(("size", "kept"), [(64, 80), (96, 96), (128, 128)])
def test_training_images_are_kept_larger_only_if_they_are(flowers, size, kept):
    """The long sides of the set are 96 px: more than that there is nothing to zoom into."""
    made = DetectorTask(TrainDetector(data=flowers, size=size).check(), Console(quiet=True))
    train, val = made.load()
    assert max(train.sizes.max(), val.sizes.max()) == 96
    assert (made.open(train, "training").images.long_side, made.open(val, "validation").images.long_side) == (
        kept,
        size,
    )


def dense(folder, objects):
    """The small set, its first images of training and validation with so many objects each."""
    small = write_small_set(folder)
    for split, count in zip(("train", "val"), objects, strict=True):
        content = json.loads((small / f"{split}.json").read_text())
        first = content["annotations"][0]
        boxes = [[x, y, 5, 5] for y in range(0, 66, 5) for x in range(0, 91, 5)][:count]
        content["annotations"] = [
            {**first, "id": i, "bbox": box, "area": 25, "segmentation": []} for i, box in enumerate(boxes)
        ]
        (small / f"{split}.json").write_text(json.dumps(content))
    return small


def test_the_cap_follows_from_the_training_images(tmp_path, caplog):
    console = Console(file=io.StringIO())
    made = DetectorTask(TrainDetector(data=dense(tmp_path / "a", (225, 110)), size=64).check(), console)
    _, val = made.load()
    assert "up to 500 detections an image: in training images are up to 225" in console.file.getvalue()
    assert made.most == 500 and made.limits == (1, 10, 500) and "no more are found" not in caplog.text
    assert {"AR500", "AP"} <= {figure.name for figure in made.FIGURES}
    model, architecture = SimpleNamespace(max_detections=100), {}
    made.resolved(None, model, architecture, None)
    assert model.max_detections == architecture["max_detections"] == 500
    evaluator = made.evaluator(made.open(val, "validation"))
    boxes = val.boxes.astype(np.float32)
    found = {"boxes": boxes, "scores": np.ones(110), "labels": val.labels}
    nothing = {"boxes": boxes[:0], "scores": np.ones(0), "labels": val.labels[:0]}
    owners = val.image_index
    evaluator.update([found if i in owners else nothing for i in range(len(val))], None, val.image_ids)
    assert evaluator.compute().map == 1, "all of 110 objects, not 100 of them"


def test_few_objects_change_nothing_and_published_caps_stay(flowers):
    made, *_ = task(flowers)
    model, architecture = SimpleNamespace(max_detections=300), {}
    made.resolved(None, model, architecture, None)
    assert made.limits == (1, 10, 100) and architecture["max_detections"] == 300


def test_more_objects_than_are_looked_for(tmp_path, caplog):
    made, *_ = task(dense(tmp_path / "a", (225, 110)), max_detections=120)
    assert made.most == 120 and made.limits == (1, 10, 120)
    assert "1 of 6 training images have more than 120 objects, and no more are found in an image" in caplog.text
    assert "validation images have more" not in caplog.text


def test_a_warning_where_the_best_model_meets_the_cap(flowers, caplog):
    made, _, val = task(flowers, max_detections=2)
    predictions = [{"boxes": np.ones((2, 4)), "scores": np.array([0.9, 0.8]), "labels": np.zeros(2, int)}] * len(val)
    metric = made.evaluator(val)
    metric.update(predictions, None, val.annotations.image_ids)
    made.finish(SimpleNamespace(metrics=metric.compute(), predictions=predictions))
    assert "in 5 of 5 images 2 objects with scores of 0.3 or more are found" in caplog.text


def test_the_best_model_is_calibrated(flowers, tmp_path):
    made, _, val = task(flowers)
    made.console = Console(file=io.StringIO(), width=200)
    generator, predictions = np.random.default_rng(0), []
    for index in range(len(val)):  # each object found by a sure and correct box, among 20 false ones
        boxes = val.annotations.boxes[val.annotations.objects(index)]
        labels = val.annotations.labels[val.annotations.objects(index)].astype(np.int64)
        false = np.array([[0, 0, 2, 2]]).repeat(20, 0)
        scores = np.concatenate([generator.uniform(0.3, 0.6, len(boxes)), generator.uniform(0.05, 0.4, 20)])
        order = np.argsort(-scores)
        found = {"boxes": np.concatenate([boxes, false]), "labels": np.concatenate([labels, np.zeros(20, np.int64)])}
        predictions.append({n: v[order] for n, v in found.items()} | {"scores": scores[order].astype(np.float32)})
    metric = made.evaluator(val)
    metric.update(predictions, None, val.annotations.image_ids)
    before, architecture = metric.compute(), dict(ARCHITECTURE)
    categories = [{"id": 1, "name": "rose"}, {"id": 2, "name": "tulip"}]
    description = {"format": 1, "architecture": architecture, "categories": categories, "size": 64}
    description["training"] = {"map": 0.5}
    (tmp_path / "model.json").write_text(json.dumps(description))
    run = SimpleNamespace(
        metrics=before, predictions=predictions, val=val, folder=tmp_path, architecture=dict(architecture)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "FEWEST", 5)
        made.finish(run)
    assert run.metrics.stats == before.stats, "the order stays, and AP"
    errors = before.figures()["ECE"], run.metrics.figures()["ECE"]
    assert errors[1] < errors[0]
    assert f"{errors[0]:.3f} before, {errors[1]:.3f} now" in made.console.file.getvalue()
    written = json.loads((tmp_path / "model.json").read_text())
    slope, shift = written["architecture"]["calibration"]
    assert written == description | {"architecture": ARCHITECTURE | {"calibration": [slope, shift]}}
    old, new = (metrics.matches.scores for metrics in (before, run.metrics))
    np.testing.assert_allclose(np.log(new / (1 - new)), slope * np.log(old / (1 - old)) + shift, atol=1e-3)


def test_too_few_detections_are_not_calibrated(flowers, tmp_path):
    made, _, val = task(flowers)
    metric = made.evaluator(val)
    nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)}
    metric.update([nothing] * len(val), None, val.annotations.image_ids)
    run = SimpleNamespace(metrics=metric.compute(), predictions=[nothing] * len(val), architecture={})
    made.finish(run)
    assert run.architecture == {}
