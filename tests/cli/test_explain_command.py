"""`detseg explain`: the table, the images, and one clear line for every mistake."""

import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import detseg
from detseg.cli import main
from detseg.data.images import read_image
from detseg.models import build_model, save_model

PARTS = ["classes.jpg", "gradcam.jpg", "maps.jpg"]


def write_run(folder, kind="classifier", **architecture):
    torch.manual_seed(0)
    architecture = {"kind": kind, "backbone": "test_efficientnet", "num_classes": 3, **architecture}
    categories = [{"id": 5 + k, "name": name} for k, name in enumerate(("rose", "tulip", "daisy"))]
    save_model(folder, build_model(architecture), {"architecture": architecture, "categories": categories, "size": 64})
    return str(folder)


def write_detector(folder):
    """A detector that is sure of whatever it finds."""
    torch.manual_seed(0)
    architecture = {"kind": "yolo", "backbone": "test_efficientnet", "num_classes": 3, "strides": [8, 16]}
    architecture |= {"anchors": [[[20, 20], [30, 15]], [[40, 40], [15, 50]]], "width": 16}
    model = build_model(architecture)
    with torch.no_grad():
        model.head.box.bias.view(2, 5)[:, -1] = 4
        model.head.classes.weight.normal_()
    categories = [{"id": 5 + k, "name": name} for k, name in enumerate(("rose", "tulip", "daisy"))]
    save_model(folder, model, {"architecture": architecture, "categories": categories, "size": 64})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the runs classifier/, localizer/ and detector/ and three images, two of them of one name."""
    folder = tmp_path_factory.mktemp("explain")
    write_run(folder / "classifier")
    write_run(folder / "localizer", "localizer")
    write_detector(folder / "detector")
    rng = np.random.default_rng(0)
    for name, shape in (("a.jpg", (60, 90)), ("more/a.png", (90, 60)), ("more/b.jpg", (70, 70))):
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    return folder


def printed(capsys):
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]


@pytest.mark.parametrize("kind", ["classifier", "localizer"])
def test_a_run_of_ones_own(world, kind, tmp_path, capsys):
    words = ["explain", str(world / kind), str(world / "a.jpg"), "--output", str(tmp_path)]
    assert main(words) == 0
    lines = printed(capsys)
    rows = [line for line in lines if re.fullmatch(r"\d (rose|tulip|daisy) .* %", line)]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    shares = [float(row.split()[2]) for row in rows]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.2)
    assert f"{tmp_path}/a.jpg: all of it on a page" in lines
    assert f"{tmp_path}/filters.png: filters of the first layer" in lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.jpg", "filters.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == PARTS
    assert all(f"{tmp_path}/a/{part}: " in "\n".join(lines) for part in PARTS)
    page, *sheets = (read_image(tmp_path / name) for name in ("a.jpg", "a/maps.jpg", "a/classes.jpg", "filters.png"))
    assert {sheet.shape[1] for sheet in sheets} == {page.shape[1]}
    assert page.shape[0] > sum(sheet.shape[0] for sheet in sheets)
    assert read_image(tmp_path / "a/gradcam.jpg").shape[1] == 90, "as large as the image"


def found_rows(lines):
    """Number, class, score, box and share of the heat of each line of a table of detections."""
    form = r"(\d+) (rose|tulip|daisy) (\d\.\d\d) (\d+ \d+ \d+ \d+) (–|[\d.]+ %|< 0.1 %)"
    return [m.groups() for line in lines if (m := re.fullmatch(form, line))]


def test_a_detector_of_ones_own(world, tmp_path, capsys):
    words = ["explain", str(world / "detector"), str(world / "a.jpg"), "--output", str(tmp_path)]
    assert main(words) == 0
    lines = printed(capsys)
    rows = found_rows(lines)
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    (predicted,) = detseg.load(world / "detector").predict([world / "a.jpg"])
    assert [row[2] for row in rows] == [f"{score:.2f}" for score in predicted.scores[:5]]
    assert [row[1] for row in rows] == [predicted.names[label] for label in predicted.labels[:5]]
    assert [row[3] for row in rows] == [" ".join(f"{v:.0f}" for v in box) for box in predicted.boxes[:5].tolist()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.jpg"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"{n}.jpg" for n in range(1, 6)]
    assert f"{tmp_path}/a.jpg: all of it on a page" in lines
    assert f"{tmp_path}/a/5.jpg: what detection 5 rests on" in lines
    part, page = read_image(tmp_path / "a/1.jpg"), read_image(tmp_path / "a.jpg")
    assert part.shape[1] == 90 and part.shape[0] > 60, "the image in its own size, over a caption"
    assert page.shape[1] == 1280 and page.shape[0] > 600, "two rows"


@pytest.mark.slow
def test_some_of_the_detections(world, tmp_path, capsys):
    def explained(*words, images=("a.jpg",)):
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        paths = [str(world / image) for image in images]
        assert main(["explain", str(world / "detector"), *paths, *words, "--output", str(output)]) == 0
        return printed(capsys), output

    lines, _ = explained("--top", "2", images=("a.jpg", "more"))
    assert [row[0] for row in found_rows(lines)] == ["1", "2"] * 3
    (predicted,) = detseg.load(world / "detector").predict([world / "a.jpg"])
    name = predicted.names[predicted.labels[-1]]
    lines, _ = explained("--top", "100", "--classes", name.upper())
    expected = [
        f"{s:.2f}" for s, k in zip(predicted.scores, predicted.labels, strict=True) if predicted.names[k] == name
    ]
    assert [row[1:3] for row in found_rows(lines)] == [(name, score) for score in expected]
    lines, output = explained("--score-threshold", "1")
    assert "nothing found with a score of 1 or more; lower --score-threshold" in lines and not found_rows(lines)
    assert [path.name for path in output.iterdir()] == ["a.jpg"], "the page shows the image"


@pytest.mark.slow
def test_several_images_and_chosen_classes(world, tmp_path, capsys):
    images = [str(world / "more"), str(world / "a.jpg")]
    words = ["--classes", "Daisy", "rose", "--output", str(tmp_path)]
    assert main(["explain", str(world / "classifier"), *images, *words]) == 0
    lines = printed(capsys)
    assert sum(line.endswith("all of it on a page") for line in lines) == 3
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["a-2.jpg", "a.jpg", "b.jpg"]
    two = read_image(tmp_path / "b/classes.jpg")
    assert main(["explain", str(world / "classifier"), images[0], "--output", str(tmp_path / "all")]) == 0
    three = read_image(tmp_path / "all/b/classes.jpg")
    assert three.shape[0] > 1.5 * two.shape[0], "two classes beside the image, three in two rows"


def test_a_trained_network_by_name(tmp_path, capsys):
    samples = pytest.importorskip("sklearn.datasets").load_sample_images().filenames
    assert main(["explain", "tf_efficientnet_lite0", *samples, "--output", str(tmp_path), "--device", "cpu"]) == 0
    lines = printed(capsys)
    best = [line for line in lines if re.match(r"1 .* %", line)]
    assert [line.split()[1] for line in best] == ["palace", "daisy"]
    assert any(re.match(r"\d bell cote, bell cot \d", line) for line in lines)
    assert {"china.jpg", "flower.jpg"} < {path.name for path in tmp_path.iterdir()}


def test_the_file_of_weights_is_taken(world, tmp_path, capsys):
    from detseg.backbones import create_network

    torch.manual_seed(3)
    network = create_network("resnet18")
    with torch.no_grad():
        network.fc.bias[7] = 1e4
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    words = ["--weights", str(tmp_path / "weights.pth"), "--output", str(tmp_path / "out")]
    assert main(["explain", "resnet18", str(world / "a.jpg"), *words, "--classes", "daisy"]) == 0
    lines = printed(capsys)
    assert "1 cock 100.0 %" in lines
    assert any(re.fullmatch(r"\d+ daisy < 0.1 %", line) for line in lines), "what was asked for is in the table"


def test_a_mistake_is_one_line(world, tmp_path, capsys):
    run, image = f"{world}/classifier", f"{world}/a.jpg"
    for arguments, message in (
        ([run], "name images, or folders of images, after the run or network"),
        ([run, f"{world}/none.jpg"], "none.jpg: the image cannot be read"),
        ([run, image, "--classes", "rsoe"], "no class is named 'rsoe'; did you mean rose"),
        ([run, image, "--weights", "w.pth"], f"the run {run} has its own"),
        ([f"{world}/more", image], "no trained model here"),
        ([f"{world}/nothing", image], "nothing: no such run; give the folder of a run, or the name of"),
        (["resnet81", image], "no backbone is named 'resnet81'; did you mean"),
        (["lenet5", image], "(--weights FILE), or choose a network whose weights are installed: tf_eff"),
        (["resnet18", image, "--weights", "w.pth"], "no file of weights at w.pth"),
        ([run, image, "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        ([run, image, "--top", "3"], f"--top is for detectors; {run} is none: leave it out"),
        ([f"{world}/localizer", image, "--score-threshold", "0.5"], "--score-threshold is for detectors; "),
        ([f"{world}/detector", image, "--top", "0"], "--top must be at least 1, the number of detections to explain"),
        ([f"{world}/detector", image, "--classes", "rsoe"], "no class is named 'rsoe'; did you mean rose"),
    ):
        assert main(["explain", *arguments, "--output", str(tmp_path)]) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, arguments
        assert message in error, arguments
        assert not list(tmp_path.iterdir()), arguments


def test_images_before_one_that_cannot_be_read_are_written(world, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes((world / "a.jpg").read_bytes()[:700])
    images = [str(world / "a.jpg"), str(tmp_path / "broken.jpg")]
    assert main(["explain", str(world / "classifier"), *images, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "broken.jpg: the image is damaged or cut short" in error
    assert (tmp_path / "out/a/maps.jpg").is_file() and not (tmp_path / "out/broken").exists()


def test_originals_are_not_overwritten(world, tmp_path, capsys):
    shutil.copy(world / "a.jpg", tmp_path)
    before = (tmp_path / "a.jpg").read_bytes()
    assert main(["explain", str(world / "classifier"), str(tmp_path / "a.jpg"), "--output", str(tmp_path)]) == 1
    assert "a.jpg would be overwritten by an explanation; give another --output" in capsys.readouterr().err
    assert (tmp_path / "a.jpg").read_bytes() == before


def test_detectors_are_refused(world, tmp_path, capsys):
    run = write_run(tmp_path / "fcn", "fcn", strides=[8, 16, 32])
    assert main(["explain", run, str(world / "a.jpg"), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "only models that give the whole image a class can be explained so, not a FCN" in error
    assert not (tmp_path / "out").exists()


def test_the_help_needs_no_torch():
    code = (
        "import sys; from detseg.cli import main\n"
        "try: main(['explain', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'timm', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "Grad-CAM" in done.stdout
