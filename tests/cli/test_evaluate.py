"""`detseg evaluate`: tables, JSON, CSV, runs, comparisons, messages, and the command line it makes."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from detseg.cli import main
from detseg.cli.evaluate import Evaluate
from detseg.cli.evaluate import run as evaluate
from detseg.data.formats import read_dataset
from detseg.data.pack.datasets import write_pack
from detseg.metrics import evaluate_detections, evaluate_voc
from detseg.metrics.bootstrap.detection import bootstrap_detection, compare_detection
from detseg.metrics.detection.analysis import analyse
from detseg.train.config import TrainDetector
from tests.metrics.scenes import random_scene


def write(folder: Path, **contents) -> dict[str, Path]:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {name: folder / f"{name}.json" for name in contents}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two images with a rose each; the second is missed."""
    truth = {
        "images": [{"id": i, "width": 200, "height": 200} for i in (5, 6)],
        "categories": [{"id": 2, "name": "rose"}, {"id": 3, "name": "tulip [white]"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": 2, "bbox": [10, 10, 50, 50], "iscrowd": 0}
            for n, i in enumerate((5, 6))
        ],
    }
    results = [{"image_id": 5, "category_id": 2, "bbox": [10, 10, 50, 36], "score": 0.9}]
    return write(tmp_path, ground_truth=truth, detections=results)


@pytest.fixture
def scene(tmp_path: Path) -> dict[str, Path]:
    """A random data set and two sets of detections, the other one without its best tenth."""
    truth, results = random_scene(0, images=20)
    paths = write(tmp_path, gt=truth, dt=results, other=[r for r in results if r["score"] < 0.9])
    return {"ground_truth": paths["gt"], "detections": paths["dt"], "other": paths["other"]}


def rows_of(text: str) -> list[list[str]]:
    """The cells of every row of the printed tables."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


# ------------------------------------------------------------------ tables


@pytest.mark.parametrize(("year", "method"), [("2007", "11-point"), ("2012", "area")])
def test_pascal_voc(scene, capsys, tmp_path, year, method) -> None:
    expected = evaluate_voc(scene["ground_truth"], scene["detections"], method=method)
    config = Evaluate(ground_truth=scene["ground_truth"], detections=scene["detections"], voc=year, resamples=0)
    assert evaluate(config) == 0
    assert ["mean", f"{expected.map:.3f}"] in [row[:2] for row in rows_of(capsys.readouterr().out)]
    assert evaluate(replace(config, json=True, csv=tmp_path / "figures.csv")) == 0
    assert json.loads(capsys.readouterr().out)["voc"] == expected.to_dict()
    with (tmp_path / "figures.csv").open(newline="") as file:
        column = [row["VOC AP"] for row in csv.DictReader(file)]
    assert [float(value or "nan") for value in column] == pytest.approx(
        [expected.map, *(row.ap for row in expected.per_class)], nan_ok=True
    )
    with pytest.raises(ValueError, match="--voc compares boxes, --iou-type segm masks"):
        evaluate(replace(config, iou_type="segm"))


def test_tables(files, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert evaluate(Evaluate(**files)) == 0
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert max(map(len, text.splitlines())) <= 80, "it fits a terminal of the usual width"
    # Found at 5 of the 10 thresholds, which gives recall up to 0.50 of 1: 51 of 101 levels.
    start = rows.index(["all", "0.252", "0.505", "0.000", "0.250", "0.250", "0.250"])
    assert [row[0] for row in rows[start + 1 : start + 3]] == ["95 % from", "to"]
    limits = bootstrap_detection(
        evaluate_detections(files["ground_truth"], files["detections"]).matches
    ).figures.values()
    assert rows[start + 1][1:4] == [f"{interval.low:.3f}" for interval in limits]
    assert rows[start + 2][1:4] == [f"{interval.high:.3f}" for interval in limits]
    assert rows[start + 3] == ["small (to 32²)", "–", "", "", "", "", "–"]
    assert ["rose", "2", "2", "0.252", *(row[1] for row in rows[start + 1 : start + 3]), "0.505", "0.250"] in rows
    # Brackets in a name are not markup.
    assert ["tulip [white]", "0", "0", "–", "–", "–", "–", "–"] in rows
    assert "images: 2, objects: 2, detections: 1" in text
    assert ["missed", "0.495", "1", "objects with nothing near"] in rows
    assert ["background", "0.000", "0", "nothing there"] in rows
    assert ["rose", "0.900", "1.000", "0.500", "0.667"] in rows, "best threshold: score, precision, recall, F1"
    assert re.search(r"^ +1 rose +1 +· +1 *$", text, re.MULTILINE), "one found, one missed"
    assert ["0.9 to 1.0", "1", "0.900", "1.000"] in rows and ["0.1 to 0.2", "0", "–", "–"] in rows, "reliability"
    assert "expected calibration error 0.100" in " ".join(text.split())


def test_without_resamples_there_are_no_intervals(files, capsys) -> None:
    assert evaluate(Evaluate(**files, resamples=0)) == 0
    rows = rows_of(capsys.readouterr().out)
    assert ["rose", "2", "2", "0.252", "0.505", "0.250"] in rows
    assert not any(row[0].startswith("95 %") for row in rows)


def test_of_many_classes_the_confusions_are_listed(tmp_path, capsys) -> None:
    truth = {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(13)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [10, 10, 50, 50]}],
    }
    results = [{"image_id": 1, "category_id": 7, "bbox": [10, 10, 50, 50], "score": 0.9}]
    assert evaluate(Evaluate(**write(tmp_path, ground_truth=truth, detections=results))) == 0
    rows = rows_of(capsys.readouterr().out)
    assert ["class 4", "class 7", "1", "100.0 %"] in rows
    assert ["classification", "1.000", "1", "in place, but of another class"] in rows


def test_a_comparison(scene, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    other = scene.pop("other")
    assert evaluate(Evaluate(**scene, compare=other, resamples=100)) == 0
    expected = compare_detection(scene["ground_truth"], scene["detections"], other, resamples=100)
    row = expected.figures["AP50"]
    cells = [f"{row.a:.3f}", f"{row.b:.3f}", *(f"{v:+.3f}" for v in (row.difference, row.low, row.high))]
    rows = rows_of(capsys.readouterr().out)
    assert ["mAP@.50", *cells, f"{100 * row.b_better:.1f} %"] in rows
    assert row.difference < 0
    assert [r[0] for r in rows if r[0].startswith("AP of")] == ["AP of class 3", "AP of class 1", "AP of class 90"]


def test_more_objects_than_coco_counts(tmp_path, capsys, caplog) -> None:
    boxes = [[20 * x, 20 * y, 15, 15] for x in range(15) for y in range(15)]
    truth = {
        "images": [{"id": i, "width": 300, "height": 300} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    files = write(tmp_path, ground_truth=truth, detections=results)
    assert evaluate(Evaluate(**files, json=True, resamples=0)) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["AR100"] == pytest.approx(100 / 225)
    assert "1 of 2 images have more than 100 objects of a class, but only the best 100 detections" in caplog.text
    caplog.clear()
    assert evaluate(Evaluate(**files, json=True, resamples=0, max_detections=500)) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["AP"] == figures["AR500"] == 1 and figures["AR1"] == pytest.approx(1 / 225) and not caplog.text
    with pytest.raises(ValueError, match="--max-detections must be positive, not 0"):
        evaluate(Evaluate(**files, max_detections=0))


# ------------------------------------------------------------------ JSON and CSV


def test_json_alone_on_stdout(scene, capfd) -> None:
    other = scene.pop("other")
    assert evaluate(Evaluate(**scene, json=True, resamples=50, compare=other)) == 0
    content = json.loads(capfd.readouterr().out)
    metrics = evaluate_detections(*scene.values()).to_dict()
    assert {name: content[name] for name in metrics} == metrics, "what was there before stays as it was"
    more = {"intervals", "errors", "best_thresholds", "confusion", "reliability", "comparison"}
    assert content.keys() - metrics.keys() == more
    assert content["reliability"]["error"] == pytest.approx(metrics["figures"]["ECE"])
    analysis = analyse(*scene.values(), resamples=50)
    assert content["intervals"]["figures"]["AP"]["low"] == analysis.intervals.figures["AP"].low
    assert content["errors"]["errors"]["missed"]["count"] == analysis.errors.errors["missed"].count
    assert content["best_thresholds"] == analysis.thresholds.to_dict()
    assert content["confusion"] == analysis.confusion.to_dict()
    assert content["comparison"]["figures"]["AP"]["a"] == pytest.approx(content["figures"]["AP"])


def test_json_without_comparison_and_intervals(files, capfd) -> None:
    assert evaluate(Evaluate(**files, json=True, resamples=0)) == 0
    content = json.loads(capfd.readouterr().out)
    assert content["intervals"] is None and "comparison" not in content
    assert content["best_thresholds"]["per_class"][1] == dict.fromkeys(("score", "precision", "recall", "f1"))


def test_the_score_threshold_of_the_confusion_matrix(files, capfd) -> None:
    assert evaluate(Evaluate(**files, json=True, resamples=0, score_threshold=0.95)) == 0
    confusion = json.loads(capfd.readouterr().out)["confusion"]
    assert (confusion["score_threshold"], confusion["counts"][0]) == (0.95, [0, 0, 2])


def test_csv(files, tmp_path, capsys) -> None:
    path = tmp_path / "table.csv"
    assert evaluate(Evaluate(**files, csv=path)) == 0
    assert "Average precision" in capsys.readouterr().out
    with path.open(newline="", encoding="utf-8") as file:
        overall, rose, tulip = csv.DictReader(file)
    metrics = evaluate_detections(files["ground_truth"], files["detections"])
    assert (overall["class"], rose["class"], tulip["class"]) == ("", "rose", "tulip [white]")
    assert float(overall["AP"]) == float(rose["AP"]) == metrics.map
    limits = bootstrap_detection(metrics.matches).figures["AP50"]
    assert (float(overall["AP50_low"]), float(rose["AP50_high"])) == (limits.low, limits.high)
    assert float(rose["best_score"]) == 0.9
    assert (overall["AP_small"], tulip["AP"], tulip["best_f1"], tulip["objects"]) == ("", "", "", "0")
    assert set(metrics.figures()) < set(overall)


def test_a_csv_that_cannot_be_written_costs_no_figures(files, tmp_path, capsys) -> None:
    assert evaluate(Evaluate(**files, resamples=0, csv=tmp_path / "new/deep/table.csv")) == 0
    assert (tmp_path / "new/deep/table.csv").is_file()
    capsys.readouterr()
    with pytest.raises(OSError):
        evaluate(Evaluate(**files, resamples=0, csv=files["detections"] / "table.csv"))
    assert "Average precision" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"--csv {tmp_path}: is a folder; name a file in it"):
        evaluate(Evaluate(**files, csv=tmp_path))
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------ runs


def evaluated(capfd, **options) -> dict:
    assert evaluate(Evaluate(json=True, resamples=20, **options)) == 0
    return json.loads(capfd.readouterr().out)


def test_a_run_is_evaluated_on_its_own_validation_data(run, small, capfd) -> None:
    content = evaluated(capfd, detections=run.folder)
    trained = json.loads((run.folder / "model.json").read_text())["training"]
    assert content["figures"]["AP"] == pytest.approx(trained["map"], abs=0.005)
    assert content["images"] == 5
    assert evaluated(capfd, detections=run.folder, ground_truth=small / "val.json")["figures"] == content["figures"]


def test_a_run_looks_for_no_more_than_it_is_told(run, capfd) -> None:
    content = evaluated(capfd, detections=run.folder, max_detections=3)
    assert 0 < content["detections"] <= 3 * 5 and {"AR1", "AR3"} < content["figures"].keys()


def test_a_run_on_other_data_and_as_the_other_side(run, small, tmp_path, capfd) -> None:
    truth = small / "train.json"
    content = evaluated(capfd, detections=run.folder, ground_truth=truth, compare=run.folder)
    assert content["images"] == 8
    assert content["comparison"]["figures"]["AP"]["difference"] == 0
    nothing = tmp_path / "nothing.json"
    nothing.write_text("[]")
    content = evaluated(capfd, detections=nothing, ground_truth=truth, compare=run.folder)
    assert content["figures"]["AP"] == 0 < content["comparison"]["figures"]["AP"]["b"]


@pytest.mark.slow
def test_of_a_data_set_the_validation_split_is_evaluated_or_the_one_asked_for(run, small, tmp_path, capfd) -> None:
    own = evaluated(capfd, detections=run.folder)
    write_pack(tmp_path / "all.h5", read_dataset(small), 96)
    for truth in (small, tmp_path / "all.h5"):
        content = evaluated(capfd, detections=run.folder, ground_truth=truth)
        assert (content["images"], content["objects"]) == (own["images"], own["objects"]) == (5, 8)
        assert evaluated(capfd, detections=run.folder, ground_truth=truth, split="train")["images"] == 8
    assert evaluated(capfd, detections=run.folder, ground_truth=small)["figures"] == own["figures"]
    assert evaluated(capfd, detections=run.folder, split="val")["figures"] == own["figures"]
    assert evaluated(capfd, detections=run.folder, split="train")["images"] == 8


def test_the_ground_truth_of_a_file_of_detections_is_of_any_form(small, tmp_path, capfd) -> None:
    truth = json.loads((small / "val.json").read_text())
    found = [
        {"score": 0.5 + (n % 2) / 4, **{key: item[key] for key in ("image_id", "category_id", "bbox")}}
        for n, item in enumerate(truth["annotations"][1:])
    ]
    detections = write(tmp_path, dt=found)["dt"]
    write_pack(tmp_path / "all.h5", read_dataset(small), 96)
    own = evaluated(capfd, detections=detections, ground_truth=small / "val.json")["figures"]
    assert 0 < own["AP"] < 1
    for form in (small, tmp_path / "all.h5"):
        assert evaluated(capfd, detections=detections, ground_truth=form)["figures"] == pytest.approx(own)


def test_splits_that_are_not_there(run, small, files, tmp_path) -> None:
    apart = shutil.copytree(run.folder, tmp_path / "apart")
    settings = json.loads((apart / "config.json").read_text())
    settings |= {"data": None, "train": str(small / "train.json"), "val": str(small / "val.json")}
    (apart / "config.json").write_text(json.dumps(settings))
    two = shutil.copytree(small, tmp_path / "two")
    (two / "val.json").rename(two / "test.json")
    for options, message in (
        ({"detections": run.folder, "split": "test"}, "small: has no split 'test' for --split; found: train, val"),
        ({"detections": apart, "split": "test"}, "apart: was trained with --train and --val.* with --ground-truth"),
        ({"detections": run.folder, "ground_truth": two}, "two: holds the splits train, test; choose one with --split"),
        (files | {"split": "val"}, r"detections\.json: is evaluated by one file of ground truth; leave out --split"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(Evaluate(**options))


def test_images_from_elsewhere(run, small, files, tmp_path, capfd) -> None:
    (tmp_path / "lists").mkdir()
    shutil.copy(small / "val.json", tmp_path / "lists")
    shutil.copytree(small / "images", tmp_path / "elsewhere/images")
    asked = {"detections": run.folder, "ground_truth": tmp_path / "lists/val.json"}
    with pytest.raises(ValueError, match=r"val0\.png"):
        evaluate(Evaluate(**asked))
    figures = evaluated(capfd, **asked, images=tmp_path / "elsewhere/images")["figures"]
    assert figures == evaluated(capfd, detections=run.folder)["figures"]
    # As in training, where the option is not given; but not for images that are beside their annotations.
    asked["detections"] = shutil.copytree(run.folder, tmp_path / "run")
    settings = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps(settings | {"images": str(tmp_path / "elsewhere/images")}))
    assert evaluated(capfd, **asked)["figures"] == figures
    shutil.rmtree(tmp_path / "elsewhere")
    assert evaluated(capfd, **asked | {"ground_truth": small / "val.json"})["figures"] == figures
    with pytest.raises(ValueError, match=r"detections\.json: is a file of detections, .* leave out --images"):
        evaluate(Evaluate(**files, images=small))


def test_a_copied_model_is_evaluated_on_ground_truth(run, small, tmp_path, capfd) -> None:
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run.folder / name, tmp_path)
    assert evaluated(capfd, detections=tmp_path, ground_truth=small / "val.json")["images"] == 5
    with pytest.raises(ValueError, match=r"not known \(config\.json is missing\); name the images .* --ground-truth"):
        evaluate(Evaluate(detections=tmp_path))


def test_a_run_of_other_classes_is_refused(run, small, tmp_path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(small, folder)
    content = json.loads((folder / "val.json").read_text())
    content["categories"][0]["name"] = "triangle"
    (folder / "val.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"val\.json: its categories differ .* 'square'.* 'triangle'"):
        evaluate(Evaluate(detections=run.folder, ground_truth=folder / "val.json"))


# ------------------------------------------------------------------ mistakes, command line


def test_a_run_that_was_stopped_early_is_no_folder_of_masks(tmp_path) -> None:
    (tmp_path / "learning_rate.png").touch()
    TrainDetector(data=tmp_path).save(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: no trained model here"):
        evaluate(Evaluate(detections=tmp_path, ground_truth=tmp_path / "gt.json"))


def test_mistakes_are_one_line(files, tmp_path, run) -> None:
    absent = tmp_path / "absent.json"
    for options, message in (
        (files | {"detections": absent}, r"absent\.json: cannot be read"),
        (files | {"compare": absent}, r"absent\.json: cannot be read"),
        ({"detections": files["detections"]}, r"--ground-truth is missing: .*detections\.json is a file of detections"),
        ({"detections": tmp_path}, "no trained model here"),
        ({"detections": run.folder, "iou_type": "segm"}, "finds boxes and no masks; leave out --iou-type segm"),
        ({"detections": run.folder, "iou_type": "boundary"}, "leave out --iou-type boundary to compare boxes"),
        (files | {"iou_type": "segm"}, r"no 'segmentation', which masks are compared by; use iou_type='bbox'"),
        (files | {"resamples": -1}, "--resamples must not be negative, it is -1"),
        (files | {"resamples": 0, "compare": absent}, "leave out --resamples 0"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            evaluate(Evaluate(**options))
        assert "\n" not in str(error.value)


def test_command_line() -> None:
    arguments = ["--ground-truth", "a.json", "--detections", "b.json", "--iou-type", "segm", "--json"]
    paths = {"ground_truth": Path("a.json"), "detections": Path("b.json")}
    assert tyro.cli(Evaluate, args=arguments) == Evaluate(**paths, iou_type="segm", json=True)
    assert tyro.cli(Evaluate, args=arguments[:4]) == Evaluate(**paths)
    more = ["--compare", "c.json", "--csv", "d.csv", "--resamples", "9", "--score-threshold", "0.5"]
    assert tyro.cli(Evaluate, args=arguments[2:4] + more) == Evaluate(
        detections=Path("b.json"), compare=Path("c.json"), csv=Path("d.csv"), resamples=9, score_threshold=0.5
    )
    with pytest.raises(ValueError, match="name what to evaluate"):
        evaluate(tyro.cli(Evaluate, args=arguments[:2]))


def test_the_whole_command(files, capsys) -> None:
    assert main(["evaluate", "--ground-truth", str(files["ground_truth"]), "--detections", "absent.json"]) == 1
    assert capsys.readouterr().err.startswith("error: absent.json: cannot be read")


def test_the_page_in_docs_runs(capsys) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    names: dict[str, object] = {}
    for language, code in blocks:
        if language == "python":
            exec(code, names)
        elif language == "json":
            json.loads(code)
    # The rose's box has IoU 2400 / 2548 = 0.94 and passes 9 of the 10 thresholds, the tulip's none.
    printed = capsys.readouterr().out.splitlines()
    expected = ["mAP 0.450, at IoU 0.50 0.500", "rose: AP 0.900, objects 1", "tulip: AP 0.000, objects 1"]
    assert printed[:3] == expected
    shell = "".join(code for language, code in blocks if language == "sh")
    for line in shell.splitlines():
        words = line.split(" > ")[0].split()
        assert words[:2] == ["detseg", "evaluate"]
        tyro.cli(Evaluate, args=words[2:])
