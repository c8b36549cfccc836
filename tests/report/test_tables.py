"""Tables for the terminal: what stands where, and that they fit."""

import math

import numpy as np
import pytest
from rich.console import Console

from detseg.metrics import evaluate_detections
from detseg.metrics.bootstrap.detection import bootstrap_detection, compare_detection
from detseg.metrics.detection.analysis import analyse
from detseg.metrics.detection.confusion import BestThreshold, BestThresholds, Confusion
from detseg.report import (
    analysis_tables,
    comparison_table,
    confusion_table,
    errors_table,
    figures_table,
    metrics_table,
    thresholds_table,
)
from tests.metrics.scenes import random_scene


def printed(renderable, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("│").split("│")] for line in lines)}


@pytest.fixture(scope="module")
def scene():
    return random_scene(0, images=20)


def test_intervals_are_shown_by_default(scene):
    metrics = evaluate_detections(*scene)
    intervals = bootstrap_detection(metrics.matches)
    rows = rows_of(printed(metrics_table(metrics)))
    assert rows["95 % from"][:3] == [f"{limits.low:.3f}" for limits in intervals.figures.values()]
    assert rows["to"][:3] == [f"{limits.high:.3f}" for limits in intervals.figures.values()]
    row, limits = metrics.per_class[0], intervals.per_class[0].ap
    assert rows["class 3"][2:] == [f"{v:.3f}" for v in (row.ap, limits.low, limits.high, row.ap50, row.ar)]
    assert rows["class 7"][2:] == ["–"] * 5


def test_other_intervals_and_none(scene):
    metrics = evaluate_detections(*scene)
    wide = bootstrap_detection(metrics.matches, level=0.9, resamples=50)
    text = printed(metrics_table(metrics, wide))
    assert "90 % from" in text and "90 % interval of AP" in text
    assert "from" not in printed(figures_table(metrics))


def test_a_single_picture_has_no_intervals():
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}
    truth["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}]
    text = printed(metrics_table(evaluate_detections(truth, [])))
    assert "95 %" not in text and "from" not in text


def test_errors(scene):
    errors = analyse(*scene, resamples=0).errors
    rows = rows_of(printed(errors_table(errors)))
    kinds = ["classification", "localisation", "both", "duplicate", "background", "missed"]
    assert list(rows) == [*kinds, "false positives", "false negatives"]
    for name, cost in errors.errors.items():
        assert rows[name][:2] == [f"{cost.gain:.3f}", str(cost.count)]
    assert rows["localisation"][2] == "right class, IoU 0.1 to 0.5"


def test_thresholds_are_not_rounded_up():
    nothing = BestThreshold(math.nan, math.nan, 0.0, 0.0)
    thresholds = BestThresholds(BestThreshold(0.12387, 0.5, 1.0, 2 / 3), (nothing,), 0.5)
    rows = rows_of(printed(thresholds_table(thresholds, ["a [b]"])))
    assert rows["all together"] == ["0.123", "0.500", "1.000", "0.667"]
    assert rows["a [b]"] == ["–", "–", "0.000", "0.000"]


@pytest.mark.parametrize("classes", [1, 12])
def test_a_matrix_of_few_classes_fits(classes):
    counts = np.full((classes + 1, classes + 1), 1234)
    counts[0, 0] = 0
    names = tuple(f"[flower] {k}" for k in range(classes))
    text = printed(confusion_table(Confusion(counts, names, 0.256, 0.5)), width=100)
    assert "score from 0.26, IoU from 0.50" in " ".join(text.split())
    row = next(line for line in text.splitlines() if "1 [flower] 0" in line)
    assert row.split()[3:] == ["·", *["1234"] * classes]
    assert next(line for line in text.splitlines() if "nothing" in line).split()[1:] == ["1234"] * classes


def test_of_many_classes_the_commonest_confusions_are_listed():
    counts = np.zeros((31, 31), int)
    counts[3, 5], counts[5, 3], counts[:-1, -1], counts[-1, 2] = 7, 9, 1, 4
    confusion = Confusion(counts, tuple(f"class {k}" for k in range(30)), 0.3, 0.5)
    text = printed(confusion_table(confusion))
    assert text.index("class 5") < text.index("class 3")
    assert rows_of(text)["class 3"] == ["class 5", "7"]
    assert "objects missed: 30; detections where nothing is: 4" in " ".join(text.split())


def test_comparison(scene):
    truth, results = scene
    comparison = compare_detection(truth, results, results[::2], resamples=50)
    rows = rows_of(printed(comparison_table(comparison, [f"class {c['id']}" for c in truth["categories"]])))
    row = comparison.figures["AP"]
    assert rows["AP"][:3] == [f"{row.a:.3f}", f"{row.b:.3f}", f"{row.difference:+.3f}"]
    assert "AP of class 3" in rows and "AP of class 7" not in rows


def test_everything_fits_a_terminal(scene):
    text = printed(analysis_tables(analyse(*scene, resamples=20)))
    assert max(map(len, text.splitlines())) <= 80
    for title in ("Average precision", "Per class", "What the errors cost", "Best score", "What was detected as what"):
        assert title in text
