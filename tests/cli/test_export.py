"""`detseg export`: a file, its measurement, its predictions on the command line; what is refused."""

import json
import os
import shutil

import numpy as np
import pytest

import detseg
from detseg.cli import main
from detseg.exporters import measure
from detseg.results import Results
from tests.runtime.test_runtime import python

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert main(["export", str(run.folder), "--format", "onnx", "--output", str(path)]) == 0
    return path


def test_what_is_written_is_measured(run, exported):
    told = json.loads(exported.with_name("export.json").read_text())
    description = json.loads((run.folder / "model.json").read_text())
    assert told["torch"]["value"] == pytest.approx(description["training"]["map"], abs=0.02)
    assert told["exported"]["value"] == pytest.approx(told["torch"]["value"], abs=1e-4)
    assert told["largest_difference"] < 1e-4 and told["only_in_one"] == 0 and told["exported"]["ms"] > 0


def test_it_predicts_as_the_run_does(run, exported, small, tmp_path):
    images = sorted(map(str, (small / "images").glob("val*")))
    for theirs, ours in zip(
        detseg.load(exported).predict(images), detseg.load(run.folder).predict(images), strict=True
    ):
        assert theirs.labels.tolist() == ours.labels.tolist()
        np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=0.02)
    for model in (run.folder, exported):
        words = ["predict", str(model), *images, "--image-ids", str(small / "val.json")]
        assert main([*words, "--output", str(tmp_path / model.name)]) == 0
    both = [json.loads((tmp_path / m.name / "detections.json").read_text()) for m in (run.folder, exported)]
    assert len(both[0]) == len(both[1]) > 0
    assert (tmp_path / exported.name / f"{images[0].split('/')[-1].split('.')[0]}.jpg").is_file()


def test_it_predicts_without_torch(exported, small, tmp_path):
    image = next((small / "images").glob("val*"))
    code = "from detseg.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(code, "predict", exported, image, "--output", tmp_path)
    assert done.returncode == 0 and (tmp_path / "detections.json").is_file(), done.stderr


@pytest.mark.slow
def test_a_file_that_loses_too_much_is_an_error(run, tmp_path, monkeypatch, capsys):
    side = measure.Side(0.5, 0.4, 0.6, 10.0)
    worse = measure.Comparison("mAP", 4, side, measure.Side(0.4, 0.3, 0.5, 5.0), 0.3, 2)
    monkeypatch.setattr(measure, "compare", lambda *_, **__: worse)
    words = ["export", str(run.folder), "--format", "onnx", "--output", str(tmp_path / "m.onnx")]
    assert main(words) == 1
    assert "loses 0.1000 of mAP, more than --tolerance 0.005" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists() and (tmp_path / "m.failed.onnx").is_file()
    assert main([*words, "--tolerance", "0.2"]) == 0 and (tmp_path / "m.onnx").is_file()


def test_what_is_refused(run, exported, small, tmp_path, capsys):
    image = str(next((small / "images").glob("val*")))
    out = ["--output", str(tmp_path / "m")]
    for words, message in (
        (["export", str(run.folder), "--format", "onix", *out], "did you mean onnx"),
        (["export", str(run.folder), "--format", "onnx", "--int8", "--images", "2", *out], "onnx has no option int8"),
        (["export", str(tmp_path), "--format", "onnx", "--images", "0", *out], "no trained model here"),
        (["predict", str(exported), image, "--tta", *out], "is an exported model, for which there is no --tta"),
        (["predict", str(exported), image, "--flip", *out], "holds a detector, for which there is no --flip"),
        (["predict", str(exported), image, "--max-detections", "1000", *out], "exported with at most"),
        (["predict", str(exported), image, "--device", "cpu", *out], "leave out --device"),
        (["predict", str(exported), image, "--size", "100", *out], "multiples of 32"),
    ):
        assert main(words) == 1, words
        assert message in capsys.readouterr().err


def test_folders_whose_names_are_no_text_are_refused_before_the_work(run, exported, small, tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = shutil.copy(exported, folder / exported.name)
    assert main(["export", str(run.folder), "--format", "torchscript", "--output", str(folder / "m.torchscript")]) == 1
    assert main(["predict", str(path), str(small / "images")]) == 1
    assert capsys.readouterr().err.count("is no UTF-8, which engines want; rename it") == 2
    assert [file.name for file in folder.iterdir()] == [exported.name]


def test_differences_of_detections():
    def found(boxes, scores, labels):
        return Results(
            {
                "boxes": np.array(boxes, np.float32).reshape(-1, 4),
                "scores": np.array(scores),
                "labels": np.array(labels),
            },
            np.zeros((9, 9, 3), np.uint8),
            [(1, "a"), (2, "b")],
        )

    one = found([[0, 0, 4, 4], [5, 5, 9, 9]], [0.9, 0.31], [0, 1])
    assert measure.differences(one, one) == (0, 0)
    other = found([[0, 0, 4, 3.9], [5, 5, 9, 9]], [0.8, 0.29], [0, 1])
    assert measure.differences(one, other) == (pytest.approx(0.1), 0), "nearly clear is a counterpart"
    assert measure.differences(one, found([], [], [])) == (0, 2)
    assert measure.differences(one, found([[0, 0, 4, 4]], [0.9], [1])) == (0, 3), "another class is another object"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmenter", "classifier", "localizer"])
@pytest.mark.parametrize("form", ["onnx", "torchscript", "openvino"])
def test_every_task_is_exported_and_measured(kind, form, request, tmp_path):
    if form == "openvino":
        pytest.importorskip("openvino")
    folder = request.getfixturevalue(kind).folder
    ending = {"openvino": "xml"}.get(form, form)
    assert main(["export", str(folder), "--format", form, "--output", str(tmp_path / f"model.{ending}")]) == 0
    told = json.loads((tmp_path / "export.json").read_text())
    trained = json.loads((folder / "model.json").read_text())["training"]
    figure = {"segmenter": "miou", "classifier": "top1", "localizer": "mean_iou"}[kind]
    assert told["torch"]["value"] == pytest.approx(trained[figure], abs=0.01), "as the training has it"
    assert abs(told["lost"]) < 0.005 and told["largest_difference"] < 0.1
    image = str(next((request.getfixturevalue("small") / "images").glob("val*")))
    words = ["predict", str(tmp_path / f"model.{ending}"), image, "--output", str(tmp_path / "out")]
    assert main(words) == 0


@pytest.mark.slow
def test_int8_and_the_table_of_engines(run, tmp_path, capsys):
    pytest.importorskip("nncf")
    words = ["export", str(run.folder), "--format", "openvino", "--int8", "--output", str(tmp_path / "model.xml")]
    assert main([*words, "--tolerance", "0.2"]) == 0
    whole = detseg.export(run.folder, "openvino", tmp_path / "whole.xml")
    weights = [path.with_suffix(".bin").stat().st_size for path in (tmp_path / "model.xml", whole)]
    assert weights[0] < 0.5 * weights[1]
    capsys.readouterr()
    assert main(["benchmark", str(run.folder), "--images", "3"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("torch", "onnx", "openvino", "openvino int8", "torchscript"))
