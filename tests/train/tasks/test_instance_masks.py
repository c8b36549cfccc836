"""A detector that finds masks: trained, validated by boxes and masks, reported on, evaluated by each kind of IoU."""

import contextlib
import csv
import io
import json
import shutil

import cv2
import pytest

from detseg.cli import main
from detseg.cli.evaluate import Evaluate
from detseg.cli.evaluate import run as evaluate
from detseg.registry import MODELS
from tests.mask_set import define_mask_detector, rewrite, write_mask_set
from tests.report.reading import Page

WORDS = ["--backbone", "test_efficientnet", "--weights", "none", "--size", "64", "--epochs", "1", "--precision", "fp32"]


@pytest.fixture(scope="module", autouse=True)
def only_here():
    known = dict(MODELS._entries)
    define_mask_detector()
    yield
    MODELS._entries = known


@pytest.fixture(scope="module")
def mask_data(tmp_path_factory):
    """A set in which one of eight objects to validate on has no mask."""
    folder = write_mask_set(tmp_path_factory.mktemp("masks") / "data")
    rewrite(folder / "val.json", lambda i, annotation: annotation.pop("segmentation") if i == 3 else None)
    return folder


@pytest.fixture(scope="module")
def printed_and_run(mask_data, tmp_path_factory):
    """What training printed, and the folder of the run."""
    folder, printed = tmp_path_factory.mktemp("run") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "80")
        assert train(mask_data, folder) == 0
    return printed.getvalue(), folder


@pytest.fixture
def trained(printed_and_run):
    return printed_and_run[1]


def train(data, folder):
    return main(["train", "detector", "--model", "colours", "--data", str(data), "--output", str(folder), *WORDS])


def evaluated(capfd, **options):
    assert evaluate(Evaluate(json=True, resamples=20, **options)) == 0
    return json.loads(capfd.readouterr().out)


def test_validation_measures_boxes_and_masks(printed_and_run):
    told, run = printed_and_run
    assert "1 of 8 objects have no mask; masks found there are neither right nor wrong" in told
    assert "objects with a mask: 7" in told
    with (run / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    assert 0.5 < float(row["mask_map"]) < 1 and float(row["mask_map"]) != float(row["map"])
    assert {"mask_map50", "mask_AP75", "mask_AP_small", "mask_AR100"} <= set(row)
    assert f"mask mAP@[.5:.95] {float(row['mask_map']):.3f}  mAP@[.5:.95] {float(row['map']):.3f}" in told
    assert "Average precision and recall of boxes and masks" in told and "mask AP" in told
    # The first decides which model is the best; both are kept with it.
    training = json.loads((run / "model.json").read_text())["training"]
    assert {name: training[name] for name in ("mask_map", "map")} == {n: float(row[n]) for n in ("mask_map", "map")}


def test_the_page_shows_masks(trained):
    page = Page((trained / "report.html").read_text(encoding="utf-8"))
    with (trained / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    mask_ap, box_ap = (f"{float(row[name]):.3f}" for name in ("mask_map", "map"))
    cards = [text for text in page.text if text.startswith(("mask m", "box m"))]
    assert cards[:2] == ["mask mAP@[.5:.95]", "box mAP@[.5:.95]"]
    rows = {cells[0]: cells[1:] for cells in page.rows if cells}
    figures = rows["mAP@[.5:.95] mean AP of the classes over IoU .50 to .95"]
    assert figures[0] == box_ap and figures[2] == mask_ap and " to " in figures[3]
    assert rows["Class"][:6] == ["Mask AP", "From", "To", "Mask AP50", "Box AP", "Box AP50"]
    assert (trained / "mask_precision_recall.png").is_file()
    # Discs are red and leaves green; painted over with the colour of what was found, they are neither.
    worst = cv2.imread(str(trained / "worst.jpg"))[..., ::-1].astype(int)
    assert ((worst[..., 0] - worst[..., 2] > 150).mean()) < 0.005


def test_evaluate_by_masks_and_boundaries(trained, mask_data, capfd, tmp_path):
    by = {kind: evaluated(capfd, detections=trained, iou_type=kind) for kind in ("bbox", "segm", "boundary")}
    assert all(content["iou_type"] == kind for kind, content in by.items())
    ap = {kind: content["figures"]["AP"] for kind, content in by.items()}
    assert 0 < ap["boundary"] < ap["segm"] < 1 and ap["segm"] != ap["bbox"]
    training = json.loads((trained / "model.json").read_text())["training"]
    assert ap["segm"] == pytest.approx(training["mask_map"], abs=1e-9)
    assert by["segm"]["intervals"]["figures"]["AP"]["low"] is not None
    assert (by["bbox"]["objects"], by["segm"]["objects"]) == (8, 7)

    table = tmp_path / "figures.csv"
    options = {"ground_truth": mask_data / "train.json", "iou_type": "segm", "compare": trained, "csv": table}
    content = evaluated(capfd, detections=trained, **options)
    assert content["comparison"]["figures"]["AP"]["difference"] == 0 and content["images"] == 4
    assert float(next(csv.DictReader(table.open()))["AP"]) == content["figures"]["AP"]


def test_files_of_polygons_and_run_lengths_against_a_run(trained, mask_data, capfd, tmp_path):
    found = json.loads((mask_data / "train.json").read_text())["annotations"]
    results = [{n: a[n] for n in ("image_id", "category_id", "segmentation")} | {"score": 0.5} for a in found]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    options = {"ground_truth": mask_data / "train.json", "iou_type": "segm", "compare": trained}
    content = evaluated(capfd, detections=path, **options)
    assert content["figures"]["AP"] == pytest.approx(1) and content["comparison"]["figures"]["AP"]["difference"] < 0


def test_validation_images_without_masks_stop_before_training(mask_data, tmp_path, capsys):
    boxes = shutil.copytree(mask_data, tmp_path / "boxes")
    rewrite(boxes / "val.json", lambda i, annotation: annotation.pop("segmentation", None))
    assert train(boxes, tmp_path / "run") == 1
    assert "val.json: has boxes but no masks to evaluate masks by; give a file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
