"""`detseg doctor`: everything that is wrong or doubtful, told, listed and drawn; nothing changed."""

import csv
import hashlib
import json
import re
import shutil

import cv2
import numpy as np
import pytest

import detseg
from detseg.boxes import box_iou
from detseg.cli import main
from detseg.data import read_dataset
from detseg.data.formats import read_annotations


def examine(source, output, *words):
    """Exit code, and the rows of the CSV file."""
    code = main(["doctor", str(source), "--output", str(output), *words])
    with (output / "doctor.csv").open(newline="", encoding="utf-8") as file:
        return code, list(csv.DictReader(file))


def kinds(rows):
    return [(row["level"], row["kind"]) for row in rows]


def content(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copied(small, tmp_path):
    """The small set, to be spoilt."""
    return shutil.copytree(small, tmp_path / "set")


def change(path, edit):
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_a_sound_set_gives_little_to_tell_and_stays_as_it_is(small, tmp_path, capsys):
    before = content(small)
    code, rows = examine(small, tmp_path / "out")
    assert code == 0
    assert set(kinds(rows)) <= {("doubt", "few-examples"), ("doubt", "empty")}
    assert content(small) == before
    output = capsys.readouterr().out
    assert "train: 8 images, 16 objects, 2 classes" in output
    assert "images without objects" in output
    assert f"all {len(rows)} findings" in output


def test_errors_are_told_beside_doubts_and_the_code_is_0(copied, tmp_path, capsys):
    def spoil(data):
        data["annotations"][0]["bbox"] = [500, 500, 10, 10]
        data["annotations"].append(data["annotations"][3] | {"id": 99, "category_id": 3})
        data["annotations"][-1]["category_id"] = 10 - data["annotations"][3]["category_id"]
        data["categories"].append({"id": 50, "name": "Square"})

    change(copied / "train.json", spoil)
    change(copied / "val.json", lambda data: data["categories"].append({"id": 50, "name": "Square"}))
    image = cv2.imread(str(copied / "images/train2.png"))
    cv2.imwrite(str(copied / "images/val1.png"), cv2.resize(image, (192, 144)))
    change(copied / "val.json", lambda data: data["images"][1].update(width=192, height=144))
    (copied / "images/val0.png").unlink()
    code, rows = examine(copied, tmp_path / "out")
    assert code == 0
    found = dict.fromkeys(kinds(rows))
    assert list(found)[:2] == [("error", "box-outside"), ("error", "missing-image")]
    assert {("doubt", "leak"), ("doubt", "similar-names"), ("doubt", "coinciding")} <= set(found)
    row = next(row for row in rows if row["kind"] == "coinciding")
    assert (row["split"], row["object"], row["class"]) == ("train", "99", row["what"].split(",")[0])
    assert row["image"].endswith("images/train1.png")
    assert float(row["score"]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "val1.png: the scene of train2.png of train" in output
    assert "'square' (" in output
    assert "times) and 'Square' (0 times)" in output


def test_the_page_needs_no_other_file_and_shows_what_is_meant(copied, tmp_path):
    change(copied / "val.json", lambda data: data["categories"][0].update(name="<b>x</b>"))
    change(copied / "train.json", lambda data: data["categories"][0].update(name="<b>x</b>"))
    shutil.copy(copied / "images/train2.png", copied / "images/val1.png")
    examine(copied, tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("data:image/jpeg;base64,", "#kind-")) for link in links)
    assert any(link.startswith("data:") for link in links)


@pytest.mark.parametrize("name", ["masked", "crops"])
def test_sets_of_masks_and_of_labels_are_examined(name, request, tmp_path, capsys):
    code, rows = examine(request.getfixturevalue(name), tmp_path / "out")
    assert code == 0
    assert all(level == "doubt" for level, _ in kinds(rows))
    assert "train: " in capsys.readouterr().out


def surest(detector, truth):
    """Objects, that which the detector is surest of first: how well it has learnt differs from machine to machine."""
    scores = np.zeros(len(truth.ids))
    for i, found in enumerate(detector.predict(truth.paths.tolist(), score_threshold=0)):
        rows = range(*truth.objects(i).indices(len(truth.ids)))
        fits = box_iou(truth.boxes[rows].astype(np.float32), found["boxes"]) > 0.5
        fits &= truth.labels[rows][:, None] == found["labels"]
        scores[rows] = (fits * found["scores"]).max(1, initial=0)
    return np.argsort(-scores)


@pytest.mark.slow
def test_a_run_finds_planted_label_errors(small, copied, run, tmp_path, capsys):
    truth = read_dataset(small)["train"]
    removed, renamed = surest(detseg.load(run.folder), truth)[:2]

    def spoil(data):
        data["annotations"] = [a for a in data["annotations"] if a["id"] != truth.ids[removed]]
        (other,) = (a for a in data["annotations"] if a["id"] == truth.ids[renamed])
        other["category_id"] = 10 - other["category_id"]

    change(copied / "train.json", spoil)
    code, rows = examine(copied, tmp_path / "out", "--run", str(run.folder), "--device", "cpu")
    assert code == 0
    missing = [row for row in rows if row["kind"] == "missing"]
    image = truth.paths[truth.image_index[removed]]
    assert image.rsplit("/", 1)[1] in {row["image"].rsplit("/", 1)[1] for row in missing}
    wrong = [row for row in rows if row["kind"] == "wrong-class"]
    assert str(truth.ids[renamed]) in {row["object"] for row in wrong[:2]}
    assert "trained on" not in capsys.readouterr().out  # these images are copies at another place


@pytest.mark.slow
def test_a_run_that_was_trained_on_the_images_is_told(small, run, tmp_path, capsys):
    examine(small, tmp_path / "out", "--run", str(run.folder))
    assert "was trained on 8 of these 13 images and has learnt their labels" in capsys.readouterr().out


def results_of(path, score=0.9):
    truth = json.loads(path.read_text())
    return [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": score} for a in truth["annotations"]]


def test_detections_of_a_file_are_compared(small, copied, tmp_path):
    results = results_of(small / "val.json")
    (tmp_path / "dt.json").write_text(json.dumps(results))
    change(copied / "val.json", lambda data: data["annotations"].pop(2))
    words = ("--detections", str(tmp_path / "dt.json"))
    _, rows = examine(copied / "val.json", tmp_path / "out", "--images", str(copied / "images"), *words)
    (row,) = [row for row in rows if row["kind"] in ("missing", "wrong-class", "badly-placed", "spurious")]
    image = {i["id"]: i["file_name"] for i in json.loads((copied / "val.json").read_text())["images"]}
    assert row["kind"] == "missing"
    assert row["image"].endswith(image[results[2]["image_id"]])


def test_detections_of_all_splits_are_compared_where_ids_differ(copied, tmp_path):
    def renumber(data):
        for image in data["images"]:
            image["id"] += 1000
        for entry in data["annotations"]:
            entry["image_id"] += 1000

    change(copied / "val.json", renumber)
    results = [r for split in ("val", "train") for r in results_of(copied / f"{split}.json")]
    (tmp_path / "dt.json").write_text(json.dumps(results))
    for split in ("train", "val"):  # the last object of each split, one that is no crowd
        change(copied / f"{split}.json", lambda data: data["annotations"].pop())
    _, rows = examine(copied, tmp_path / "out", "--detections", str(tmp_path / "dt.json"))
    assert [row["split"] for row in rows if row["kind"] == "missing"] == ["train", "val"]


def test_detections_of_folds_are_those_of_their_own_list_of_images(copied, tmp_path):
    """Images of two splits that count from 1 are numbered anew there; of some of them there may be no file any more."""
    whole = json.loads((copied / "train.json").read_text())
    val = json.loads((copied / "val.json").read_text())
    results = results_of(copied / "train.json")
    for image in val["images"]:
        whole["images"].append(image | {"id": image["id"] + 1000})
    results += [result | {"image_id": result["image_id"] + 1000} for result in results_of(copied / "val.json")]
    for image in whole["images"]:
        image["file_name"] = f"../set/images/{image['file_name'].rsplit('/', 1)[-1]}"
    folds = copied.parent / "folds"
    folds.mkdir()
    (folds / "annotations.json").write_text(json.dumps(whole | {"annotations": []}))
    (folds / "detections.json").write_text(json.dumps(results))
    assert {i["id"] for i in val["images"]} & {
        i["id"] for i in json.loads((copied / "train.json").read_text())["images"]
    }
    for split in ("train", "val"):
        change(copied / f"{split}.json", lambda data: data["annotations"].pop())
    next((copied / "images").glob("val0.*")).unlink()
    _, rows = examine(copied, tmp_path / "out", "--detections", str(folds / "detections.json"))
    assert [row["split"] for row in rows if row["kind"] == "missing"] == ["train", "val"]
    words = ("--images", str(copied / "images"), "--detections", str(folds / "detections.json"))
    _, rows = examine(copied / "val.json", tmp_path / "val", *words)
    assert [row["kind"] for row in rows if row["level"] == "doubt" and row["kind"] in ("missing", "wrong-class")] == [
        "missing"
    ]


def test_a_file_that_fits_several_splits_is_refused(small, tmp_path, capsys):
    first = results_of(small / "val.json")[:1]
    (tmp_path / "dt.json").write_text(json.dumps(first))
    assert main(["doctor", str(small), "--detections", str(tmp_path / "dt.json")]) == 1
    assert "the image ids are those of train and val" in capsys.readouterr().err


# Each format for itself is tested by its contract.
@pytest.mark.parametrize("format", ["coco", "labelstudio", "yolo"])
def test_doubtful_images_are_written_as_a_set_to_correct(copied, tmp_path, format, capsys):
    image = cv2.imread(str(copied / "images/train2.png"))
    cv2.imwrite(str(copied / "images/val1.png"), image)
    change(copied / "train.json", lambda data: data["annotations"][4].update(bbox=[500, 500, 10, 10]))
    before = content(copied)
    examine(copied, tmp_path / "out", "--review", format)
    assert content(copied) == before
    assert "repaired in this copy: left out 1 boxes outside their image" in capsys.readouterr().out
    splits = {split: read_annotations(tmp_path / "out/review", split) for split in ("train", "val")}
    assert [path.rsplit("/", 1)[1] for path in splits["train"].paths.tolist()] == ["train2.png"]
    assert {path.rsplit("/", 1)[1] for path in splits["val"].paths.tolist()} == {"val1.png", "val4.png"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--review", "word"], "--review: 'word' is none of coco, "),
        (["--run", "a", "--detections", "b"], "two sources of detections"),
        (["--detections", "nowhere.json"], "nowhere.json"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_options_that_cannot_be_are_refused(small, tmp_path, words, message, capsys):
    assert main(["doctor", str(small), "--output", str(tmp_path / "out"), *words]) == 1
    assert message in capsys.readouterr().err


def test_what_is_no_data_set_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / "empty")]) == 1
    assert "no annotations recognised" in capsys.readouterr().err


def test_review_does_not_write_over_an_earlier_one(small, tmp_path, capsys):
    assert examine(small, tmp_path / "out", "--review", "coco")[0] == 0
    assert main(["doctor", str(small), "--output", str(tmp_path / "out"), "--review", "coco"]) == 1
    assert "review: is there already" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_that_are_no_detectors_and_sets_without_boxes_are_refused(small, masked, run, segmenter, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    assert main(["doctor", str(small), "--run", str(segmenter.folder), *output]) == 1
    assert "holds no detector" in capsys.readouterr().err
    assert main(["doctor", str(masked), "--run", str(run.folder), *output]) == 1
    assert "compared with boxes" in capsys.readouterr().err
    assert main(["doctor", str(masked), "--review", "coco", *output]) == 1
    assert "--review is for sets of boxes" in capsys.readouterr().err
