"""`detseg predict` and `detseg evaluate` on the run of a classifier, and `evaluate` on that of a localizer."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from detseg.cli import main
from detseg.data.formats import read_labelled_dataset
from detseg.data.pack.datasets import write_pack
from detseg.metrics.bootstrap.classification import compare_classification
from tests.cli.conftest import QUICK


@pytest.fixture(scope="module")
def world(small, crops, classifier, localizer, tmp_path_factory):
    """A folder with boxes/, crops/ and three runs: a good classifier, one that is always wrong, a localizer."""
    folder = tmp_path_factory.mktemp("classes")
    (folder / "boxes").symlink_to(small)
    (folder / "crops").symlink_to(crops)
    for name, run in (("good", classifier), ("bad", classifier), ("localizer", localizer)):
        shutil.copytree(run.folder, folder / name)
    weights = load_file(folder / "bad/model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] *= -1
    save_file(weights, folder / "bad/model.safetensors")
    return folder


def test_predict_prints_and_writes_the_likeliest_classes(world, tmp_path, capsys):
    images = world / "crops/val/square"
    assert main(["predict", str(world / "good"), str(images), "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    paths = sorted(map(str, images.iterdir()))
    assert all(line.startswith(f"{path}: square ") for line, path in zip(lines, paths, strict=False))
    assert lines[-1] == f"the likeliest classes of each are in {tmp_path}/classes.csv"
    with (tmp_path / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [path for path in paths for _ in range(2)]
    assert [row["class"] for row in rows if row["rank"] == "1"] == ["square"] * len(paths)
    assert sum(float(row["score"]) for row in rows) == pytest.approx(len(paths), abs=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["classes.csv"]
    assert main(["predict", str(world / "good"), str(images), "--output", str(tmp_path / "ten"), "--ten-crop"]) == 0
    assert (tmp_path / "ten/classes.csv").read_text() != (tmp_path / "classes.csv").read_text()


def test_the_classes_of_all_but_a_broken_image_are_written(world, tmp_path, capsys):
    for i, kind in enumerate(("square", "bar", "square")):
        shutil.copy(next((world / "crops/val" / kind).iterdir()), tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    images = [str(tmp_path / f"{i}.png") for i in range(3)]
    assert main(["predict", str(world / "good"), *images, "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert f"1 of 3 images cannot be read and were left out; {images[1]}: " in printed.err
    assert [line.split(":")[0] for line in printed.out.splitlines() if line.endswith("; left out")] == images[1:2]
    with (tmp_path / "classes.csv").open() as file:
        best = [(row["image"], row["class"]) for row in csv.DictReader(file) if row["rank"] == "1"]
    assert best == [(images[0], "square"), (images[2], "square")]


def test_options_of_other_models_are_refused(world, capsys):
    image = str(next((world / "crops/val/square").iterdir()))
    assert main(["predict", str(world / "good"), image, "--flip"]) == 1
    assert "good: holds a classifier, for which there is no --flip" in capsys.readouterr().err
    assert main(["predict", str(world / "localizer"), image, "--ten-crop"]) == 1
    assert "holds a detector, for which there is no --ten-crop" in capsys.readouterr().err
    assert main(["evaluate", "--predictions", str(world / "good"), "--iou-type", "segm"]) == 1
    assert "classes are evaluated, for which there is no --iou-type" in capsys.readouterr().err
    assert main(["evaluate", "--predictions", str(world / "localizer"), "--ten-crop"]) == 1
    assert "detections are evaluated, for which there is no --ten-crop" in capsys.readouterr().err
    assert main(["evaluate", "--predictions", str(world / "good"), "--compare", str(world / "localizer")]) == 1
    assert "cannot be compared with each other" in capsys.readouterr().err


def evaluated(capsys, *arguments):
    assert main(["evaluate", "--predictions", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_gives_what_training_gave(world, capsys):
    found = evaluated(capsys, world / "good")
    assert found["top1"] == json.loads((world / "good/model.json").read_text())["training"]["top1"]
    assert (found["images"], len(found["per_class"])) == (8, 2)
    ten = evaluated(capsys, world / "good", "--ten-crop")
    assert ten["log_loss"] != found["log_loss"]
    assert evaluated(capsys, world / "good", "--resamples", 0)["intervals"] == {}


def test_other_images_and_tables(world, tmp_path, capsys):
    found = evaluated(capsys, world / "good", "--ground-truth", world / "crops/train")
    assert found["images"] == 19
    shutil.copytree(world / "crops/val/bar", tmp_path / "only" / "bar")
    (tmp_path / "only" / "square").mkdir()
    shutil.copy(next((world / "crops/val/square").iterdir()), tmp_path / "only" / "square" / "one.jpg")
    table = tmp_path / "table.csv"
    words = ["--ground-truth", str(tmp_path / "only"), "--csv", str(table)]
    assert main(["evaluate", "--predictions", str(world / "good"), *words]) == 0
    assert "Classification" in capsys.readouterr().out
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["images"]) for row in rows] == [("", "5"), ("bar", "4"), ("square", "1")]


def test_of_a_data_set_the_validation_split_is_evaluated_or_the_one_asked_for(world, tmp_path, capsys):
    own = evaluated(capsys, world / "good")
    write_pack(tmp_path / "all.h5", read_labelled_dataset(world / "crops"), 96)
    for truth in (world / "crops", tmp_path / "all.h5"):
        assert evaluated(capsys, world / "good", "--ground-truth", truth)["top1"] == own["top1"]
        train = evaluated(capsys, world / "good", "--ground-truth", truth, "--split", "train")
        assert (own["images"], train["images"]) == (8, 19)
    assert evaluated(capsys, world / "good", "--split", "train")["images"] == 19
    assert main(["evaluate", "--predictions", str(world / "good"), "--split", "test"]) == 1
    assert "crops: has no split 'test' for --split; found: train, val" in capsys.readouterr().err


@pytest.mark.slow
def test_the_test_share_of_a_split_set_is_printed_and_evaluated(world, tmp_path, capsys):
    data, folder = world / "crops/train", tmp_path / "run"
    division = ["--split", "0.6", "0.2", "0.2", "--split-seed", "3"]
    words = ["--data", str(data), "--output", str(folder), *QUICK, "--epochs", "1", *division]
    assert main(["train", "classifier", *words]) == 0
    test = read_labelled_dataset(data, split=(0.6, 0.2, 0.2), seed=3)["test"]
    line = capsys.readouterr().out.splitlines()[0]
    assert line.endswith(f", validating on 4; {len(test)} are left for detseg evaluate --split test")
    for path in map(Path, test.paths):
        (tmp_path / "test" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "test" / path.parent.name)
    found = evaluated(capsys, folder, "--split", "test")
    assert found == evaluated(capsys, folder, "--ground-truth", tmp_path / "test")
    assert found["images"] == len(test) == 4


@pytest.mark.slow
def test_copied_models_are_evaluated_on_ground_truth(world, tmp_path, capsys):
    for kind, truth in (("good", "crops"), ("localizer", "boxes")):
        (tmp_path / kind).mkdir()
        for name in ("model.json", "model.safetensors"):
            shutil.copy(world / kind / name, tmp_path / kind)
        found = evaluated(capsys, tmp_path / kind, "--ground-truth", world / truth)
        assert found == evaluated(capsys, world / kind, "--ground-truth", world / truth)
        assert main(["evaluate", "--predictions", str(tmp_path / kind)]) == 1
        assert "(config.json is missing); name the images to evaluate on with --ground-truth" in capsys.readouterr().err


def test_a_table_with_images_from_elsewhere(world, tmp_path, capsys):
    rows = [f"{path.parent.name}/{path.name},{path.parent.name}" for path in (world / "crops/val").glob("*/*.jpg")]
    (tmp_path / "birds.csv").write_text("\n".join(["id,species", *rows]))
    words = [world / "good", "--ground-truth", tmp_path / "birds.csv"]
    found = evaluated(capsys, *words, "--images", world / "crops/val")
    assert found["images"] == len(rows)
    run = shutil.copytree(world / "good", tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"images": str(world / "crops/val")}))
    assert evaluated(capsys, run, *words[1:]) == found


@pytest.mark.slow
def test_two_classifiers_compared(world, capsys):
    comparison = evaluated(capsys, world / "bad", "--compare", world / "good")["comparison"]
    top1 = comparison["figures"]["top1"]
    a, b = (evaluated(capsys, world / name)["top1"] for name in ("bad", "good"))
    assert (top1["a"], top1["b"]) == (a, b)
    assert top1["difference"] == pytest.approx(b - a)
    assert b > a
    assert top1["b_better"] > 0.9
    same = evaluated(capsys, world / "good", "--compare", world / "good")["comparison"]["figures"]["top1"]
    assert (same["difference"], same["low"]) == (0, None)
    assert main(["evaluate", "--predictions", str(world / "bad"), "--compare", str(world / "good")]) == 0
    assert "Compared with the other images" in capsys.readouterr().out.replace("\n", " ")


def test_the_comparison_by_hand(world):
    labelled = read_labelled_dataset(world / "crops")["val"]
    sure = np.eye(2, dtype=np.float32)[labelled.labels]
    wrong = sure[:, ::-1].copy()
    half = np.where(np.arange(8)[:, None] % 2 == 0, sure, wrong)
    found = compare_classification(labelled.labels, half, sure, resamples=500)
    assert (found.figures["top1"].a, found.figures["top1"].b) == (0.5, 1.0)
    # The share of the four wrong ones among eight draws: binomial with a deviation of 0.177.
    limits = found.figures["top1"]
    assert 0.5 - 2.6 * 0.177 < limits.low < 0.3
    assert 0.7 < limits.high < 0.5 + 2.6 * 0.177
    assert [row.b for row in found.per_class] == [1, 1]


def test_runs_on_other_images_are_not_compared(world, tmp_path, capsys):
    shutil.copytree(world / "good", tmp_path / "moved")
    settings = json.loads((tmp_path / "moved/config.json").read_text())
    settings |= {"data": None, "train": str(world / "crops/train"), "val": str(tmp_path / "val")}
    (tmp_path / "moved/config.json").write_text(json.dumps(settings))
    shutil.copytree(world / "crops/val", tmp_path / "val")
    words = ["evaluate", "--predictions", str(world / "good"), "--compare", str(tmp_path / "moved")]
    assert main(words) == 1
    assert "was validated on other images or classes" in capsys.readouterr().err


def test_a_localizer_is_evaluated_by_the_images_and_figures_of_its_training(world, tmp_path, capsys):
    """Only images with an object, by mean IoU and accuracy, and by AP."""
    found = evaluated(capsys, world / "localizer")
    trained = json.loads((world / "localizer/model.json").read_text())["training"]
    assert (found["images"], found["detections"], found["localization"]["images"]) == (4, 4, 4)
    for name in ("mean_iou", "accuracy"):
        assert found["localization"][name] == pytest.approx(trained[name], abs=1e-6)
    limits = found["localization"]["intervals"]["mean_iou"]
    assert limits["low"] < found["localization"]["mean_iou"] < limits["high"]
    assert evaluated(capsys, world / "localizer", "--resamples", "0")["localization"]["intervals"] == {}
    table = tmp_path / "table.csv"
    words = ["--ground-truth", str(world / "boxes"), "--csv", str(table)]
    assert main(["evaluate", "--detections", str(world / "localizer"), *words]) == 0
    printed = capsys.readouterr()
    assert "1 images without an object are left out" in printed.err.replace("\n", " ")
    text = " ".join(printed.out.split())
    assert text.index("images with an object: 4") < text.index("Average precision and recall")
    with table.open() as file:
        everything, *classes = csv.DictReader(file)
    assert float(everything["mean_iou"]) == found["localization"]["mean_iou"]
    assert float(everything["mean_iou_low"]) == limits["low"]
    assert [row["accuracy"] for row in classes] == [str(v["accuracy"]) for v in found["localization"]["per_class"]]


@pytest.mark.slow
def test_a_localizer_of_single_objects_is_evaluated_on_these(world, tmp_path, capsys):
    folder = shutil.copytree(world / "boxes", tmp_path / "single")
    for split, images in (("train", 4), ("val", 2)):
        content = json.loads((folder / f"{split}.json").read_text())
        bare = {image["id"] for image in content["images"][:images]}
        content["annotations"] = [
            a for a in content["annotations"] if a["category_id"] == 7 or a["image_id"] not in bare
        ]
        (folder / f"{split}.json").write_text(json.dumps(content))
    words = ["--data", str(folder), "--output", str(tmp_path / "run"), "--epochs", "1", "--objects", "single"]
    assert main(["train", "localizer", *words, *QUICK]) == 0
    assert "validating on 2 images with 2 objects" in capsys.readouterr().out
    found = evaluated(capsys, tmp_path / "run")
    assert (found["images"], found["objects"], found["localization"]["images"]) == (2, 2, 2)


def test_a_localizer_beside_other_detections_is_evaluated_like_any_detector(world, tmp_path, capsys):
    (tmp_path / "nothing.json").write_text("[]")
    truth = ["--ground-truth", world / "boxes/val.json"]
    found = evaluated(capsys, world / "localizer", "--compare", tmp_path / "nothing.json", *truth)
    assert (found["images"], found["detections"]) == (5, 5)
    assert "localization" not in found
