"""Tables for the terminal: what stands where, and that they fit."""

import math

import numpy as np
import pytest

from detseg.metrics import (
    ClassificationEvaluator,
    bootstrap_segmentation,
    detection,
    evaluate_detections,
    evaluate_segmentation,
)
from detseg.metrics.bootstrap.detection import compare_matches
from detseg.metrics.detection.analysis import analyse
from detseg.metrics.detection.confusion import BestThreshold, BestThresholds, Confusion
from detseg.metrics.localization import evaluate_localization
from detseg.report.tables import classification, localization, segmentation
from detseg.report.tables.builders import comparison_table, confusion_table
from detseg.report.tables.detection import (
    analysis_tables,
    coco_table,
    confusions_of,
    errors_table,
    tables,
    thresholds_table,
)
from tests.metrics.label_scenes import label_scene
from tests.metrics.scenes import random_scene
from tests.report.reading import printed, rows_of

NAMES = ["sky", "grass", "flower", "path", "nowhere"]


def texts(*values):
    return [f"{value:.3f}" for value in values]


@pytest.fixture(scope="module")
def scene():
    return random_scene(0, images=20)


@pytest.fixture(scope="module")
def analysis(scene):
    return analyse(*scene, resamples=50, level=0.9)


@pytest.fixture(scope="module")
def masks():
    predictions, targets = label_scene(0, images=8)
    return evaluate_segmentation(targets, predictions, NAMES)


def classified(classes, images=200, **options):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes - 1, images)
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), labels] += 2
    evaluator = ClassificationEvaluator([f"[flower] {k}" for k in range(classes)])
    evaluator.update(logits, labels, np.arange(images))
    return evaluator.compute(**options)


def cells_of(text):
    """Rows of a confusion matrix, by their first two words."""
    return {" ".join(line.split()[:2]): line.split()[2:] for line in text.splitlines() if line.strip()}


# ------------------------------------------------------------------ detection


def test_detection_figures_and_classes_with_their_intervals(analysis):
    metrics, intervals = analysis.metrics, analysis.intervals
    text = printed(tables(metrics, intervals))
    rows = rows_of(text)
    assert rows["90 % from"][:3] == texts(*(limits.low for limits in intervals.figures.values()))
    assert rows["to"][:3] == texts(*(limits.high for limits in intervals.figures.values()))
    row, limits = metrics.per_class[0], intervals.per_class[0].ap
    assert rows["class 3"][2:] == texts(row.ap, limits.low, limits.high, row.ap50, row.ar)
    assert rows["class 7"][2:] == ["–"] * 5
    assert "90 % bootstrap confidence interval over images, of AP" in text
    assert "from" not in printed(coco_table(metrics))


