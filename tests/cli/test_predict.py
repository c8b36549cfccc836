"""`detseg predict`, and the same from Python: `detseg.load(run).predict([...])`."""

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

import detseg
from detseg.cli import main, predict_images
from detseg.cli.predict import Predict, _images
from detseg.data.formats import read_dataset, write_yolo
from detseg.files import WriteError
from detseg.predict import detect


@pytest.fixture(scope="module")
def detector(run):
    return detseg.load(run.folder)


def predict(run, *arguments):
    return main(["predict", str(run.folder), *map(str, arguments)])


def test_images_and_folders(run, small, tmp_path, capsys):
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(small / "images/val0.png", folder)
    (folder / "notes.txt").write_text("not an image")
    single = small / "images/val1.png"
    assert predict(run, single, tmp_path / "photos", "--output", tmp_path / "out", "--score-threshold", 0.05) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["detections.json", "val0.jpg", "val1.jpg"]
    drawn = cv2.imread(str(tmp_path / "out/val1.jpg"))
    assert drawn.shape == cv2.imread(str(single)).shape
    results = json.loads((tmp_path / "out/detections.json").read_text())
    assert {(r["image_id"], r["file_name"]) for r in results} == {(1, str(single)), (2, str(folder / "val0.png"))}
    assert {r["category_id"] for r in results} <= {7, 3}
    assert min(r["score"] for r in results) >= 0.05
    for x, y, w, h in (r["bbox"] for r in results):
        assert 0 <= x <= x + w <= 96.01
        assert 0 <= y <= y + h <= 72.01
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{single}: ")
    assert lines[-1] == f"images with boxes and detections.json are in {tmp_path / 'out'}"
    assert len(lines) == 3
    assert all(lines)


def test_no_more_than_max_detections_and_a_word_where_that_is_met(run, small, tmp_path, caplog, capsys):
    words = [small / "images/val0.png", small / "images/val1.png", "--output", tmp_path / "out"]
    assert predict(run, *words, "--score-threshold", 0.001, "--max-detections", 2) == 0
    results = json.loads((tmp_path / "out/detections.json").read_text())
    assert [r["image_id"] for r in results] == [1, 1, 2, 2]
    assert "in 2 of 2 images 2 objects with scores of 0.001 or more are found" in caplog.text
    caplog.clear()
    assert predict(run, *words, "--score-threshold", 0.99) == 0 and not caplog.text
    assert predict(run, *words, "--max-detections", 0) == 1
    assert "max-detections must be at least 1, not 0" in capsys.readouterr().err


def test_the_cap_from_python(run, small, caplog):
    detector = detseg.load(run.folder)
    assert detector.max_detections == 100
    detector.max_detections = 1
    found = detector.predict([small / "images/val0.png"], score_threshold=0.0)
    assert len(found[0]["boxes"]) == 1 and "in 1 of 1 images 1 objects with scores of 0.3 or more" in caplog.text
    (found,) = detector.predict([small / "images/val0.png"], score_threshold=0.0, tta=True)
    assert len(found["boxes"]) == 1


def test_an_image_with_nothing_in_it(run, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((40, 50, 3), 100, np.uint8))
    assert predict(run, tmp_path / "grey.png", "--output", tmp_path / "out", "--score-threshold", 0.99) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'grey.png'}: nothing\n")
    assert json.loads((tmp_path / "out/detections.json").read_text()) == []
    assert (tmp_path / "out/grey.jpg").is_file()


