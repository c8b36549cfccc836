"""The localizer's images: which of them count, with objectness and without; zoom of its augmentation."""

import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from detseg.train.config import TrainLocalizer
from detseg.train.sampler import Request
from detseg.train.tasks.localizer import LocalizerTask

QUIET = Console(quiet=True)


@pytest.fixture
def single(small, tmp_path):
    """One object in every image but the first of each split, which has two, and none in the last of validation."""
    folder = shutil.copytree(small, tmp_path / "single")
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        first = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 7 or a["image_id"] == first]
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 0
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def without_objects_from(folder, split, first):
    """Take all objects of the images of a split from the one at position `first` on."""
    path = folder / f"{split}.json"
    content = json.loads(path.read_text())
    kept = {image["id"] for image in content["images"][:first]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    path.write_text(json.dumps(content))


@pytest.fixture
def half(small, tmp_path):
    """The set with objects in the first four training and the first three of five validation images only."""
    folder = shutil.copytree(small, tmp_path / "half")
    without_objects_from(folder, "train", 4)
    without_objects_from(folder, "val", 3)
    return folder


def loaded(data, **options):
    task = LocalizerTask(TrainLocalizer(data=data, **options), QUIET)
    return task, *task.load()


def test_images_that_count(small, single):
    """The largest object is that of an image with any; a single one is asked for, or none too."""
    counts = {}
    for data, options in (
        (small, {}),
        (small, {"objectness": True}),
        (single, {"objects": "single"}),
        (single, {"objects": "single", "objectness": True}),
    ):
        _, *splits = loaded(data, **options)
        counts[data.name, *options] = [sorted(np.diff(split.offsets).tolist()) for split in splits]
    assert counts == {
        ("small",): [[2] * 8, [2] * 4],
        ("small", "objectness"): [[2] * 8, [0, 2, 2, 2, 2]],
        ("single", "objects"): [[1] * 7, [1] * 3],
        ("single", "objects", "objectness"): [[1] * 7, [0, 1, 1, 1]],
    }


def test_no_image_that_fits(small, half):
    # The crowd beside it does not count: one training image has a single object, no validation image has.
    with pytest.raises(ValueError, match=rf"^{small}/val\.json: there is no image with exactly one object$"):
        loaded(small, objects="single")
    without_objects_from(half, "val", 0)
    for objectness in (False, True):
        with pytest.raises(ValueError, match=r"val\.json: there is no image with an object"):
            loaded(half, objectness=objectness)


def test_crowds_alone_do_not_count_as_no_object(half):
    content = json.loads((half / "val.json").read_text())
    crowd = content["annotations"][0] | {"id": 99, "image_id": content["images"][4]["id"], "iscrowd": 1}
    (half / "val.json").write_text(json.dumps(content | {"annotations": [*content["annotations"], crowd]}))
    task, _, val = loaded(half, objectness=True)
    dataset = task.open(val, "validation")
    found = {"boxes": np.array([[0, 0, 9, 9]], np.float32), "scores": np.ones(1), "labels": np.zeros(1, np.int64)}
    evaluator = task.evaluator(dataset)
    for index in range(5):
        evaluator.update([found], [task.target(dataset, index)], [index])
    metrics = evaluator.compute()
    assert (metrics.images, metrics.without) == (3, 1)


def test_objects_everywhere_leave_nothing_to_learn_of_objectness(small, tmp_path, caplog):
    folder = shutil.copytree(small, tmp_path / "all")
    content = json.loads((folder / "val.json").read_text())
    (folder / "val.json").write_text(json.dumps(content | {"images": content["images"][:4]}))
    task, *_ = loaded(folder, objectness=True)
    learnt, measured = [record.getMessage() for record in caplog.records if "in every image" in record.getMessage()]
    assert learnt.startswith(f"{folder}/train.json: ") and "learns nothing" in learnt and "detseg windows" in learnt
    assert measured.startswith(f"{folder}/val.json: ") and "cannot be measured" in measured and "mean IoU" in measured
    assert task.headline == ("mean_iou", "accuracy")
    assert "objectness" not in {figure.name for figure in task.FIGURES}


def test_objectness_decides_on_the_best_model_where_it_can_be_measured(half, caplog):
    task, *_ = loaded(half, objectness=True)
    assert task.headline == ("quality", "mean_iou", "accuracy", "objectness")
    assert "objectness" not in caplog.text, "there is nothing to warn of"


def test_zoom_is_what_training_augments_with(small):
    task, train, _ = loaded(small, zoom=(1.0, 1.0), size=64)
    dataset = task.open(train, "training")
    samples = task.samples(dataset, task.config)
    moved = []
    for index in range(8):
        after, _ = samples[Request(0, index, index, 64, False)]
        before = dataset[index]
        moved += zip(after.boxes, before.boxes * 64 / max(before.size), strict=False) if len(after.boxes) == 2 else []
    assert len(moved) > 8
    for after, before in moved:
        after, before = after.reshape(2, 2), before.reshape(2, 2)
        # Rotation by 5 degrees and a stretch by a twentieth are left.
        assert np.abs((after[1] - after[0]).max() / (before[1] - before[0]).max() - 1) < 0.2