def test_a_single_image_has_no_intervals():
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}
    truth["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}]
    found = analyse(truth, [])
    text = printed(tables(found.metrics, found.intervals))
    assert "95 %" not in text and "from" not in text


def test_other_numbers_of_detections(scene):
    metrics = evaluate_detections(*scene, max_detections=(2, 5))
    rows = rows_of(printed(coco_table(metrics)))
    assert rows["all"] == texts(*(metrics.coco(name) for name in ("AP", "AP50", "AP75", "AR2", "AR5")))
    assert math.isnan(metrics.coco("AR100"))


def test_errors(analysis):
    rows = rows_of(printed(errors_table(analysis.errors)))
    kinds = ["classification", "localisation", "both", "duplicate", "background", "missed"]
    assert list(rows) == [*kinds, "false positives", "false negatives"]
    for name, cost in analysis.errors.errors.items():
        assert rows[name][:2] == [f"{cost.gain:.3f}", str(cost.count)]
    assert rows["localisation"][2] == "right class, IoU 0.1 to 0.5"


def test_thresholds_are_not_rounded_up():
    nothing = BestThreshold(math.nan, math.nan, 0.0, 0.0)
    thresholds = BestThresholds(BestThreshold(0.12387, 0.5, 1.0, 2 / 3), (nothing,), 0.5)
    rows = rows_of(printed(thresholds_table(thresholds, ["a [b]"])))
    assert rows["all together"] == ["0.123", "0.500", "1.000", "0.667"]
    assert rows["a [b]"] == ["–", "–", "0.000", "0.000"]


def test_a_confusion_matrix_of_objects():
    for classes in (1, 12):
        counts = np.full((classes + 1, classes + 1), 1234)
        counts[0, 0] = 0
        names = tuple(f"[flower] {k}" for k in range(classes))
        text = printed(confusion_table(confusions_of(Confusion(counts, names, 0.256, 0.5))), width=100)
        assert "score from 0.26, IoU from 0.50" in " ".join(text.split())
        row = next(line for line in text.splitlines() if "1 [flower] 0" in line)
        assert row.split()[3:] == ["·", *["1234"] * classes]
        assert next(line for line in text.splitlines() if "nothing" in line).split()[1:] == ["1234"] * classes


def test_of_many_classes_the_most_frequent_confusions_are_listed():
    counts = np.zeros((31, 31), int)
    counts[3, 5], counts[5, 3], counts[:-1, -1], counts[-1, 2] = 7, 9, 1, 4
    confusion = Confusion(counts, tuple(f"class {k}" for k in range(30)), 0.3, 0.5)
    text = printed(confusion_table(confusions_of(confusion)))
    assert text.index("class 5") < text.index("class 3")
    assert rows_of(text)["class 3"] == ["class 5", "7", "87.5 %"]
    caption = "objects detected as another class: 16; missed: 30; found where nothing is: 4"
    assert caption in " ".join(text.split())


def test_comparison(scene):
    truth, results = scene
    a, b = (evaluate_detections(truth, found) for found in (results, results[::2]))
    comparison = compare_matches(a.matches, b.matches, resamples=50)
    names = [f"class {c['id']}" for c in truth["categories"]]
    rows = rows_of(printed(comparison_table(comparison, names, detection.FIGURES, of="AP", what="detections")))
    row = comparison.figures["AP"]
    assert rows["mAP@[.5:.95]"][:3] == [f"{row.a:.3f}", f"{row.b:.3f}", f"{row.difference:+.3f}"]
    assert "AP of class 3" in rows and "AP of class 7" not in rows


# ------------------------------------------------------------------ segmentation


def test_segmentation_figures_and_classes_with_their_intervals(masks):
    intervals = bootstrap_segmentation(masks)
    text = printed(segmentation.tables(masks, intervals))
    rows = rows_of(text)
    assert f"images: 8, pixels: {masks.confusion.sum():,}" in text
    for figure in masks.shown():
        value, limits = masks.figures()[figure.name], intervals.figures[figure.name]
        assert rows[figure.title][:3] == texts(value, limits.low, limits.high)
    row, limits = masks.per_class[2], intervals.per_class[2]
    share = 100 * row.pixels / masks.confusion.sum()
    assert rows["flower"] == [
        f"{share:.1f} %",
        "8",
        *texts(row.iou, limits.low, limits.high, row.accuracy, row.boundary_iou),
    ]
    assert rows["nowhere"] == ["0.0 %", "0", *["–"] * 5]
    assert "from" not in printed(segmentation.tables(masks))


def many_classes(classes):
    rng = np.random.default_rng(0)
    target = rng.integers(0, classes, (300, 300))
    found = np.where(rng.random(target.shape) < 0.5 + 0.4 * target / classes, target, (target + 1) % classes)
    return evaluate_segmentation([target], [found], [f"class {k}" for k in range(classes)], boundary=False)


def test_segmentation_without_boundary_and_without_pixels():
    plain = many_classes(3)
    text = printed(segmentation.tables(plain, bootstrap_segmentation(plain)))  # a single image: no intervals
    assert "boundary" not in text and "from" not in text and len(rows_of(text)["class 1"]) == 4
    nothing = evaluate_segmentation([np.full((4, 4), 255)], [np.zeros((4, 4), int)], ["a", "b"])
    assert rows_of(printed(segmentation.tables(nothing)))["mIoU"][0] == "–"


def test_confusions_of_pixels_in_percent(masks):
    rows = cells_of(printed(confusion_table(segmentation.confusions_of(masks))))
    share = 100 * masks.confusion[2] / masks.confusion[2].sum()
    assert rows["3 flower"] == [*(f"{v:.1f}" for v in share[:4]), "·"]
    assert rows["5 nowhere"] == ["·"] * 5
    target = np.zeros((100, 100), int)
    found = target.copy()
    found[0, 0] = 1
    rare = evaluate_segmentation([target], [found], ["a", "b"])
    assert cells_of(printed(confusion_table(segmentation.confusions_of(rare))))["1 a"] == ["100.0", "<0.1"]


def test_many_classes_of_pixels_are_listed_by_confusion():
    metrics = many_classes(40)
    text = printed(confusion_table(segmentation.confusions_of(metrics)))
    wrong = metrics.confusion * (1 - np.eye(40, dtype=int))
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    lines = [line for line in text.splitlines() if line.startswith("│")]
    share = 100 * wrong[i, j] / metrics.confusion[i].sum()
    cells = [c.strip() for c in lines[0].strip("│").split("│")]
    assert len(lines) == 20
    assert cells == [f"class {i}", f"class {j}", f"{wrong.max():,}", f"{share:.1f} %"]
    assert f"({100 * wrong.sum() / metrics.confusion.sum():.1f} %)" in text


def test_names_are_no_markup():
    target = np.zeros((9, 9), int)
    metrics = evaluate_segmentation([target], [target], ["[red]rose[/red]", "a class with quite a long name"])
    assert "[red]rose[/red]" in printed(segmentation.tables(metrics))


# ------------------------------------------------------------------ classification, localisation


def test_classification_figures_and_classes():
    metrics = classified(8)
    text = printed(classification.tables(metrics))
    rows = rows_of(text)
    limits = metrics.intervals["top1"]
    assert rows["accuracy"][:3] == texts(metrics.top1, limits.low, limits.high)
    assert rows["log loss"][:3] == [f"{metrics.log_loss:.3f}", "–", "–"]
    assert "top-5 accuracy" in rows and "images: 200, classes: 8" in text
    first = metrics.per_class[0]
    counts = [str(first.count), str(first.predicted)]
    assert rows["[flower] 0"] == [*counts, *texts(first.recall, first.precision, first.f1)]
    assert rows["[flower] 7"][0] == "0" and rows["[flower] 7"][2] == "–"
    few = printed(classification.tables(classified(4, resamples=0)))
    assert "interval" not in few and "┃ from" not in few and "top-5" not in few


def test_confusions_of_images():
    for classes in (2, 12):
        metrics = classified(classes)
        text = printed(confusion_table(classification.confusions_of(metrics)))
        row = next(line for line in text.splitlines() if "1 [flower] 0" in line)
        assert row.split()[3:] == [str(count) if count else "·" for count in metrics.confusion[0]]
    metrics = classified(13)
    text = printed(confusion_table(classification.confusions_of(metrics)))
    true, found, count = metrics.most_confused(1)[0]
    line = next(line for line in text.splitlines() if true in line and found in line)
    assert str(count) in line
    assert f"images taken for another class: {200 - np.trace(metrics.confusion)}" in text


def test_localization_shows_objectness_where_it_was_measured():
    boxes, labels = np.array([[0, 0, 10, 10], [0, 0, 10, 5.0]]), np.array([0, 1])
    truth = (boxes, labels, np.array([[0, 0, 10, 10], [0, 0, 10, 10.0]]), labels, ["a", "b"])
    rows = rows_of(printed(localization.tables(evaluate_localization(*truth)), width=100))
    assert rows["mean IoU"][0] == "0.750" and rows["b"] == ["1", "0.500", "1.000"] and "quality" not in rows
    seen = {"scores": np.array([0.9, 0.8]), "scores_without": np.array([0.1])}
    text = printed(localization.tables(evaluate_localization(*truth, **seen)))
    assert rows_of(text)["objectness"][0] == "1.000" and "images with an object: 2, without: 1" in text


def test_everything_fits_a_terminal(analysis, masks):
    everything = {
        "detection": (analysis_tables(analysis), "Average precision", "What the errors cost", "Best score"),
        "segmentation": (segmentation.tables(masks, bootstrap_segmentation(masks)), "Segmentation"),
        **{f"{k} classes": (classification.tables(classified(k)), "Classification") for k in (2, 12, 40)},
    }
    for name, (table, *titles) in everything.items():
        text = printed(table)
        assert max(map(len, text.splitlines())) <= 80, name
        for title in (*titles, "Per class", "onfusion"):
            assert title in text, f"{name}: {title}"