def test_a_broken_image_is_left_out_and_named(run, small, tmp_path, capsys):
    names = [f"{i:02}.png" for i in range(11)]  # more than are looked at together
    for name in names:
        shutil.copy(small / "images/val0.png", tmp_path / name)
    broken = tmp_path / names[4]
    broken.write_bytes(b"no image")
    words = [*(tmp_path / name for name in names), "--output", tmp_path / "out", "--score-threshold", 0.05]
    assert predict(run, *words) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: 1 of 11 images cannot be read and were left out; {broken}: not a readable")
    assert "BytesIO" not in printed.err + printed.out
    lines = printed.out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1] if "left out" in line] == [str(broken)]
    assert len(lines) == 12
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"{i:02}.jpg" for i in range(11) if i != 4} | {"detections.json"}
    results = json.loads((tmp_path / "out/detections.json").read_text())
    assert {(r["image_id"], r["file_name"]) for r in results} == {
        (i + 1, str(tmp_path / name)) for i, name in enumerate(names) if i != 4
    }, "each with its own number"


def test_where_no_image_can_be_read_nothing_is_overwritten(run, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/detections.json").write_text("of yesterday")
    assert predict(run, tmp_path / "a.png", tmp_path / "b.png", "--output", tmp_path / "out") == 1
    assert "2 of 2 images cannot be read and were left out; the first: " in capsys.readouterr().err
    assert (tmp_path / "out/detections.json").read_text() == "of yesterday"


def test_equal_names_from_several_folders_do_not_meet(run, small, tmp_path):
    images = []
    for name in ("a/x.png", "b/x.png", "c/X.png"):
        images.append(tmp_path / name)
        images[-1].parent.mkdir()
        shutil.copy(small / "images/val0.png", images[-1])
    assert predict(run, *images, "--output", tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"detections.json"}
    assert names == {"x.jpg", "x-2.jpg", "X-3.jpg"}


def test_validation_and_prediction_see_the_same(run, small, tmp_path, capsys):
    """Detections of the command give the mAP that training reported."""
    assert predict(run, "--image-ids", small / "val.json", "--output", tmp_path) == 0
    found = json.loads((tmp_path / "detections.json").read_text())
    assert {r["image_id"] for r in found} <= set(range(96, 101))
    assert min(r["score"] for r in found) < 0.1, "all of them, not only the ones to draw"
    assert all(np.float32(r["score"]) == r["score"] for r in found), "not rounded, which would make ties"
    capsys.readouterr()
    paths = ["--ground-truth", str(small / "val.json"), "--detections", str(tmp_path / "detections.json")]
    assert main(["evaluate", "--json", *paths]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    reported = json.loads((run.folder / "model.json").read_text())["training"]
    assert reported["map"] > 0.02, "too bad a model to compare"
    assert figures["AP"] == pytest.approx(reported["map"], abs=1e-3)
    assert figures["AP50"] == pytest.approx(reported["map50"], abs=1e-3)


def test_ids_of_some_images(run, small, tmp_path):
    image = small / "images" / ".." / "images" / "val2.png"
    assert predict(run, image, "--image-ids", small / "val.json", "--output", tmp_path) == 0
    assert {r["image_id"] for r in json.loads((tmp_path / "detections.json").read_text())} == {98}


def test_of_a_data_set_the_validation_images_are_meant(small, tmp_path):
    def listed(source):
        return _images(Predict(tmp_path, image_ids=source), [])

    assert listed(small) == listed(small / "val.json")
    assert len(listed(small)[1]) == 5
    for split, data in read_dataset(small).items():
        write_yolo(data, tmp_path / "yolo", split, crowd="drop")
    assert [path.name for path in listed(tmp_path / "yolo/data.yaml")[0]] == [f"val{i}.png" for i in range(5)]
    shutil.copytree(small, tmp_path / "other")
    (tmp_path / "other/val.json").rename(tmp_path / "other/test.json")
    with pytest.raises(ValueError, match="other: holds the splits train, test, but no val; name what holds one only"):
        listed(tmp_path / "other")


def test_originals_are_not_overwritten(run, tmp_path, capsys):
    for name in ("a.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    before = (tmp_path / "a.jpg").read_bytes()
    assert predict(run, tmp_path / "a.png", tmp_path / "a.jpg", "--output", tmp_path) == 1
    assert "a.jpg would be overwritten by a drawing; give another --output" in capsys.readouterr().err
    assert (tmp_path / "a.jpg").read_bytes() == before


def test_only_what_an_earlier_prediction_wrote_is_overwritten(run, small, tmp_path, capsys):
    image = shutil.copy(small / "images/val0.png", tmp_path / "a.png")
    (tmp_path / "a.jpg").write_bytes(b"of another camera")
    assert predict(run, image, "--output", tmp_path) == 1
    error = f"{tmp_path / 'a.jpg'}: is there already, and not from an earlier prediction; name another --output"
    assert error in capsys.readouterr().err
    assert (tmp_path / "a.jpg").read_bytes() == b"of another camera"
    for _ in range(2):
        assert predict(run, image, "--output", tmp_path / "out") == 0


def test_a_prediction_that_was_stopped_goes_on(run, small, tmp_path, monkeypatch, capsys):
    """The drawings are known again by themselves: there is no detections.json yet."""
    words = (run, small / "images", "--save-txt", "--output", tmp_path / "out")
    write = predict_images.write_found

    def on_a_small_disk(found, target):
        if len(list(target.parent.glob("*.jpg"))) > 1:
            raise WriteError(f"{target}: cannot be written: No space left on device")
        write(found, target)

    with monkeypatch.context() as patch:
        patch.setattr(predict_images, "write_found", on_a_small_disk)
        assert predict(*words) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".jpg"} == {"labels"}
    drawn = next((tmp_path / "out").glob("*.jpg"))
    whole = drawn.read_bytes()
    # As if it had been the drawing of another program.
    cv2.imwrite(str(drawn), cv2.imread(str(drawn)))
    assert predict(*words) == 1
    assert f"{drawn}: is there already, and not from an earlier prediction" in capsys.readouterr().err
    drawn.write_bytes(whole)
    assert predict(*words) == 0
    assert drawn.read_bytes() == whole and (tmp_path / "out/detections.json").exists()


def test_ids_of_images_from_elsewhere(run, small, tmp_path):
    shutil.copy(small / "val.json", tmp_path)
    config = Predict(tmp_path, image_ids=tmp_path / "val.json", images=small / "images")
    assert [path.resolve() for path in _images(config, [])[0]] == [small / f"images/val{i}.png" for i in range(5)]
    with pytest.raises(ValueError, match="--images is the folder of the images that --image-ids lists"):
        _images(Predict(tmp_path, images=small / "images"), [small / "images"])


def test_a_mistake_is_one_line(run, small, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("hello")
    images = small / "images"
    for arguments, message in (
        ([], "name the images"),
        ([tmp_path / "empty"], "no images in"),
        (["none.jpg"], "none.jpg"),
        ([tmp_path / "text.jpg"], "text.jpg"),
        ([images / "train0.png", "--image-ids", small / "val.json"], "does not list"),
        ([images / "val0.png", "--image-ids", small / "none.json"], "none.json"),
        ([images / "val0.png", "--device", "tpu:7"], "device 'tpu:7' cannot be used here"),
    ):
        assert predict(run, *arguments, "--output", tmp_path / "out") == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, arguments
        assert message in error, arguments


def test_a_folder_that_is_no_run(tmp_path, small, capsys):
    assert main(["predict", str(tmp_path), str(small / "images")]) == 1
    assert "no trained model here" in capsys.readouterr().err


def test_the_python_interface(detector, small):
    paths = [small / f"images/val{i}.png" for i in range(5)]
    found = detector.predict(paths, score_threshold=0.01)
    assert len(found) == 5
    for one in found:
        assert set(one) == {"boxes", "scores", "labels"}
        count = len(one["scores"])
        assert one["boxes"].shape == (count, 4)
        assert one["labels"].shape == (count,)
        assert [one[k].dtype for k in ("boxes", "scores", "labels")] == [np.float32, np.float32, np.int64]
        assert (np.diff(one["scores"]) <= 0).all()
        assert (one["scores"] >= 0.01).all()
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= [96, 72, 96, 72]).all()
    assert detector.names == ["square", "bar"]
    assert detector.categories == [(7, "square"), (3, "bar")]


def test_the_best_detection_is_a_drawn_object(detector, small):
    """Boxes come back in the image's own pixels: the best one fits an object, also in an image twice as large."""
    truth = json.loads((small / "val.json").read_text())["annotations"]
    x, y, w, h = next(a["bbox"] for a in truth if a["image_id"] == 100 and a["category_id"] == 7)
    image = cv2.cvtColor(cv2.imread(str(small / "images/val0.png")), cv2.COLOR_BGR2RGB)
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    for factor, pixels in ((1, image), (2, large)):
        (found,) = detector.predict([pixels], score_threshold=0)
        best = found["boxes"][found["labels"] == 0][0] / factor
        expected = np.array([x, y, x + w, y + h])
        low, high = np.maximum(best[:2], expected[:2]), np.minimum(best[2:], expected[2:])
        shared = np.maximum(high - low, 0).prod()
        assert shared / ((best[2:] - best[:2]).prod() + w * h - shared) > 0.3


def test_arrays_and_paths_and_batches_give_the_same(detector, small):
    paths = [str(small / f"images/val{i}.png") for i in range(3)]
    arrays = [cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB) for path in paths]
    a = detector.predict(paths, score_threshold=0.05)
    b = detector.predict(arrays, score_threshold=0.05, batch_size=2)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)
        np.testing.assert_allclose(one["boxes"], other["boxes"], atol=0.05)


