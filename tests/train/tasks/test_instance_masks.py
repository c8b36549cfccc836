"""A detector that finds masks: trained, validated by boxes and masks, evaluated by each kind of IoU."""

import csv
import io
import json
import shutil

import pytest
from rich.console import Console

from detseg.cli.evaluate import Evaluate
from detseg.cli.evaluate import run as evaluate
from detseg.registry import MODELS
from detseg.report.pages.detector import DetectorPage
from detseg.train.config import config_for
from detseg.train.runner import train
from tests.mask_set import define_mask_detector, rewrite, write_mask_set
from tests.report.reading import printed, rows_of
from tests.train.runs import untimed


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
def trained(mask_data, tmp_path_factory):
    """A run, and what was printed meanwhile."""
    text = io.StringIO()
    with untimed():
        run = train(config(mask_data, tmp_path_factory.mktemp("run") / "run"), Console(file=text, width=100))
    return run, text.getvalue()


def config(data, output):
    sizes = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1}
    return config_for("detector", "colours")(data=data, output=output, **sizes)


def row_of(run):
    """What the last validation logged."""
    with (run.folder / "metrics.csv").open() as file:
        return {name: float(value) for name, value in list(csv.DictReader(file))[-1].items() if value}


def evaluated(capfd, **options):
    """What JSON tells; on the other stream a hint, where boxes are compared and there are masks."""
    assert evaluate(Evaluate(json=True, resamples=20, **options)) == 0
    told = capfd.readouterr()
    assert ("--iou-type segm compares the masks" in told.err) == (options.get("iou_type", "bbox") == "bbox")
    return json.loads(told.out)


def test_validation_measures_boxes_and_masks(trained):
    run, told = trained
    row = row_of(run)
    assert "1 of 8 objects have no mask; masks found there are neither right nor wrong" in told
    assert f"mask mAP@[.5:.95] {row['mask_map']:.3f}  mAP@[.5:.95] {row['map']:.3f}" in told
    assert 0.5 < row["mask_map"] < 1 and row["mask_map"] != row["map"]
    assert {"mask_map50", "mask_AP75", "mask_AP_small", "mask_AR100"} <= set(row)
    # The first decides which model is the best; both are kept with it.
    training = json.loads((run.folder / "model.json").read_text())["training"]
    assert run.goal == "mask_map" and {n: training[n] for n in ("mask_map", "map")} == {
        n: row[n] for n in ("mask_map", "map")
    }


def test_the_table_has_both_and_the_worst_images_their_masks(trained):
    run, _ = trained
    page, row = DetectorPage(run), row_of(run)
    text = printed(page.table())
    cells = rows_of(text)["mAP@[.5:.95]"]
    assert cells[0] == f"{row['map']:.3f}" and cells[3] == f"{row['mask_map']:.3f}" and all(cells[1:3] + cells[4:])
    assert "objects: 8" in text and "objects with a mask: 7" in text and "mask AP" in text
    # Discs are red; painted over with the colour of what was found, hardly a pixel still is.
    sheet = page.draw_worst().astype(int)
    assert (sheet[..., 0] - sheet[..., 2] > 150).mean() < 0.005


def test_evaluate_by_masks_and_boundaries(trained, mask_data, capfd, tmp_path):
    run, _ = trained
    by = {kind: evaluated(capfd, detections=run.folder, iou_type=kind) for kind in ("bbox", "segm", "boundary")}
    assert all(content["iou_type"] == kind for kind, content in by.items())
    ap = {kind: content["figures"]["AP"] for kind, content in by.items()}
    assert 0 < ap["boundary"] < ap["segm"] < 1 and ap["segm"] != ap["bbox"]
    assert ap["segm"] == pytest.approx(row_of(run)["mask_map"], abs=1e-9)
    assert by["segm"]["intervals"]["figures"]["AP"]["low"] is not None
    assert (by["bbox"]["objects"], by["segm"]["objects"]) == (8, 7)

    table = tmp_path / "figures.csv"
    options = {"ground_truth": mask_data / "train.json", "iou_type": "segm", "compare": run.folder, "csv": table}
    content = evaluated(capfd, detections=run.folder, **options)
    assert content["comparison"]["figures"]["AP"]["difference"] == 0 and content["images"] == 4
    assert float(next(csv.DictReader(table.open()))["AP"]) == content["figures"]["AP"]


def test_a_file_of_polygons_against_a_run(trained, mask_data, capfd, tmp_path):
    found = json.loads((mask_data / "train.json").read_text())["annotations"]
    results = [{n: a[n] for n in ("image_id", "category_id", "segmentation")} | {"score": 0.5} for a in found]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    options = {"ground_truth": mask_data / "train.json", "iou_type": "segm", "compare": trained[0].folder}
    content = evaluated(capfd, detections=path, **options)
    assert content["figures"]["AP"] == pytest.approx(1) and content["comparison"]["figures"]["AP"]["difference"] < 0


def test_validation_images_without_masks_stop_before_training(mask_data, tmp_path):
    boxes = shutil.copytree(mask_data, tmp_path / "boxes")
    rewrite(boxes / "val.json", lambda i, annotation: annotation.pop("segmentation", None))
    with pytest.raises(ValueError, match=r"val\.json: has boxes but no masks"):
        train(config(boxes, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
