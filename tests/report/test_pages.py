"""The page of each task's run: what is drawn, and what figures, classes and tables stand on it."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from detseg.report.pages.base import RATES
from detseg.report.pictures import SHOWN, some_of
from detseg.train.finder import RateCurve
from tests.params import slow_but
from tests.report.reading import Page, printed
from tests.report.runs import EVIL, classifier, detector, instances, localizer, pages, segmenter

DRAWN = {
    "detector": {
        *("anchors.png", "class_ap.png", "confusion.png", "mistakes.jpg", "precision_recall.png", "reliability.png"),
    },
    "segmenter": {"class_iou.png", "confusion.png"},
    "classifier": {"class_accuracy.png", "confusion.png"},
    "localizer": {"class_iou.png"},
}


def read(page):
    """What is written, as a page."""
    (_, path), *_ = page.write()
    return Page(path.read_text(encoding="utf-8"))


def figures_on(page):
    return {row[0]: row[1:] for row in page.rows}


@pytest.mark.parametrize("task", slow_but(["detector"], DRAWN))
def test_what_is_written(task, tmp_path, monkeypatch):
    page = pages(monkeypatch)[task](tmp_path)
    page.run.drawn = page.draw_training()
    (caption, path), *drawings = page.write()
    assert (caption, path) == ("report", tmp_path / "report.html")
    assert {path.name for _, path in drawings} == {"worst.jpg", "samples.jpg", "history.png"} | DRAWN[task]
    for caption, drawing in drawings:
        image = cv2.imread(str(drawing))
        assert image is not None and image.std() > 1, caption
    text = path.read_text(encoding="utf-8")
    shown = Page(text)
    assert [tag for tag, _ in shown.tags].count("img") == len(drawings) and not shown.open
    assert "<script>alert" not in text
    compile(next(part for part in shown.text if "detseg.load" in part), "snippet", "exec")
    first = page.run.metrics.shown()[0]
    assert first.title in shown.text and f"{first.compute(page.run.metrics):.3f}" in shown.text, "a card"
    assert first.title in printed(page.table()) or task == "detector"
    assert {"Validation images", "Training time", "1.5 min"} <= {cell for row in shown.rows for cell in row}


def test_a_run_without_metrics_has_no_page(tmp_path):
    page = classifier(tmp_path)
    page.run.metrics = None
    with pytest.raises(ValueError, match="has no metrics to report on"):
        page.write()


@pytest.mark.slow
def test_the_rate_test_is_drawn_before_training_and_found_after_a_resume(tmp_path):
    page = classifier(tmp_path)
    rates = np.geomspace(1e-5, 1, 20)
    page.run.rates = RateCurve(rates, rates[::-1], rates[::-1], 0.01)
    page.draw_training()
    assert (tmp_path / RATES).is_file()
    page.run.rates = None
    assert ("learning-rate finder", tmp_path / RATES) in page.write()


def test_samples_are_seen_as_they_are_trained_on(tmp_path):
    page, asked = detector(tmp_path), []
    kind = page.run.task.samples

    class Recording(kind):
        def __getitem__(self, request):
            asked.append(request)
            return super().__getitem__(request)

    def samples(dataset, config):
        assert dataset is page.run.train and config is page.run.config
        return Recording(dataset, config)

    page.run.task.samples = samples
    page.draw_training()
    assert [request.image for request in asked] == some_of(6, 0)
    assert [request.position for request in asked] == list(range(6))
    assert [request.mosaic for request in asked] == [True] * 3 + [False] * 3, "mosaics come first"
    assert [request.mixup for request in asked] == [False] * 3 + [True] * 3, "mixed images last"


def test_all_of_few_samples_and_some_from_all_over_of_many():
    assert sorted(some_of(5, 0)) == [0, 1, 2, 3, 4]
    chosen = some_of(1000, 0)
    assert len(set(chosen)) == SHOWN
    assert min(chosen) < 250 and max(chosen) > 750
    assert chosen == some_of(1000, 0) != some_of(1000, 1)


def test_detector_page(tmp_path):
    page = detector(tmp_path)
    shown, found = read(page), page.analysis
    rows = figures_on(shown)
    limits = found.intervals.figures["AP"]
    assert limits.low < found.metrics.map < limits.high
    ranges = f"{limits.low:.3f} to {limits.high:.3f}"
    assert rows["mAP@[.5:.95] mean AP of the classes over IoU .50 to .95"] == [f"{found.metrics.map:.3f}", ranges]
    assert rows["AP large above"] == ["–", ""], "no large objects: a dash, not -1 or NaN"
    assert sum(row[0].startswith(("mAP", "AP", "AR")) for row in shown.rows) == 12
    assert ranges in shown.text, "beside the large number too"
    heads = ["Class", "AP", "From", "To", "AP50", "AR 100", "Best score", "F1", "Objects", "Images"]
    start = shown.rows.index(heads)
    assert shown.rows[start + 1] == ["square", *["1.000"] * 5, "0.900", "1.000", "4", "4"]
    start = shown.rows.index(["Error", "Gain", "Number"])
    gains = [float(row[1]) for row in shown.rows[start + 1 : start + 7]]
    assert gains == sorted(gains, reverse=True) and gains[0] > 0
    assert [row[0].split()[0] for row in shown.rows[start + 7 : start + 9]] == ["false", "false"]
    assert "Ranges: 95 % bootstrap confidence interval over images." in "".join(shown.text)


@pytest.mark.slow
def test_page_of_a_detector_with_masks(tmp_path):
    page = instances(tmp_path)
    metrics = page.run.metrics
    mask_ap, box_ap = f"{metrics.masks.map:.3f}", f"{metrics.map:.3f}"
    shown = read(page)
    cards = [text for text in shown.text if text.startswith(("mask m", "box m"))]
    assert cards[:2] == ["mask mAP@[.5:.95]", "box mAP@[.5:.95]"] and len(cards) == 6
    rows = figures_on(shown)
    figures = rows["mAP@[.5:.95] mean AP of the classes over IoU .50 to .95"]
    assert (figures[0], figures[2]) == (box_ap, mask_ap) and " to " in figures[1] and " to " in figures[3]
    assert rows["Class"][:6] == ["Mask AP", "From", "To", "Mask AP50", "Box AP", "Box AP50"]
    assert "Gain in mask AP50 if the errors of one kind, and no others, were corrected." in shown.text
    assert page.analysis.metrics is metrics.masks
    assert (tmp_path / "mask_precision_recall.png").is_file() and (tmp_path / "precision_recall.png").is_file()


@pytest.mark.slow
def test_detector_page_of_one_image(tmp_path):
    page = detector(tmp_path)
    page.analysis = SimpleNamespace(**vars(page.analysis) | {"intervals": None})
    shown = read(page)
    assert ["Class", "AP", "AP50", "AR 100", "Best score", "F1", "Objects", "Images"] in shown.rows
    assert "Ranges" not in "".join(shown.text)
    del page.run.options["anchors"]
    assert list(page.draw_training()) == ["training samples as the network sees them"]


def test_segmenter_page(tmp_path, monkeypatch):
    page = segmenter(tmp_path, monkeypatch)
    shown, (found, intervals) = read(page), page.measured
    limits = intervals.figures["miou"]
    told = [f"{found.miou:.3f}", f"{limits.low:.3f} to {limits.high:.3f}"]
    assert figures_on(shown)["mIoU mean IoU of the classes"] == told
    heads = ["Class", "IoU", "From", "To", "Dice", "Recall", "Precision", "Boundary IoU", "Pixels", "Images"]
    start = shown.rows.index(heads)
    background, rose, tulip = shown.rows[start + 1 : start + 4]
    assert (background[0], rose[0], tulip[0]) == ("background", EVIL, "tulip"), "best first, absent ones last"
    assert rose[1] == f"{found.per_class[1].iou:.3f}" and rose[-1] == "3"
    assert tulip == ["tulip", *["–"] * 7, "0.0 %", "0"]
    assert figures_on(shown)["Decoder"] == ["fcn, strides 8 16 32"]


def test_classifier_page(tmp_path):
    few = figures_on(read(classifier(tmp_path, classes=4)))
    assert few["Strategy"] == ["probe"] and not [name for name in few if name.startswith("top-5")]
    page = classifier(tmp_path)
    shown = read(page)
    rows, limits = figures_on(shown), page.run.metrics.intervals["top1"]
    told = [f"{page.run.metrics.top1:.3f}", f"{limits.low:.3f} to {limits.high:.3f}"]
    assert rows["accuracy right at the first guess"] == told
    assert rows["log loss lower is better"][1] == "" and "top-5 accuracy among the first five guesses" in rows
    assert ["Class", "Recall", "Precision", "F1", "Images", "Predicted"] in shown.rows


def test_localizer_page(tmp_path):
    page = localizer(tmp_path)
    truths = [page.truth(i) for i in range(len(page.run.val))]
    page.run.predictions[1]["boxes"] = page.run.predictions[1]["boxes"] + 5
    assert page.worst(truths)[0] == 1 and sorted(page.worst(truths)) == [0, 1, 2, 3], "none without an object"
    shown = read(page)
    assert ["Class", "Mean IoU", "Accuracy", "Images"] in shown.rows
    assert figures_on(shown)["mean IoU of the predicted with the true box"][0] == "1.000"


def test_configuration_stands_on_the_page(tmp_path):
    page = localizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"size": 64, "optim": {"lr": 0.1}}))
    rows = figures_on(read(page))
    assert rows["size"] == ["64"] and rows["optim.lr"] == ["0.1"]