def test_images_of_any_kind(detector, tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"grey": (30, 40), "rgba": (30, 40, 4), "thin": (1, 200, 3)}
    paths = [tmp_path / f"{name}.png" for name in shapes]
    for path, shape in zip(paths, shapes.values(), strict=True):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(path)
    assert len(detector.predict(paths)) == 3


def test_no_images_no_detections(detector):
    assert detector.predict([]) == []


def test_wrong_images(detector):
    for images, message in (
        ("no.jpg", "no.jpg: the image cannot be read"),
        (3, "got int"),
        ([np.zeros((4, 4), np.uint8)], r"uint8 array of shape \(H, W, 3\), a PIL image, .* got uint8 \(4, 4\)"),
        ([np.zeros((4, 4, 3))], "got float64"),
        ([np.zeros((0, 4, 3), np.uint8)], "must have pixels"),
        (["no.jpg"], "no.jpg"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.predict(images)


def test_a_batch_of_none_is_refused(detector):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        list(detect(detector.model, [], 64, batch_size=0))


@pytest.mark.slow
def test_two_runs_are_fused(run, small, tmp_path, capsys):
    second = shutil.copytree(run.folder, tmp_path / "second")
    image = small / "images/val0.png"
    words = [image, "--output", tmp_path / "out", "--score-threshold", 0.05]
    assert predict(run, second, *words) == 0
    fused = json.loads((tmp_path / "out/detections.json").read_text())
    expected = detseg.load(run.folder, second).predict([image], score_threshold=0.05)[0]
    assert len(fused) == len(expected["scores"]) > 0
    assert [r["score"] for r in fused] == pytest.approx(expected["scores"].tolist(), abs=1e-5)
    capsys.readouterr()
    words = ["--detections", str(run.folder), "--ground-truth", str(small / "val.json"), "--json", "--resamples", "0"]
    assert main(["evaluate", *words, "--fuse", str(second)]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["figures"]["AP50"] <= 1
    assert predict(run, second, "--output", tmp_path / "out") == 1
    assert "name the images" in capsys.readouterr().err


def test_what_cannot_be_written_is_told(run, small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("detseg.data.images.cv2.imencode", lambda *_: (False, None))
    assert predict(run, small / "images/val0.png", "--output", tmp_path / "out") == 1
    assert "val0.jpg: could not be written" in capsys.readouterr().err
    assert not (tmp_path / "out/detections.json").exists()
