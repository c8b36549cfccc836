"""`detseg predict` with a segmenter: overlays, index PNGs, boxes from masks, options; the same from Python."""

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

import detseg
from detseg.cli import main
from detseg.cli.predictions import mask_values, objects_in
from detseg.data.images import read_image
from detseg.predict import Segmentation, Segmenter
from tests.small_masks import VALUES


@pytest.fixture(scope="module")
def model(segmenter):
    return detseg.load(segmenter.folder)


def predict(segmenter, *arguments):
    return main(["predict", str(segmenter.folder), *map(str, arguments)])


def values(path):
    return np.asarray(Image.open(path))


def test_an_image_gets_an_overlay_and_a_mask_of_its_own_size(segmenter, model, masked, tmp_path, capsys):
    small = masked / "images/val0.png"
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), cv2.resize(cv2.imread(str(small)), (301, 217)))
    assert predict(segmenter, small, large, "--output", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["large.jpg", "large.png", "val0.jpg", "val0.png"]
    for path in (small, large):
        image, (seen,) = read_image(path), model.predict([path])
        found = values(tmp_path / "out" / f"{path.stem}.png")
        assert found.shape == image.shape[:2] == seen.mask.shape
        assert np.array_equal(found, np.array(VALUES, np.uint8)[seen.mask]), "the values of the set's own files"
        assert cv2.imread(str(tmp_path / "out" / f"{path.stem}.jpg")).shape == image.shape
    palette = np.array(Image.open(tmp_path / "out/val0.png").getpalette()).reshape(-1, 3)
    assert palette[0].tolist() == [0, 0, 0]
    assert palette[4].tolist() == list(detseg.visualize.class_color(0)), "as a detector would colour the first object"
    lines = capsys.readouterr().out.splitlines()
    shares = np.bincount(model.predict([small])[0].mask.ravel(), minlength=3) / (96 * 72)
    assert lines[0].startswith(f"{small}: {100 * shares[0]:.1f} % background, ")
    assert lines[-1] == f"images with classes and masks are in {tmp_path / 'out'}"


def test_the_truth_is_found(segmenter, model, masked):
    from detseg.data.formats import read_masks

    truth = read_masks(masked, "val")
    seen = model.predict([str(path) for path in truth.paths])
    right = [(s.mask == truth.mask(i))[truth.mask(i) != 255].mean() for i, s in enumerate(seen)]
    assert np.mean(right) > 0.9


def test_the_masks_of_all_but_a_broken_image_are_written(segmenter, masked, tmp_path, capsys):
    names = [f"{i:02}.png" for i in range(11)]  # more than are looked at together
    for name in names:
        shutil.copy(masked / "images/val0.png", tmp_path / name)
    broken = names.pop(9)
    (tmp_path / broken).write_bytes(b"no image")
    assert predict(segmenter, *(sorted(tmp_path.glob("*.png"))), "--output", tmp_path / "out") == 1
    assert str(tmp_path / broken) in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == names


@pytest.mark.parametrize("there", ["out/a.png", "out/a.jpg"])
def test_only_what_an_earlier_segmentation_wrote_is_overwritten(segmenter, masked, tmp_path, capsys, there):
    image = shutil.copy(sorted((masked / "images").iterdir())[0], tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / there).write_bytes(b"drawn by hand")
    assert predict(segmenter, image, "--output", tmp_path / "out") == 1
    assert f"{tmp_path / there}: is there already" in capsys.readouterr().err
    (tmp_path / there).unlink()
    for _ in range(2):
        assert predict(segmenter, image, "--output", tmp_path / "out") == 0


def test_an_image_is_not_overwritten_by_its_mask(segmenter, masked, tmp_path, capsys):
    shutil.copy(masked / "images/val0.png", tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert predict(segmenter, tmp_path / "a.png", "--output", tmp_path) == 1
    assert "a.png would be overwritten by a mask; give another --output" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("options", ["--flip", "--scales 0.75 1 1.25", "--flip --long-side 150"])
def test_other_ways_of_looking(segmenter, model, masked, tmp_path, options):
    image = masked / "images/val1.png"
    assert predict(segmenter, image, "--output", tmp_path, *options.split()) == 0
    given = {
        "flip": "--flip" in options,
        "scales": (0.75, 1, 1.25) if "--scales" in options else (1.0,),
        "long_side": 150 if "--long-side" in options else None,
    }
    (seen,) = model.predict([image], **given)
    assert np.array_equal(values(tmp_path / "val1.png"), np.array(VALUES, np.uint8)[seen.mask])
    assert seen.confidence.shape == seen.mask.shape
    assert (seen.confidence >= 1 / 3 - 1e-5).all()
    assert (seen.confidence <= 1 + 1e-5).all()
    (plain,) = model.predict([image])
    assert not np.array_equal(plain.confidence, seen.confidence)
    assert (plain.mask == seen.mask).mean() > 0.9


def test_a_segmenter_is_scored_as_a_detector(segmenter, masked, tmp_path, capsys):
    """Boxes of the masks against boxes of the drawn shapes: what hangs together is an object."""
    images, annotations = [], []
    for index in range(5):
        images.append({"id": 10 + index, "file_name": f"images/val{index}.png", "width": 96, "height": 72})
        truth = values(masked / "masks" / f"val{index}.png")
        for value in VALUES[1:]:
            rows, columns = np.nonzero(truth == value)
            x, y = int(columns.min()), int(rows.min())
            box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": 10 + index, "category_id": value, "bbox": box, "iscrowd": 0})
    categories = [{"id": v, "name": n} for v, n in zip(VALUES[1:], ("box", "disc"), strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    shutil.copytree(masked / "images", tmp_path / "images")
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    assert predict(segmenter, "--image-ids", tmp_path / "boxes.json", "--boxes", "--output", out) == 0
    assert "images with classes and masks and detections.json are in" in capsys.readouterr().out
    found = json.loads((out / "detections.json").read_text())
    assert {r["image_id"] for r in found} == {10, 11, 12, 13, 14}
    assert {r["category_id"] for r in found} == {4, 9}, "no background"
    assert (
        main(
            [
                "evaluate",
                "--json",
                "--ground-truth",
                str(tmp_path / "boxes.json"),
                "--detections",
                f"{out}/detections.json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["figures"]["AP50"] > 0.5


def test_objects_of_a_mask():
    mask = np.array([[0, 1, 1, 0, 2], [0, 0, 0, 0, 2]], np.uint8)
    confidence = np.array([[0.9, 0.8, 0.6, 0.9, 0.5], [0.9, 0.9, 0.9, 0.9, 0.7]], np.float32)
    found = objects_in(Segmentation(mask, confidence, np.zeros((2, 5, 3), np.uint8), ()), ["background", "a", "b"], 1)
    assert found["boxes"].tolist() == [[1, 0, 3, 1], [4, 0, 5, 2]]
    assert found["labels"].tolist() == [1, 2]
    np.testing.assert_allclose(found["scores"], [0.7, 0.6], rtol=1e-6)
    without = objects_in(Segmentation(mask, confidence, np.zeros((2, 5, 3), np.uint8), ()), ["sky", "a", "b"], 1)
    assert sorted(without["labels"].tolist()) == [0, 1, 2], "no class of the name background: all are objects"


def test_small_components_are_no_objects(segmenter, masked, tmp_path, monkeypatch):
    mask = np.zeros((72, 96), np.uint8)
    mask[0, 0], mask[10:13, 10:15], mask[30:34, 30:34] = 1, 1, 2  # 1, 15 and 16 pixels
    seen = Segmentation(
        mask, np.ones(mask.shape, np.float32), np.zeros((72, 96, 3), np.uint8), detseg.load(segmenter.folder).categories
    )
    monkeypatch.setattr(Segmenter, "stream", lambda self, images, *_, **__: (seen for _ in images))
    for options, counts in ((), 1), (("--min-area", "15"), 2), (("--min-area", "1"), 3):
        image = masked / "images/val0.png"
        assert predict(segmenter, image, "--boxes", *options, "--output", tmp_path) == 0
        assert len(json.loads((tmp_path / "detections.json").read_text())) == counts


def test_values_of_written_masks():
    for ids in ([0, 4, 9], [9, 0, 4], [0, 255]):
        assert mask_values(ids).tolist() == ids
    for ids, values in (([-1, 0, 3], [0, 1, 2]), ([1203, 7], [1, 0]), ([-1, 2, 0, 256], [0, 2, 1, 3])):
        assert mask_values(ids).tolist() == values, "ids that do not fit give way to their places among each other"


def test_options_that_do_not_fit_a_segmenter(segmenter, masked, small, tmp_path, capsys):
    for arguments, message in (
        ("P --score-threshold 0.5", "holds a segmenter, for which there is no --score-threshold"),
        ("P --slide", "holds a segmenter, for which there is no --slide"),
        ("--image-ids D/val.json", "which a segmenter writes with --boxes"),
        ("P --min-area 4", "--min-area is for detections.json, which a segmenter writes with --boxes"),
        ("P --boxes --min-area 0", "--min-area must be at least 1 pixel, not 0"),
        ("P --scales 0", "scales must be positive numbers"),
        ("P --long-side 0", "long_side must be at least 1"),
        ("P --long-side 200 --scales 1 2", "long_side and scales do not go together"),
    ):
        words = arguments.replace("P", str(masked / "images/val0.png")).replace("D", str(small)).split()
        assert predict(segmenter, *words, "--output", tmp_path / "out") == 1, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, arguments


def test_options_that_do_not_fit_a_detector(run, small, tmp_path, capsys):
    image = str(small / "images/val0.png")
    assert main(["predict", str(run.folder), image, "--flip", "--boxes", "--output", str(tmp_path)]) == 1
    assert "holds a detector, for which there is no --flip, --boxes; leave it out" in capsys.readouterr().err


def test_help_teaches_both_uses(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    shown = capsys.readouterr().out
    assert "detseg predict runs/detector-1" in shown
    assert "detseg predict runs/segmenter-1" in shown
