"""Tables of classifiers: what stands where, and that they fit."""

import numpy as np
import pytest
from rich.console import Console

from detseg.metrics.classification import ClassificationEvaluator
from detseg.report.classification_tables import (
    classification_class_table,
    classification_confusion_table,
    classification_figures_table,
    classification_tables,
)


def printed(renderable, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("│").split("│")] for line in lines)}


def judged(classes, pictures=200, **options):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes - 1, pictures)
    logits = rng.normal(size=(pictures, classes))
    logits[np.arange(pictures), labels] += 2
    evaluator = ClassificationEvaluator([f"[flower] {k}" for k in range(classes)])
    evaluator.update(logits, labels, np.arange(pictures))
    return evaluator.compute(**options)


def test_figures_with_their_intervals():
    metrics = judged(8)
    rows = rows_of(printed(classification_figures_table(metrics)))
    limits = metrics.intervals["top1"]
    assert rows["accuracy"][:3] == [f"{v:.3f}" for v in (metrics.top1, limits.low, limits.high)]
    assert rows["log loss"][:3] == [f"{metrics.log_loss:.3f}", "–", "–"]
    assert "top-5 accuracy" in rows
    assert "pictures: 200, classes: 8" in printed(classification_figures_table(metrics))


def test_figures_without_intervals_and_of_few_classes():
    text = printed(classification_figures_table(judged(4, resamples=0)))
    assert "from " not in text.splitlines()[2] and "interval" not in text and "top-5" not in text


def test_a_row_for_each_class():
    metrics = judged(6)
    rows = rows_of(printed(classification_class_table(metrics)))
    first = metrics.per_class[0]
    figures = [f"{v:.3f}" for v in (first.precision, first.recall, first.f1)]
    assert rows["[flower] 0"] == [str(first.count), str(first.predicted), *figures]
    assert rows["[flower] 5"][0] == "0" and rows["[flower] 5"][3] == "–"


@pytest.mark.parametrize("classes", [2, 12])
def test_a_matrix_of_few_classes(classes):
    metrics = judged(classes)
    text = printed(classification_confusion_table(metrics))
    row = next(line for line in text.splitlines() if "1 [flower] 0" in line)
    assert row.split()[3:] == [str(count) if count else "·" for count in metrics.confusion[0]]


def test_of_many_classes_the_commonest_confusions():
    metrics = judged(13)
    text = printed(classification_confusion_table(metrics))
    true, found, count = metrics.most_confused(1)[0]
    line = next(line for line in text.splitlines() if true in line and found in line)
    assert str(count) in line
    wrong = 200 - np.trace(metrics.confusion)
    assert f"pictures taken for another class: {wrong}" in text


@pytest.mark.parametrize("classes", [2, 12, 40])
def test_all_tables_fit_a_terminal(classes):
    text = printed(classification_tables(judged(classes)))
    assert max(map(len, text.splitlines())) <= 80
    for title in ("Classification", "Per class", "What was taken for what"):
        assert title in text
