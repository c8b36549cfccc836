"""`detseg evaluate` of masks: runs and folders of files, tables, JSON, CSV, comparisons, messages."""

import csv
import json
import shutil

import numpy as np
import pytest

from detseg.cli import main
from detseg.cli.evaluate import Evaluate
from detseg.cli.evaluate import run as evaluate
from detseg.cli.predictions import mask_values
from detseg.data import write_index_png
from detseg.data.formats import read_masks
from detseg.data.index_png import read_index_image
from detseg.metrics import evaluate_segmentation
from detseg.metrics.bootstrap.segmentation import bootstrap_segmentation
from tests.data.annotation_samples import write_json, write_picture
from tests.small_masks import VALUES


@pytest.fixture(scope="module")
def files(masked, tmp_path_factory):
    """Masks that are all right but for one image, which is all background."""
    folder = tmp_path_factory.mktemp("files")
    for path in (masked / "masks").glob("val*.png"):
        values = read_index_image(path).copy()
        values[values == 255] = 4
        write_index_png(folder / path.name, values * 0 if path.stem == "val2" else values)
    return folder


@pytest.fixture
def small_polygons(tmp_path):
    """COCO polygons, masks of the same, and the folder of their image, which lies elsewhere."""
    write_picture(tmp_path / "elsewhere/a.png", 16, 8)
    polygon = {"bbox": [4, 1, 3, 5], "segmentation": [[4, 1, 7, 1, 7, 6, 4, 6]]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0} | polygon],
        "categories": [{"id": 1, "name": "rose"}],
    }
    write_json(tmp_path / "truth/val.json", content)
    truth = read_masks(tmp_path / "truth/val.json", images=tmp_path / "elsewhere")
    write_index_png(tmp_path / "seen/a.png", mask_values([c.id for c in truth.categories])[truth.mask(0)])
    return tmp_path / "truth/val.json", tmp_path / "seen", tmp_path / "elsewhere"


def evaluated(capfd, **options) -> dict:
    assert evaluate(Evaluate(json=True, **{"resamples": 20} | options)) == 0
    return json.loads(capfd.readouterr().out)


def test_a_segmenter_is_evaluated_on_its_own_validation_set(segmenter, masked, capfd):
    content = evaluated(capfd, detections=segmenter.folder)
    trained = json.loads((segmenter.folder / "model.json").read_text())["training"]
    assert content["figures"]["miou"] == pytest.approx(trained["miou"], abs=1e-6), "as training reported"
    assert content["images"] == 5
    assert content["intervals"]["figures"]["miou"]["low"] <= content["figures"]["miou"]
    for path in (masked, masked / "val.txt"):
        assert evaluated(capfd, detections=segmenter.folder, ground_truth=path)["figures"] == content["figures"]
    assert evaluated(capfd, detections=segmenter.folder, ground_truth=masked / "train.txt")["images"] == 8


def test_a_copied_segmenter_is_evaluated_on_ground_truth(segmenter, masked, tmp_path, capfd):
    for name in ("model.json", "model.safetensors"):
        shutil.copy(segmenter.folder / name, tmp_path)
    expected = evaluated(capfd, detections=segmenter.folder)["figures"]
    assert evaluated(capfd, detections=tmp_path, ground_truth=masked)["figures"] == expected
    with pytest.raises(
        ValueError, match=r"config\.json is missing\); name the images to evaluate on with --ground-truth"
    ):
        evaluate(Evaluate(detections=tmp_path))


def test_polygons_whose_images_are_elsewhere(small_polygons, tmp_path, capfd):
    truth, masks, images = small_polygons
    with pytest.raises(ValueError, match="does not exist"):
        evaluate(Evaluate(detections=masks, ground_truth=truth))
    assert evaluated(capfd, detections=masks, ground_truth=truth, images=images)["figures"]["miou"] == 1


def test_another_split_of_masks(segmenter, files, masked, tmp_path, capfd):
    own = evaluated(capfd, detections=segmenter.folder, split="train")
    assert own["images"] == 8
    given = evaluated(capfd, detections=segmenter.folder, ground_truth=masked, split="train")
    assert given["figures"] == own["figures"]
    assert evaluated(capfd, detections=files, ground_truth=masked, split="val")["images"] == 5
    with pytest.raises(ValueError, match="masked: has no split 'test' for --split; found: train, val"):
        evaluate(Evaluate(detections=segmenter.folder, split="test"))


