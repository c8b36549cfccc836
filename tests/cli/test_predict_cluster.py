"""`detseg predict --engine ray` and the evaluation of what it writes, with a cluster in this process."""

import json
import os
import re
import shutil
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

import detseg
from detseg.cli import main
from detseg.cli.predict_cluster import _quickest
from detseg.cluster import ray_data
from detseg.cluster.ray_data import Cluster
from detseg.cluster.results import read_all
from detseg.cluster.worker import Summary, Worker
from detseg.data.formats import read_dataset
from detseg.exporters import export
from tests.cluster.brightest import write_tar


@pytest.fixture
def units(monkeypatch):
    """The units that are done, in place of a cluster; those named in `units.fail` are not."""
    done = []

    @contextmanager
    def connected():
        yield Cluster(1, 2, 0)

    def run(units, job, files, actors):
        worker = Worker(job, files)
        for unit in units:
            done.append(unit)
            yield Summary(unit.name, failed=f"{unit.name}: lost") if unit.name in failing else worker.do(unit)

    failing = set()
    monkeypatch.setattr(ray_data, "connected", connected)
    monkeypatch.setattr(ray_data, "run", run)
    return done, failing


def predict(run, *words, output):
    words = ["--engine", "ray", "--shard-format", "jsonl", "--output", output, *words]
    return main(["predict", str(run.folder), *map(str, words)])


def totals(text):
    return {name: number.replace(" ", "") for name, number in re.findall(r"│ ([a-z ]+?) +│ +([\d .]+) │", text)}


def rows(folder):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_what_is_found_is_what_one_machine_finds(run, small, tmp_path, units, capsys):
    assert predict(run, small / "images", "--score-threshold", 0.1, output=tmp_path / "found") == 0
    printed = capsys.readouterr().out
    assert f"{run.folder} on 1 node, 2 CPUs, 0 GPUs: 1 shards to do, 0 are done already" in printed
    found = rows(tmp_path / "found")
    paths = [row["image"] for row in found]
    assert paths == sorted(str(path) for path in (small / "images").iterdir())
    expected = detseg.load(run.folder).predict(paths, score_threshold=0.1)
    for row, one in zip(found, expected, strict=True):
        assert row["boxes"] == one.boxes.tolist() and row["scores"] == one.scores.tolist()
        assert row["labels"] == one.labels.tolist() and (row["width"], row["height"]) == (96, 72)
    counts = totals(printed)
    assert counts["images"] == "13" and counts["objects"] == str(sum(len(one) for one in expected))


def test_classes_are_those_of_one_machine(classifier, small, tmp_path, units, capsys):
    assert predict(classifier, small / "images", output=tmp_path / "found") == 0
    counts = totals(capsys.readouterr().out)
    assert counts["images"] == "13" and counts["objects"] == "0"
    found = rows(tmp_path / "found")
    seen = detseg.load(classifier.folder).predict([row["image"] for row in found])
    for row, one in zip(found, seen, strict=True):
        assert row["labels"] == one.labels.tolist() and row["scores"] == pytest.approx(one.scores.tolist(), abs=1e-6)
        assert row["names"] == [one.names[label] for label in one.labels] and row["boxes"] == []
    words = ["--ground-truth", str(small / "val.json"), "--detections", str(tmp_path / "found")]
    assert main(["evaluate", *words]) == 1
    assert "holds the likeliest classes alone" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--flip"]], ids=" ".join)
def test_masks_have_the_figures_of_one_machine(segmenter, masked, tmp_path, units, capsys, words):
    """The evaluation of shards is that of a folder of masks."""
    images = sorted((masked / "images").glob("val*"))
    assert predict(segmenter, *images, *words, output=tmp_path / "found") == 0
    assert main(["predict", *map(str, [segmenter.folder, *images, *words, "--output", tmp_path / "masks"])]) == 0
    figures = []
    for folder in ("found", "masks"):
        capsys.readouterr()
        truth = ["--ground-truth", str(masked / "val.txt"), "--resamples", "0", "--json"]
        assert main(["evaluate", str(tmp_path / folder), *truth]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0] == figures[1] and figures[0]["images"] == len(images) == 5
    assert main(["evaluate", str(tmp_path / "found"), "--compare", str(segmenter.folder), *truth[:2]]) == 0


