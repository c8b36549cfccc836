"""`detseg windows` and `detseg predict --slide`: from a detection set to detections, by a localizer."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import detseg
from detseg.backbones import create_deepest
from detseg.cli import evaluate_detections, main
from detseg.cli.windows import Windows
from detseg.data.checks.validate import validate
from detseg.data.formats import read_dataset
from detseg.data.windows import Window, WindowGrid
from detseg.localize import SlidingWindowDetector
from detseg.localize.localizer import Localizer
from detseg.predict import SlidingDetector
from detseg.train.config import TrainLocalizer
from tests.cli.conftest import trained
from tests.small_set import write_small_set


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("boxes"), train=4, val=3)


@pytest.fixture(scope="module")
def windows(boxes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows") / "out"
    assert main(["windows", "--data", str(boxes), "--output", str(folder), "--size", "64", "--min-side", "8"]) == 0
    return folder


@pytest.fixture(scope="module")
def slider(windows, tmp_path_factory):
    """The folder of a localizer with objectness, trained on windows."""
    words = ("--epochs", "1", "--objectness", "--zoom", "1", "1")
    return trained("localizer", windows, tmp_path_factory.mktemp("runs") / "slides", *words).folder


def test_windows_are_a_detection_set(windows, boxes):
    cut, source = read_dataset(windows), read_dataset(boxes)
    for split, data in cut.items():
        assert validate(data, other=None if split == "train" else cut["train"]) == []
        assert data.categories == source[split].categories and (data.sizes == 64).all()
        assert len(data.boxes) == 2 * (~source[split].iscrowd).sum() < len(data)


def test_windows_print_what_they_did(boxes, tmp_path, capsys):
    words = ["windows", "--data", str(boxes), "--output", str(tmp_path / "out"), "--size", "64", "--min-side", "17"]
    assert main(words) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(
        r"train: \d+ windows with an object and \d+ without, of 4 images; left out \d+ small and 1 crowd or "
        "difficult objects",
        line,
    )
    assert main(words) == 1
    assert "is there already and not empty" in capsys.readouterr().err
    assert main([*words[:4], str(tmp_path / "new"), "--size", "70"]) == 1
    assert "multiple of the stride 32" in capsys.readouterr().err


def test_small_objects_are_printed_with_what_finds_them(boxes, tmp_path, capsys):
    """By the pyramid that really slides over the images."""
    folder = shutil.copytree(boxes, tmp_path / "boxes")
    content = json.loads((folder / "train.json").read_text())
    # Of images of 96 x 72, a window of 64 finds objects from 96 * 0.53 / 5 = 10.2 pixels on.
    for number, (width, height) in enumerate([(9, 7), (6, 8), (11, 6), (6, 10.5)]):
        entry = {"id": 50 + number, "bbox": [number * 20, 5, width, height], "area": width * height, "iscrowd": 0}
        content["annotations"].append(entry | {"category_id": 7, "image_id": content["images"][number]["id"]})
    (folder / "train.json").write_text(json.dumps(content))
    words = ["windows", "--data", str(folder), "--output", str(tmp_path / "out"), "--size", "64", "--min-side", "6"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = re.fullmatch(
        r"train: (\d+) of the objects are smaller than --slide finds by default; it finds all with --long-side (\d+)",
        lines[1],
    )
    assert len(lines) == 3, "in validation there are none"
    grid, data = WindowGrid(size=64), read_dataset(folder)["train"]
    sliding = SlidingWindowDetector(Localizer(create_deepest("test_efficientnet"), 2, objectness=True), 64)
    sides = (data.boxes[:, 2:] - data.boxes[:, :2])[~data.iscrowd]
    assert sides.min() >= 6

    def found(long_side):
        """Whether some level has windows in whose middle an object is their own, but for the rounding of its size."""
        levels = sliding.level_sizes(round(long_side * 72 / 96), long_side)
        best = [[grid.misfit(centred(side), Window(0, 0, 64 * 96 / width)) for _, width in levels] for side in sides]
        return np.array([np.min(row) <= 1.02 for row in best])

    def centred(side):
        return np.concatenate([-side / 2, side / 2])[None]

    assert int(printed[1]) == (~found(320)).sum() == 2
    assert found(int(printed[2])).all() and not found(int(printed[2]) - 8).all()


def test_the_recipe_is_that_of_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "localize.md").read_text()
    options = "--data windows --objectness --size 128 --zoom 1 1"
    for text in (Windows.__doc__, TrainLocalizer.__doc__, page):
        assert f"detseg train localizer {options}" in text


def test_zoom_is_kept_in_the_settings(slider):
    assert json.loads((slider / "config.json").read_text())["zoom"] == [1, 1]


def test_slide_writes_detections_that_can_be_evaluated(slider, boxes, tmp_path, capsys):
    out = tmp_path / "found"
    words = ["predict", str(slider), "--slide", "--output", str(out), "--image-ids", str(boxes / "val.json")]
    assert main(words) == 0
    found = json.loads((out / "detections.json").read_text())
    assert {entry["image_id"] for entry in found} == {
        image["id"] for image in json.loads((boxes / "val.json").read_text())["images"]
    }
    assert max(Counter(entry["image_id"] for entry in found).values()) > 1, "a localizer alone finds one in each"
    assert len(list(out.glob("*.jpg"))) == 3
    capsys.readouterr()
    truth, detections = str(boxes / "val.json"), str(out / "detections.json")
    assert main(["evaluate", "--ground-truth", truth, "--detections", detections]) == 0


def figures(capfd, *words):
    capfd.readouterr()
    assert main(["evaluate", *map(str, words), "--json", "--resamples", "0"]) == 0
    return json.loads(capfd.readouterr().out)["figures"]


@pytest.mark.parametrize("size", [pytest.param((), marks=pytest.mark.slow), ("--long-side", "200")])
def test_evaluate_slides_as_predict_does(slider, boxes, tmp_path, monkeypatch, size):
    out, truth = tmp_path / "found", str(boxes / "train.json")
    words = ["predict", str(slider), "--slide", *size, "--output", str(out), "--image-ids", truth]
    assert main(words) == 0
    expected = json.loads((out / "detections.json").read_text())
    evaluated, analyse = [], evaluate_detections.analyse

    def recorded(truth, detections, *options, **named):
        evaluated.append(detections)
        return analyse(truth, detections, *options, **named)

    monkeypatch.setattr(evaluate_detections, "analyse", recorded)
    words = ["evaluate", "--detections", str(slider), "--ground-truth", truth, "--resamples", "0"]
    assert main([*words, "--slide", *size]) == main(words) == 0
    slid, whole = evaluated
    assert slid.image_ids.tolist() == [entry["image_id"] for entry in expected]
    assert slid.category_ids.tolist() == [entry["category_id"] for entry in expected]
    np.testing.assert_allclose(slid.scores, [entry["score"] for entry in expected], rtol=1e-6)
    corners = np.array([entry["bbox"] for entry in expected])
    corners[:, 2:] += corners[:, :2]
    np.testing.assert_allclose(slid.boxes, corners, atol=1e-3)
    assert len(whole) == 4 < len(slid), "without sliding it finds one in each image"


@pytest.mark.slow
def test_evaluate_compares_a_localizer_that_slides_with_a_detector(slider, run, boxes, capfd):
    truth = boxes / "val.json"
    words = ["evaluate", "--detections", str(slider), "--slide", "--ground-truth", str(truth), "--json"]
    assert main([*words, "--compare", str(run.folder), "--resamples", "5"]) == 0
    figure = json.loads(capfd.readouterr().out)["comparison"]["figures"]["AP"]
    assert figure["a"] == pytest.approx(figures(capfd, *words[1:6])["AP"])
    assert figure["b"] == pytest.approx(figures(capfd, "--detections", run.folder, "--ground-truth", truth)["AP"])


def test_evaluate_names_what_cannot_slide(slider, localizer, run, boxes, segmenter, tmp_path, capsys):
    truth = ("--ground-truth", str(boxes / "val.json"))
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    plain = localizer.folder
    for words, message in (
        ([str(plain), "--slide", *truth], f"{plain}: a localizer without objectness finds"),
        ([str(run.folder), "--slide", *truth], f"{run.folder}: only a localizer can slide"),
        ([str(empty), "--slide", *truth], "empty.json: is a file of detections; only a localizer can slide"),
        ([str(slider), "--slide"], "was validated on windows of 64 px"),
        ([str(slider), "--slide", "--long-side", "0", *truth], "long_side must be at least 1 pixel"),
        ([str(slider), "--long-side", "500", *truth], "there is no --long-side; leave it out"),
        ([str(segmenter.folder), "--slide"], "masks are evaluated, for which there is no --slide"),
    ):
        assert main(["evaluate", "--detections", *words]) == 1
        assert message in capsys.readouterr().err


def test_from_python(slider, boxes):
    detector = SlidingDetector(detseg.load(slider))
    assert detector.long_side == 320 and detector.names == ["square", "bar"]
    data = read_dataset(boxes)["val"]
    found = detector.predict([str(path) for path in data.paths], score_threshold=0)
    for detections, (width, height) in zip(found, data.sizes, strict=True):
        assert detections["boxes"].dtype == np.float32 and detections["labels"].dtype == np.int64
        assert (np.diff(detections["scores"]) <= 0).all() and len(detections["scores"]) > 1
        assert (detections["boxes"] >= 0).all() and (detections["boxes"] <= [width, height, width, height]).all()
        best = detections["scores"][0]
    assert all(len(f["scores"]) == 0 for f in detector.predict([str(data.paths[0])], score_threshold=1.0))
    assert len(detector.predict([str(data.paths[-1])], score_threshold=float(best))[0]["scores"]) == 1
    # Looked at in another size, boxes still are in the image's own pixels.
    small = SlidingDetector(detseg.load(slider), long_side=48)
    (one,) = small.predict([np.zeros((300, 600, 3), np.uint8)], score_threshold=0)
    assert one["boxes"][:, 2].max() > 48


def test_what_cannot_slide(slider, localizer, run, boxes, tmp_path, capsys):
    image = str(read_dataset(boxes)["val"].paths[0])
    plain = localizer.folder
    for folder, message in ((plain, "train one with objectness"), (run.folder, "only a localizer can slide")):
        assert main(["predict", str(folder), image, "--slide", "--output", str(tmp_path / "no")]) == 1
        error = capsys.readouterr().err
        assert message in error and str(folder) in error.replace("\n", "")
    assert main(["predict", str(slider), image, "--long-side", "500"]) == 1
    assert "there is no --long-side" in capsys.readouterr().err
    assert main(["predict", str(slider), image, "--slide", "--long-side", "0"]) == 1
    assert "at least 1 pixel" in capsys.readouterr().err