def test_other_ways_of_looking_give_other_figures(segmenter, capfd):
    plain = evaluated(capfd, detections=segmenter.folder)["confusion"]
    for options in ({"flip": True}, {"scales": (0.75, 1.25)}, {"long_side": 128}):
        assert evaluated(capfd, detections=segmenter.folder, **options)["confusion"] != plain


def test_what_predict_writes_is_what_evaluate_reads(segmenter, masked, tmp_path, capfd):
    images = [str(masked / f"images/val{i}.png") for i in range(5)]
    assert main(["predict", str(segmenter.folder), *images, "--flip", "--output", str(tmp_path)]) == 0
    capfd.readouterr()
    of_files = evaluated(capfd, detections=tmp_path, ground_truth=masked / "val.txt")
    of_run = evaluated(capfd, detections=segmenter.folder, flip=True)
    assert of_files == of_run


def test_a_folder_of_files(files, masked, capfd):
    content = evaluated(capfd, detections=files, ground_truth=masked, resamples=100)
    truth = read_masks(masked, "val")
    found = [np.where(truth.mask(i) == 255, 1, truth.mask(i)) * (i != 2) for i in range(5)]
    expected = evaluate_segmentation([truth.mask(i) for i in range(5)], found, truth.names)
    assert content["figures"] == pytest.approx(expected.to_dict()["figures"])
    assert content["confusion"] == expected.confusion.tolist()
    limits = bootstrap_segmentation(expected, resamples=100).figures["miou"]
    assert content["intervals"]["figures"]["miou"]["low"] == pytest.approx(limits.low)


