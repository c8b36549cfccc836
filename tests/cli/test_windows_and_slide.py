"""`detseg windows` and `detseg predict --slide`: from a detection set to detections, by a localizer."""

import json
import re

import numpy as np
import pytest

import detseg
from detseg.cli import main
from detseg.data.readers import read_dataset
from detseg.predict import SlidingDetector
from tests.small_set import write_small_set

QUICK = ("--backbone", "test_efficientnet", "--weights", "none", "--epochs", "1", "--batch-size", "4")
QUICK = (*QUICK, "--precision", "fp32", "--size", "64")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("boxes"), train=4, val=3)


@pytest.fixture(scope="module")
def windows(boxes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows") / "out"
    assert main(["windows", "--data", str(boxes), "--output", str(folder), "--size", "64", "--min-side", "8"]) == 0
    return folder


def trained(data, folder, *options):
    with pytest.MonkeyPatch.context() as patch:
        from tests.cli.conftest import no_timing

        no_timing(patch)
        assert main(["train", "localizer", "--data", str(data), "--output", str(folder), *QUICK, *options]) == 0
    return folder


@pytest.fixture(scope="module")
def localizer(windows, tmp_path_factory):
    return trained(windows, tmp_path_factory.mktemp("runs") / "slides", "--objectness", "--zoom", "1", "1")


def test_windows_are_a_detection_set(windows, boxes):
    cut, source = read_dataset(windows), read_dataset(boxes)
    for split, data in cut.items():
        assert data.validate(other=None if split == "train" else cut["train"]) == []
        assert data.categories == source[split].categories and (data.sizes == 64).all()
        assert len(data.boxes) == 2 * (~source[split].iscrowd).sum() < len(data)


def test_windows_say_what_they_did(boxes, tmp_path, capsys):
    words = ["windows", "--data", str(boxes), "--output", str(tmp_path / "out"), "--size", "64", "--min-side", "17"]
    assert main(words) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(
        r"train: \d+ windows with an object and \d+ without, of 4 pictures; left out \d+ small and 1 crowd or "
        "difficult objects",
        line,
    )
    assert main(words) == 1
    assert "is there already and not empty" in capsys.readouterr().err
    assert main([*words[:4], str(tmp_path / "new"), "--size", "70"]) == 1
    assert "multiple of the stride 32" in capsys.readouterr().err


def test_objects_stay_where_they_are_with_zoom_1(localizer, windows):
    from detseg.train.config import TrainLocalizer

    assert json.loads((localizer / "config.json").read_text())["zoom"] == [1, 1]
    with pytest.raises(ValueError, match="--zoom is the smallest and the largest factor"):
        TrainLocalizer(data=windows, zoom=(1.2, 1)).check()


def test_zoom_is_what_training_augments_with(windows, tmp_path, monkeypatch):
    from detseg.train import localizer as module

    seen = []

    class Stop(Exception):
        pass

    def samples(dataset, seed, transform):
        drawn = [transform(64)(dataset[i], np.random.default_rng(i)) for i in range(len(dataset))]
        seen.extend(zip(drawn, (dataset[i] for i in range(len(dataset))), strict=True))
        raise Stop

    monkeypatch.setattr(module, "TrainingSamples", samples)
    with pytest.raises(Stop):
        trained(windows, tmp_path / "run", "--objectness", "--zoom", "1", "1")
    moved = [(a.boxes[0] * 1.0, b.boxes[0] * 64 / b.size[0]) for a, b in seen if len(b.boxes)]
    assert len(moved) > 8
    for after, before in moved:
        after, before = after.reshape(2, 2), before.reshape(2, 2)
        middle = np.abs(after.mean(0) - 32) - np.abs(before.mean(0) - 32)  # mirrored or not
        # Rotation by 5 degrees and a stretch by a twentieth are left.
        assert (
            np.abs(middle).max() < 4 and np.abs((after[1] - after[0]).max() / (before[1] - before[0]).max() - 1) < 0.15
        )


def test_slide_writes_detections_that_can_be_evaluated(localizer, boxes, tmp_path, capsys):
    out = tmp_path / "found"
    words = ["predict", str(localizer), "--slide", "--output", str(out), "--image-ids", str(boxes / "val.json")]
    assert main(words) == 0
    found = json.loads((out / "detections.json").read_text())
    assert {entry["image_id"] for entry in found} == {
        image["id"] for image in json.loads((boxes / "val.json").read_text())["images"]
    }
    assert len(found) > 3, "a localizer alone finds one in each picture"
    assert len(list(out.glob("*.jpg"))) == 3
    capsys.readouterr()
    truth, detections = str(boxes / "val.json"), str(out / "detections.json")
    assert main(["evaluate", "--ground-truth", truth, "--detections", detections]) == 0


def test_from_python(localizer, boxes):
    detector = SlidingDetector(detseg.load(localizer))
    assert detector.long_side == 320 and detector.names == ["square", "bar"]
    data = read_dataset(boxes)["val"]
    found = detector.predict([str(path) for path in data.paths], score_threshold=0)
    for detections, (width, height) in zip(found, data.sizes, strict=True):
        assert detections["boxes"].dtype == np.float32 and detections["labels"].dtype == np.int64
        assert (np.diff(detections["scores"]) <= 0).all() and len(detections["scores"]) > 1
        assert (detections["boxes"] >= 0).all() and (detections["boxes"] <= [width, height, width, height]).all()
        best = detections["scores"][0]
    assert all(len(f["scores"]) == 0 for f in detector.predict([str(data.paths[0])], score_threshold=1.01))
    assert len(detector.predict([str(data.paths[-1])], score_threshold=float(best))[0]["scores"]) == 1
    # Looked at in another size, boxes still are in the picture's own pixels.
    small = SlidingDetector(detseg.load(localizer), long_side=48)
    (one,) = small.predict([np.zeros((300, 600, 3), np.uint8)], score_threshold=0)
    assert one["boxes"][:, 2].max() > 48


def test_what_cannot_slide(localizer, windows, run, boxes, tmp_path, capsys):
    picture = str(read_dataset(boxes)["val"].paths[0])
    plain = trained(windows, tmp_path / "plain")
    for folder, message in ((plain, "train one with objectness"), (run.folder, "only a localizer can slide")):
        assert main(["predict", str(folder), picture, "--slide", "--output", str(tmp_path / "no")]) == 1
        error = capsys.readouterr().err
        assert message in error and str(folder) in error.replace("\n", "")
    assert main(["predict", str(localizer), picture, "--long-side", "500"]) == 1
    assert "there is no --long-side" in capsys.readouterr().err
    assert main(["predict", str(localizer), picture, "--slide", "--long-side", "0"]) == 1
    assert "at least 1 pixel" in capsys.readouterr().err


def test_a_segmenter_cannot_slide(segmenter, masked, capsys):
    assert main(["predict", str(segmenter.folder), str(masked / "images"), "--slide"]) == 1
    assert "holds a segmenter, for which there is no --slide" in capsys.readouterr().err