def test_evaluation_gives_the_figures_of_one_file(run, small, tmp_path, units, capsys):
    words = ["--image-ids", str(small / "val.json"), "--output", str(tmp_path / "plain")]
    assert main(["predict", str(run.folder), *words]) == 0
    tar = write_tar(tmp_path / "0.tar", {p.name: p.read_bytes() for p in sorted((small / "images").glob("val*"))})
    assert predict(run, tar, "--score-threshold", 0, output=tmp_path / "found") == 0
    figures = []
    for path in (tmp_path / "plain/detections.json", tmp_path / "found"):
        capsys.readouterr()
        words = ["--ground-truth", str(small / "val.json"), "--detections", str(path), "--json", "--resamples", "50"]
        assert main(["evaluate", *words]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0] == figures[1] and figures[0]["images"] == 5


def test_evaluation_by_a_data_set_of_any_format(run, small, tmp_path, units, capsys):
    from detseg.data.formats import write_yolo

    assert predict(run, small / "images", "--score-threshold", 0, output=tmp_path / "found") == 0
    figures = []
    for words in ([small / "val.json"], [small], [small, "--split", "train"]):
        capsys.readouterr()
        words = ["evaluate", tmp_path / "found", "--json", "--resamples", "0", "--ground-truth", *words]
        assert main([*map(str, words)]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0] == figures[1] and figures[2]["images"] == 8
    write_yolo(read_dataset(small)["val"], tmp_path / "yolo", "val")
    assert main(["evaluate", str(tmp_path / "found"), "--ground-truth", str(tmp_path / "yolo")]) == 1
    assert "its categories differ" in capsys.readouterr().err  # it has numbers of its own
    words = ["evaluate", str(tmp_path / "found"), "--ground-truth", str(small / "val.json"), "--split", "val"]
    assert main(words) == 1 and "leave out --split" in capsys.readouterr().err


def test_evaluation_prints_what_is_missing_and_compares(run, small, tmp_path, units, capsys):
    images = small / "images"
    assert predict(run, images / "val0.png", images / "train0.png", output=tmp_path / "found") == 0
    capsys.readouterr()
    words = ["evaluate", str(tmp_path / "found"), "--ground-truth", str(small / "val.json"), "--resamples", "50"]
    assert main([*words, "--compare", str(tmp_path / "found"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "4 of 5 images of the ground truth have no results; nothing counts as found in them" in printed.err
    assert "1 images that the ground truth does not list are left out" in printed.err
    assert "comparison" in json.loads(printed.out)
    assert main(words[:2]) == 1
    assert "--ground-truth is missing" in capsys.readouterr().err


def test_it_goes_on_where_it_was_stopped(run, small, tmp_path, units, capsys):
    done, failing = units
    images = sorted((small / "images").iterdir())
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", {path.name: path.read_bytes() for path in images[number::3]})
    words = [f"{tmp_path}/{{0..2}}.tar"]
    failing.add(next(iter(name for name in _names(tmp_path, words) if name.startswith("1-"))))
    assert predict(run, *words, output=tmp_path / "found") == 1
    printed = capsys.readouterr().out
    assert "lost" in printed and "1 of 3 shards are missing; the same command goes on with them" in printed
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "found").glob("*.jsonl")}
    assert len(before) == 2 and len(done) == 3
    failing.clear()
    assert predict(run, *words, output=tmp_path / "found") == 0
    assert len(done) == 4 and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert sorted(row["image"] for row in rows(tmp_path / "found")) == sorted(path.name for path in images)
    assert totals(capsys.readouterr().out)["shards of earlier calls"] == "2"
    assert predict(run, *words, output=tmp_path / "found") == 0 and len(done) == 4
    capsys.readouterr()
    assert predict(run, *words, "--score-threshold", 0.5, output=tmp_path / "found") == 1
    assert "was begun with another --score-threshold, the default" in capsys.readouterr().err


def _names(folder, sources):
    from detseg.cluster.sources import collect
    from detseg.cluster.units import units_of

    return [unit.name for unit in units_of(collect(sources), str(folder))]


def test_images_that_cannot_be_read_are_rows_and_counted(run, small, tmp_path, units, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert predict(run, tmp_path / "bad.jpg", small / "images/val0.png", output=tmp_path / "found") == 0
    printed = capsys.readouterr().out
    assert totals(printed)["images that cannot be read"] == "1" and f"{tmp_path / 'bad.jpg'}: not a readable" in printed
    assert [row["error"] is None for row in rows(tmp_path / "found")] == [False, True]
    assert predict(run, tmp_path / "bad.jpg", output=tmp_path / "none") == 1  # not one was read


def test_options_that_mean_something_and_those_that_do_not(run, segmenter, small, tmp_path, units, capsys):
    image = small / "images/val0.png"
    words = ["--classes", "bar", "--max-detections", 3, "--score-threshold", 0, "--size", 64]
    assert predict(run, image, *words, output=tmp_path / "found") == 0
    (row,) = rows(tmp_path / "found")
    assert set(row["names"]) <= {"bar"} and len(row["scores"]) <= 3
    capsys.readouterr()
    for words, message in [
        ([image, "--save-txt"], "--save-txt: --engine ray writes shards of results and nothing else"),
        ([image, "--device", "cpu"], "--device: --engine ray"),
        ([image, run.folder], "runs are fused on one machine only"),
        ([], "name the images, archives or tables"),
        ([image, "--classes", "rose"], "the model knows no class 'rose'"),
    ]:
        assert predict(run, *words, output=tmp_path / "other") == 1
        assert message in capsys.readouterr().err
    assert predict(segmenter, image, "--boxes", output=tmp_path / "other") == 1
    assert "--boxes: --engine ray writes shards of results" in capsys.readouterr().err
    assert predict(run, image, "--flip", output=tmp_path / "other") == 1
    assert "holds a detector, for which there is no --flip" in capsys.readouterr().err
    assert main(["predict", str(run.folder), str(image), "--shard-format", "jsonl"]) == 1
    assert "--shard-format is for --engine ray" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_quickest_model_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else name)
    assert _quickest(tmp_path) == tmp_path
    for number, name in enumerate(("model.safetensors", "model.xml", "model.onnx")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number, number))
    assert _quickest(tmp_path) == tmp_path / "model.onnx"  # OpenVINO is not installed
    monkeypatch.undo()
    pytest.importorskip("openvino")
    assert _quickest(tmp_path) == tmp_path / "model.xml" and _quickest(tmp_path / "model.onnx").suffix == ".onnx"
    os.utime(tmp_path / "model.safetensors", (9, 9))  # the run was trained on
    assert _quickest(tmp_path) == tmp_path