def test_a_comparison_of_masks(files, segmenter, masked, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert evaluate(Evaluate(detections=segmenter.folder, compare=files, resamples=50)) == 0
    text = capfd.readouterr().out
    assert "Compared with the other masks" in text
    assert "IoU of disc" in text
    content = evaluated(capfd, detections=files, compare=segmenter.folder, ground_truth=masked)
    row = content["comparison"]["figures"]["miou"]
    assert row["a"] == content["figures"]["miou"]
    assert row["difference"] == pytest.approx(row["b"] - row["a"])


def test_a_run_with_its_classes_in_another_order(segmenter, masked, tmp_path, capfd):
    """Labels of the model are not those of the set: classes are matched by value and name."""
    plain = evaluated(capfd, detections=segmenter.folder)
    data = tmp_path / "data"
    shutil.copytree(masked, data)
    lines = (data / "classes.txt").read_text().splitlines()
    (data / "classes.txt").write_text("\n".join([lines[0], lines[2], lines[1]]))
    content = evaluated(capfd, detections=segmenter.folder, ground_truth=data)
    assert [row["name"] for row in content["per_class"]] == ["background", "disc", "box"]
    assert content["figures"]["miou"] == pytest.approx(plain["figures"]["miou"])


def test_files_of_a_run_with_its_categories_in_another_order(tmp_path, capfd):
    """A category of id 0 leaves -1 to the background, which no mask file can hold."""
    size = {"width": 16, "height": 8}
    write_picture(tmp_path / "images/a.png", 16, 8)
    categories = [{"id": k, "name": name} for k, name in ((0, "rose"), (1, "daisy"), (2, "aster"))]
    objects = [
        {"id": k + 1, "image_id": 1, "category_id": k, "bbox": [x, 1, 3, 5], "iscrowd": 0}
        | {"segmentation": [[x, 1, x + 3, 1, x + 3, 6, x, 6]]}
        for k, x in enumerate((0, 4, 8))
    ]
    for name, order in (("train", categories), ("test", categories[::-1])):
        content = {"images": [{"id": 1, "file_name": "a.png", **size}], "annotations": objects, "categories": order}
        write_json(tmp_path / f"{name}.json", content)
    learnt = read_masks(tmp_path / "train.json")
    values = mask_values([category.id for category in learnt.categories])
    write_index_png(tmp_path / "seen/a.png", values[learnt.mask(0)])
    for name in ("train", "test"):
        content = evaluated(capfd, detections=tmp_path / "seen", ground_truth=tmp_path / f"{name}.json")
        assert content["figures"]["miou"] == 1


def test_masks_of_0_and_255_make_the_round_trip(tmp_path, capfd):
    mask = np.zeros((8, 16), np.uint8)
    mask[2:5, 3:9] = 255
    write_picture(tmp_path / "images/a.png", 16, 8)
    write_index_png(tmp_path / "masks/a.png", mask)
    truth = read_masks(tmp_path)
    assert truth.names == ("background", "foreground")
    write_index_png(tmp_path / "seen/a.png", mask_values([c.id for c in truth.categories])[truth.mask(0)])
    for folder in (tmp_path / "masks", tmp_path / "seen"):
        assert evaluated(capfd, detections=folder, ground_truth=tmp_path)["figures"]["miou"] == 1


def test_masks_with_soft_edges_and_a_threshold(tmp_path, capfd):
    mask = np.zeros((8, 16), np.uint8)
    mask[2:5, 3:9], mask[3, 4:8] = 140, 255
    write_picture(tmp_path / "images/a.png", 16, 8)
    write_index_png(tmp_path / "masks/a.png", mask)
    write_index_png(tmp_path / "seen/a.png", (mask >= 128).astype(np.uint8))
    options = {"detections": tmp_path / "seen", "ground_truth": tmp_path}
    assert evaluated(capfd, threshold=128, **options)["figures"]["miou"] == 1
    assert evaluated(capfd, threshold=200, **options)["figures"]["miou"] < 1
    with pytest.raises(
        ValueError, match="nothing to evaluate a model on in the masks of 1 images: every pixel is 'back"
    ):
        write_index_png(tmp_path / "masks/a.png", mask * 0)
        evaluated(capfd, **options)


def test_tables_of_masks(files, masked, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for resamples in (20, 0):
        assert evaluate(Evaluate(detections=files, ground_truth=masked, resamples=resamples)) == 0
        text = capsys.readouterr().out
        assert "boundary IoU" in text
        assert "disc" in text
        assert ("95 % bootstrap" in text) == (resamples > 0)


def test_csv_of_masks(files, masked, tmp_path, capsys):
    path = tmp_path / "table.csv"
    assert evaluate(Evaluate(detections=files, ground_truth=masked, csv=path, resamples=20)) == 0
    with path.open(newline="", encoding="utf-8") as file:
        overall, background, box, _ = csv.DictReader(file)
    assert (overall["class"], background["class"], box["category_id"]) == ("", "background", str(VALUES[1]))
    assert float(overall["miou_low"]) <= float(overall["miou"])
    assert float(box["iou_low"]) <= float(box["iou"]) <= float(box["iou_high"])
    assert (overall["iou"], box["miou"], overall["images"]) == ("", "", "5")


def test_the_option_is_called_predictions_too(files, masked, capsys):
    for option in ("--predictions", "--detections"):
        assert main(["evaluate", "--resamples", "0", option, str(files), "--ground-truth", str(masked)]) == 0
        assert "mIoU" in capsys.readouterr().out


def test_mistakes_with_masks_are_one_line(files, masked, segmenter, run, small, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(files / "val0.png", part)
    odd = tmp_path / "odd"
    shutil.copytree(files, odd)
    write_index_png(odd / "val1.png", np.full((72, 96), 7))
    truth = {"ground_truth": masked}
    for options, message in (
        ({"detections": files}, "--ground-truth is missing: .* is a folder of masks"),
        ({"detections": part, **truth}, r"val1\.png is missing \(4 of 5 images have no mask in"),
        ({"detections": odd, **truth}, r"val1\.png: values that are no class: 7"),
        ({"detections": files, "flip": True, **truth}, "holds masks that are made already"),
        ({"detections": files, "iou_type": "segm", **truth}, "masks are evaluated, for which there is no --iou-type"),
        ({"detections": segmenter.folder, "score_threshold": 0.5}, "there is no --score-threshold"),
        ({"detections": run.folder, "flip": True}, "detections are evaluated, for which there is no --flip"),
        ({"detections": run.folder, "compare": segmenter.folder}, "cannot be compared with each other"),
        ({"detections": segmenter.folder, "ground_truth": small}, "have boxes but no polygons"),
        ({"detections": tmp_path}, "no trained model here"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            evaluate(Evaluate(**options))
        assert "\n" not in str(error.value)


def test_a_segmenter_of_other_classes_is_refused(segmenter, masked, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(masked, data)
    (data / "classes.txt").write_text("0 background\n4 box\n9 ring\n")
    with pytest.raises(ValueError, match=r"its categories differ .*'disc'.*'ring'"):
        evaluate(Evaluate(detections=segmenter.folder, ground_truth=data))
