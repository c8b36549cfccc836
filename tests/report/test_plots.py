"""Plots: what is in the figures, that files are pictures, that matplotlib's global state is left alone."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.metrics import evaluate_detections
from detseg.metrics.bootstrap.detection import bootstrap_detection
from detseg.metrics.detection.confusion import Confusion
from detseg.report import plot_anchors, plot_class_ap, plot_confusion, plot_history, plot_precision_recall
from detseg.report.plots.detection import (
    anchors_figure,
    class_ap_figure,
    confusion_figure,
    history_figure,
    precision_recall_figure,
    read_history,
)


def evaluate(classes, found=lambda k, i: i >= k):
    """Classes with ten objects each; class k finds those for which `found(k, i)`. Later classes are worse."""
    truth = {
        "images": [{"id": i, "width": 100, "height": 100} for i in range(10)],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(classes)],
        "annotations": [
            {
                "id": 1 + k * 10 + i,
                "image_id": i,
                "category_id": k + 1,
                "bbox": [10, 10, 50, 50],
                "area": 2500,
            }
            | {"iscrowd": 0}
            for k in range(classes)
            for i in range(10)
        ],
    }
    detections = [
        {"image_id": i, "category_id": k + 1, "bbox": [10, 10, 50, 50], "score": 0.9}
        for k in range(classes)
        for i in range(10)
        if found(k, i)
    ]
    return evaluate_detections(truth, detections)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def is_picture(path):
    image = cv2.imread(str(path))
    return image is not None and min(image.shape[:2]) > 300 and image.std() > 5


# ------------------------------------------------------------------------------------- precision, recall


def test_precision_recall_shows_mean_and_the_extremes(tmp_path):
    figure = precision_recall_figure(evaluate(9))
    mean, classes = figure.axes
    assert [label.split("  ")[1] for label in legend(mean)] == ["IoU 0.50", "IoU 0.75", "IoU .50 to .95"]
    assert [label.split("  ")[1] for label in legend(classes)] == [f"class {k}" for k in (0, 1, 2, 6, 7, 8)]
    assert "3 best and 3 worst of 9 classes at IoU 0.50" in classes.get_title(loc="left")
    assert {(a.get_xlabel(), a.get_ylabel()) for a in figure.axes} == {("recall", "precision")}


def test_area_under_a_curve_is_the_ap_of_its_legend():
    metrics = evaluate(9)
    mean, classes = precision_recall_figure(metrics).axes
    for line, expected in zip(mean.lines, (metrics.map50, metrics.map75, metrics.map), strict=True):
        assert line.get_label().startswith(f"{expected:.3f}")
        assert np.mean(line.get_ydata()) == pytest.approx(expected)
    worst = classes.lines[-1]
    assert worst.get_label() == f"{metrics.per_class[8].ap50:.3f}  class 8" and worst.get_linestyle() == "--"
    assert worst.get_xdata()[np.array(worst.get_ydata()) > 0].max() == pytest.approx(0.2)  # 2 of 10 found


@pytest.mark.parametrize("classes", [1, 6])
def test_few_classes_are_all_shown_once(classes):
    _, right = precision_recall_figure(evaluate(classes)).axes
    assert len(right.lines) == classes and "Each class" in right.get_title(loc="left")


def test_nothing_found_and_nothing_to_find(tmp_path):
    nothing_found = precision_recall_figure(evaluate(2, found=lambda k, i: False))
    assert legend(nothing_found.axes[0])[0].startswith("0.000")
    truth = {"images": [{"id": 1, "width": 9, "height": 9}], "categories": [{"id": 1, "name": "a"}]}
    empty = precision_recall_figure(evaluate_detections(truth | {"annotations": []}, []))
    assert all(not axes.lines and axes.get_legend() is None for axes in empty.axes)
    assert "no objects" in empty.axes[0].texts[-1].get_text()


def test_odd_class_names_are_drawn(tmp_path, recwarn):
    metrics = evaluate(4)
    names = ["_hidden", "$a$ \\frac", "牡丹", "x" * 300]
    for row, name in zip(metrics.per_class, names, strict=True):
        object.__setattr__(row, "name", name)
    assert is_picture(plot_precision_recall(metrics, tmp_path / "curves.png"))
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
    labels = legend(precision_recall_figure(metrics).axes[1])
    assert len(labels) == 4 and max(map(len, labels)) < 40


# ---------------------------------------------------------------------------------------------- classes


def test_class_ap_with_its_intervals():
    metrics = evaluate(3, found=lambda k, i: i >= 2 * k)  # class k misses 2 k of 10
    intervals = bootstrap_detection(metrics.matches)
    (axes,) = class_ap_figure(metrics, intervals).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["class 0", "class 1", "class 2"]
    bars, dots = axes.lines[::2], axes.lines[1::2]
    for k, (bar, dot) in enumerate(zip(bars, dots, strict=True)):
        limits = intervals.per_class[k].ap
        assert list(bar.get_xdata()) == [limits.low, limits.high] and list(bar.get_ydata()) == [k, k]
        assert dot.get_xdata()[0] == metrics.per_class[k].ap
    assert any("bars: 95 % interval" in text.get_text() for text in axes.texts)


def test_class_ap_of_many_classes_and_of_none():
    metrics = evaluate(40, found=lambda k, i: k != 39 and i >= k % 10)
    (axes,) = class_ap_figure(metrics).axes
    assert len(axes.lines) == 30
    shown = [line.get_xdata()[0] for line in axes.lines]
    everything = sorted((row.ap for row in metrics.per_class), reverse=True)
    assert shown == everything[:15] + everything[-15:]
    assert any("the best and the worst of 40 classes" in text.get_text() for text in axes.texts)
    truth = {"images": [{"id": 1, "width": 9, "height": 9}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    (axes,) = class_ap_figure(evaluate_detections(truth, [])).axes
    assert not axes.lines


def test_confusion_matrix():
    counts = np.array([[6, 2, 2], [0, 0, 0], [1, 0, 0]])
    (axes,) = confusion_figure(Confusion(counts, ("rose", "$tulip"), 0.25, 0.5)).axes
    image = axes.images[0].get_array()
    assert image.tolist() == [[0.6, 0.2, 0.2], [0, 0, 0], [1, 0, 0]]
    assert {t.get_text() for t in axes.texts} == {"6", "2", "1", "score from 0.25, IoU from 0.50"}
    assert [t.get_text() for t in axes.get_yticklabels()] == ["rose", r"\$tulip", "nothing"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["rose", r"\$tulip", "missed"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("detected as", "in truth")


def test_a_large_confusion_matrix_has_no_numbers():
    (axes,) = confusion_figure(Confusion(np.ones((301, 301), int), tuple(map(str, range(300))), 0.25, 0.5)).axes
    assert len(axes.texts) == 1 and len(axes.get_yticklabels()) <= 100


# ---------------------------------------------------------------------------------------------- anchors


def test_anchors_by_hand():
    # 10 x 10 and 40 x 40 fit, 40 x 20 has IoU 0.5 with 40 x 40, 10 x 40 has 0.25 with both: the first wins.
    figure = anchors_figure([[10, 10], [40, 40], [40, 20], [10, 40]], [[10, 10], [40, 40]])
    (axes,) = figure.axes
    assert "Mean best IoU 0.688 with 2 anchors" in axes.get_title(loc="left")  # (1 + 1 + 0.5 + 0.25) / 4
    assert any("4 boxes" in t.get_text() and "75.0 %" in t.get_text() for t in axes.texts)
    dots = [c.get_offsets() for c in axes.collections]
    assert [len(points) for points in dots] == [2, 1, 2, 1]  # boxes of the first, the first, boxes of …
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_xlim() == axes.get_ylim()
    assert {"10×10", "40×40"} <= {t.get_text() for t in axes.texts}
    assert "pixels" in axes.get_xlabel() and "pixels" in axes.get_ylabel()


def test_anchors_do_not_depend_on_their_order():
    rng = np.random.default_rng(0)
    sizes, anchors = rng.uniform(5, 300, (200, 2)), rng.uniform(5, 300, (5, 2))
    a, b = (anchors_figure(sizes, order).axes[0] for order in (anchors, anchors[::-1]))
    assert a.get_title(loc="left") == b.get_title(loc="left")
    assert [len(c.get_offsets()) for c in a.collections] == [len(c.get_offsets()) for c in b.collections]


def test_many_boxes_are_thinned_but_all_counted():
    sizes = np.random.default_rng(0).uniform(5, 300, (50_000, 2))
    (axes,) = anchors_figure(sizes, [[20, 20], [100, 100]]).axes
    assert sum(len(c.get_offsets()) for c in axes.collections) == 20_000 + 2
    assert any("50000 boxes" in t.get_text() for t in axes.texts)


def test_anchors_without_boxes_and_with_impossible_ones():
    (axes,) = anchors_figure(np.zeros((0, 2)), [[8, 8]]).axes
    assert "1 anchors, no boxes" in axes.get_title(loc="left")
    (axes,) = anchors_figure([[0, 5], [np.nan, 5], [8, 8]], [[8, 8]]).axes
    assert "Mean best IoU 1.000" in axes.get_title(loc="left")
    with pytest.raises(ValueError, match=r"anchors must be at least one positive .* got \[\]"):
        anchors_figure([[1, 1]], [])
    with pytest.raises(ValueError, match=r"sizes must have shape \(N, 2\).*got \(3,\)"):
        anchors_figure([1, 2, 3], [[1, 1]])


# ---------------------------------------------------------------------------------------------- history

CSV = """\
epoch,step,seconds,lr,loss,loss_box,loss_class,map,map50
1,10,5,0.001,3.0,2.0,1.0,,
2,20,10,0.0005,2.0,1.5,0.5,0.30,0.5
3,30,15,0.0001,1.5,1.1,0.4,0.25,0.6
"""


def test_history_lines(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(CSV)
    loss, ap, rate = history_figure(read_history(path)).axes
    assert legend(loss) == ["total", "box", "class"]
    assert loss.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.5]
    assert ap.lines[0].get_xdata().tolist() == [2, 3], "epochs without a validation are left out"
    assert legend(ap) == ["mAP@[.5:.95]", "mAP@.50"]
    assert loss.get_title(loc="left") == "Best mAP@[.5:.95] 0.300 after epoch 2"
    assert [a.get_ylabel() for a in (loss, ap, rate)] == ["loss", "AP on validation", "learning rate"]
    assert rate.get_xlabel() == "epoch"


def test_history_takes_any_loss_columns_and_misses_none():
    figure = history_figure({"epoch": [1, 2], "loss": [2, 1], **{f"loss_{i}": [1, 1] for i in range(9)}})
    (loss,) = figure.axes
    assert len(loss.lines) == 10 and loss.get_title(loc="left") == "Training"


@pytest.mark.parametrize("content", ["", "epoch,loss,map\n", "epoch,loss,map\n1,nan,\n"])
def test_history_of_a_run_that_has_just_begun(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    figure = history_figure(read_history(path))
    assert not figure.axes and figure.texts[0].get_text() == "no epochs yet"
    assert plot_history(path, tmp_path / "history.png").stat().st_size > 0


def test_history_names_a_bad_cell(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss\n1,2\n2,oops\n")
    with pytest.raises(ValueError, match=r"metrics.csv, line 3, column 'loss': 'oops' is not a number"):
        read_history(path)


def test_history_survives_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,map\n1,2.5,0.1\n2,2")
    history = read_history(path)
    assert history["loss"].tolist() == [2.5, 2.0] and np.isnan(history["map"][1])


# ------------------------------------------------------------------------------------------------ files


def test_files_are_pictures(tmp_path):
    csv = tmp_path / "metrics.csv"
    csv.write_text(CSV)
    written = [
        plot_history(csv, tmp_path / "plots" / "history.png"),
        plot_precision_recall(evaluate(3), tmp_path / "plots" / "curves.png"),
        plot_anchors([[10, 20], [30, 30]], [[10, 10]], str(tmp_path / "plots" / "anchors.png")),
        plot_class_ap(evaluate(3), None, tmp_path / "plots" / "classes.png"),
        plot_confusion(Confusion(np.eye(3, dtype=int), ("牡丹", "b"), 0.3, 0.5), tmp_path / "plots" / "confusion.png"),
    ]
    assert all(isinstance(path, Path) and is_picture(path) for path in written)


def test_matplotlib_is_lazy_and_its_state_untouched(tmp_path):
    code = f"""
import sys
import detseg.report
assert "matplotlib" not in sys.modules
import matplotlib
def state():  # asking for the backend would choose one
    return {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}
before = state()
detseg.report.plot_anchors([[10, 20]], [[10, 10]], {str(tmp_path / "a.png")!r})
assert state() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