@pytest.mark.slow
def test_the_exported_model_in_the_run_is_taken_and_said(run, small, tmp_path, units, capsys):
    pytest.importorskip("onnxruntime")
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    path = export(copy, "onnx", None)
    image = small / "images/val0.png"
    words = [str(image), "--engine", "ray", "--shard-format", "jsonl", "--output"]
    assert main(["predict", str(copy), *words, str(tmp_path / "quick")]) == 0
    assert f"{path} on 1 node" in capsys.readouterr().out
    assert main(["predict", str(copy), *words, str(tmp_path / "own"), "--iou-threshold", "0.5"]) == 0
    assert f"{copy} on 1 node" in capsys.readouterr().out  # the exported model has no such option
    expected = detseg.load(path).predict([image])[0]
    (row,) = rows(tmp_path / "quick")
    assert row["boxes"] == pytest.approx(expected.boxes, abs=0.01)


def test_an_address_of_fsspec_as_output(run, small, tmp_path, units, capsys):
    fsspec = pytest.importorskip("fsspec")
    image = small / "images/val0.png"
    try:
        assert predict(run, image, "--score-threshold", 0, output="memory://predicted/found") == 0
        ((_, shard),) = read_all("memory://predicted/found")
        assert shard.images == [str(image)] and len(shard.scores)
        data = read_dataset(small)["val"]
        words = ["--ground-truth", str(small / "val.json"), "--resamples", "0", "--json"]
        capsys.readouterr()
        assert main(["evaluate", "memory://predicted/found", *words]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == len(data)
    finally:
        fsspec.filesystem("memory").rm("/predicted", recursive=True)


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_what_is_missing_is_named_with_what_installs_it(run, small, tmp_path, capsys):
    words = [str(small / "images"), "--engine", "ray", "--output", str(tmp_path / "found")]
    assert main(["predict", str(run.folder), *words]) == 1
    assert "error: --engine ray needs ray: pip install 'detseg[cluster]'" in capsys.readouterr().err
