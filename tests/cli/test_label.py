"""`detseg label`: pre-labels that are read back, and images to label next."""

import csv
import html
import shutil

import numpy as np
import pytest

import detseg
from detseg.cli import main
from detseg.cli.evaluate_detections import analysis_of_run
from detseg.data import read_annotations, read_dataset, read_image, validate
from detseg.predict.worth_labelling import look_at
from tests.data.annotation_samples import write_picture
from tests.params import slow_but


@pytest.fixture(scope="module")
def photos(small, tmp_path_factory):
    """Copies of the validation images, without annotations, and one with nothing in it."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted((small / "images").glob("val*.png")):
        shutil.copy(path, folder / path.name)
    return folder


def label(run, *words):
    return main(["label", str(run.folder), *map(str, words)])


@pytest.mark.parametrize("to", slow_but(["coco"], ["coco", "voc", "yolo"]))
def test_pre_labels_are_read_back(run, photos, tmp_path, capsys, to):
    assert label(run, photos, "--to", to, "--output", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "best scores on the validation images: " in out and f"written as {to} to {tmp_path / 'out'}" in out
    data = read_annotations(tmp_path / "out", "train")
    assert len(data) == len(list(photos.iterdir())) and validate(data) == []
    detector = detseg.load(run.folder)
    assert list(data.names) == detector.names or to == "voc"
    best = {name: row.score for name, row in zip(detector.names, thresholds(run), strict=True)}
    found = detector.predict([str(path) for path in data.paths], score_threshold=0)
    wanted = [sum(s >= best[detector.names[k]] for s, k in zip(f["scores"], f["labels"], strict=True)) for f in found]
    assert np.diff(data.offsets).tolist() == wanted and sum(wanted) > 0
    parts = read_dataset(tmp_path / "out", val_share=0.4)
    assert len(parts["train"]) and len(parts["val"]), "as training reads it with --val-share"


def thresholds(run):
    from rich.console import Console

    return analysis_of_run(run.folder, Console(quiet=True)).thresholds.per_class


def test_a_persons_files_stay(run, photos, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.json").write_text("{}")
    assert label(run, photos, "--output", tmp_path / "mine") == 1
    assert "is there already and not empty" in capsys.readouterr().err
    assert (tmp_path / "mine/train.json").read_text() == "{}"
    assert label(run, photos, "--output", tmp_path / "one", "--score-threshold", "0.999999") == 0
    assert "0 objects in 5 images: nothing" in capsys.readouterr().out


def test_what_to_label_next(run, photos, tmp_path, capsys):
    assert label(run, photos, "--next", 3, "--output", tmp_path / "next") == 0
    rows = list(csv.DictReader((tmp_path / "next/next.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    values = [float(row["disagreement"]) for row in rows]
    detector, paths = detseg.load(run.folder), sorted(photos.iterdir())
    looks = list(look_at(detector, [read_image(path) for path in paths], batch_size=2))
    known = {str(path): look for path, look in zip(paths, looks, strict=True)}
    assert values == pytest.approx([known[row["image"]].disagreement for row in rows], abs=1e-3)
    assert values[0] == pytest.approx(max(look.disagreement for look in looks), abs=1e-3)
    plain = detector.predict([paths[0]], score_threshold=0)[0]
    np.testing.assert_allclose(looks[0].found["boxes"], plain["boxes"], atol=1e-2)
    assert np.linalg.norm(looks[0].feature) == pytest.approx(1, abs=1e-4)
    page = (tmp_path / "next/index.html").read_text()
    places = [page.index(f"{rank}. disagreement {value:.2f}") for rank, value in enumerate(values, 1)]
    names = [page.index(html.escape(row["image"])) for row in rows]
    assert places == sorted(places) and names == sorted(names), "in the order of the list"
    assert page.count("<img ") == page.count('<img src="data:image/jpeg;base64,') == 3 and "http" not in page


def test_images_at_web_addresses_are_copied(run, photos, tmp_path, monkeypatch, capsys):
    def download(address, folder):
        folder.mkdir()
        return shutil.copy(next(photos.iterdir()), folder / "a.png")

    monkeypatch.setattr("detseg.cli.images._download", download)
    words = ("https://example.org/a.png", "--score-threshold", "0.3", "--output", tmp_path / "out")
    assert label(run, *words, "--images", "keep") == 1
    assert "images at web addresses are downloaded" in capsys.readouterr().err
    assert label(run, *words) == 0
    data = read_annotations(tmp_path / "out", "train")
    assert not [problem for problem in validate(data) if problem.severity == "error"] and read_image(data.paths[0]).size


def test_mistakes(run, classifier, photos, tmp_path, capsys):
    for words, message in (
        (["--to", "nothing"], "--to nothing: no such format; there are coco"),
        (["--next", "0"], "--next must be at least 1"),
        (["--next", "3", "--to", "voc"], "leave out --to"),
        (["--score-threshold", "2"], "the score threshold must be a number from 0 to 1"),
    ):
        assert label(run, photos, *words, "--output", tmp_path / "out") == 1
        assert message in capsys.readouterr().err
    assert label(run, "--output", tmp_path / "out") == 1
    assert "name the images to label" in capsys.readouterr().err
    assert label(classifier, photos, "--output", tmp_path / "out") == 1
    assert "holds no detector" in capsys.readouterr().err
    bad = tmp_path / "broken/a.jpg"
    write_picture(bad)
    bad.write_bytes(bad.read_bytes()[:200])
    shutil.copy(next(photos.iterdir()), bad.parent)
    assert label(run, bad.parent, "--output", tmp_path / "some", "--score-threshold", "0.3") == 1
    assert len(read_annotations(tmp_path / "some", "train")) == 1, "what can be read is labelled"
