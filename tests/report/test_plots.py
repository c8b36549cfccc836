"""Plots: what is in the figures, that files are pictures, that matplotlib's global state is left alone."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.metrics import bootstrap_segmentation, evaluate_detections, evaluate_segmentation
from detseg.metrics.detection.analysis import analyse
from detseg.metrics.detection.confusion import Confusion
from detseg.report.columns import Confusions
from detseg.report.plots.anchors import anchors_figure
from detseg.report.plots.classes import confusion_figure, ranked_figure
from detseg.report.plots.history import history_figure, plot_history, plot_rates, read_history
from detseg.report.plots.precision_recall import precision_recall_figure
from detseg.report.plots.style import save
from detseg.report.tables import detection, segmentation
from detseg.train.finder import RateCurve
from tests.metrics.label_scenes import label_scene

FIGURES = {"map": "mAP@[.5:.95]", "map50": "mAP@.50"}


def sides(classes, found=lambda k, i: i >= k):
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
    return truth, detections


def evaluate(classes, **options):
    return evaluate_detections(*sides(classes, **options))


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def is_picture(path):
    image = cv2.imread(str(path))
    return image is not None and min(image.shape[:2]) > 300 and image.std() > 5


# ------------------------------------------------------------------------------------- precision, recall


def test_precision_recall_shows_mean_and_the_extremes():
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


def test_few_classes_are_all_shown_once():
    for classes in (1, 6):
        _, right = precision_recall_figure(evaluate(classes)).axes
        assert len(right.lines) == classes and "Each class" in right.get_title(loc="left")


def test_nothing_found_and_nothing_to_find():
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
    assert is_picture(save(precision_recall_figure(metrics), tmp_path / "curves.png"))
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
    labels = legend(precision_recall_figure(metrics).axes[1])
    assert len(labels) == 4 and max(map(len, labels)) < 40


# ---------------------------------------------------------------------------------------------- classes


def class_ap(metrics, intervals=None):
    names = [row.name for row in metrics.per_class]
    return ranked_figure(names, detection.class_columns(metrics, intervals), 0.95).axes[0]


def test_class_figures_with_their_intervals():
    found = analyse(*sides(3, lambda k, i: i >= 2 * k))  # class k misses 2 k of 10
    predictions, targets = label_scene(0, images=8)
    names = ["sky", "grass", "flower", "path", "nowhere"]
    masks = evaluate_segmentation(targets, predictions, names)
    told = bootstrap_segmentation(masks)
    order = sorted(range(4), key=lambda k: -masks.per_class[k].iou)
    iou = ranked_figure(names, segmentation.class_columns(masks, told), 0.95).axes[0]
    for axes, title, rows in (
        (
            class_ap(found.metrics, found.intervals),
            "AP of each class",
            [(f"class {k}", found.metrics.per_class[k].ap, found.intervals.per_class[k].ap) for k in range(3)],
        ),
        (iou, "IoU of each class", [(names[k], masks.per_class[k].iou, told.per_class[k]) for k in order]),
    ):
        assert axes.get_title(loc="left") == title
        assert [label.get_text() for label in axes.get_yticklabels()] == [name for name, _, _ in rows], title
        bars, dots = axes.lines[::2], axes.lines[1::2]
        for place, ((_, value, limits), bar, dot) in enumerate(zip(rows, bars, dots, strict=True)):
            assert list(bar.get_xdata()) == [limits.low, limits.high] and list(bar.get_ydata()) == [place, place]
            assert dot.get_xdata()[0] == value, title
        assert any("bars: 95 % confidence intervals" in text.get_text() for text in axes.texts), title


def test_figures_of_many_classes_and_of_none():
    metrics = evaluate(40, found=lambda k, i: k != 39 and i >= k % 10)
    axes = class_ap(metrics)
    shown = [line.get_xdata()[0] for line in axes.lines]
    everything = sorted((row.ap for row in metrics.per_class), reverse=True)
    assert shown == everything[:15] + everything[-15:]
    assert any("the best and the worst of 40 classes" in text.get_text() for text in axes.texts)
    truth = {"images": [{"id": 1, "width": 9, "height": 9}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    assert not class_ap(evaluate_detections(truth, [])).lines


def test_confusion_matrix():
    counts = np.array([[6, 2, 2], [0, 0, 0], [1, 0, 0]])
    confusions = detection.confusions_of(Confusion(counts, ("rose", "$tulip"), 0.25, 0.5))
    (axes,) = confusion_figure(confusions).axes
    image = axes.images[0].get_array()
    assert image.tolist() == [[0.6, 0.2, 0.2], [0, 0, 0], [1, 0, 0]]
    assert {t.get_text() for t in axes.texts} == {"6", "2", "1", "score from 0.25, IoU from 0.50"}
    assert [t.get_text() for t in axes.get_yticklabels()] == ["rose", r"\$tulip", "nothing"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["rose", r"\$tulip", "missed"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("detected as", "in truth")


def test_confusion_matrix_in_percent():
    counts = np.array([[300, 100, 0], [0, 0, 0], [1, 0, 999]])
    (axes,) = confusion_figure(Confusions(counts, list("abc"), "pixels", "predicted as", percent=True)).axes
    assert np.asarray(axes.images[0].get_array()).sum(axis=1).tolist() == [1, 0, 1]
    texts = {text.get_position(): text.get_text() for text in axes.texts if len(text.get_text()) < 4}
    assert texts == {(0, 0): "75", (1, 0): "25", (2, 2): "100"}
    assert any(text.get_text() == "percent of the row" for text in axes.texts)


def test_a_large_confusion_matrix_has_no_numbers():
    confusion = Confusion(np.ones((301, 301), int), tuple(map(str, range(300))), 0.25, 0.5)
    (axes,) = confusion_figure(detection.confusions_of(confusion)).axes
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
    loss, ap, rate = history_figure(read_history(path), FIGURES).axes
    assert legend(loss) == ["total", "box", "class"]
    assert loss.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.5]
    assert ap.lines[0].get_xdata().tolist() == [2, 3], "epochs without a validation are left out"
    assert legend(ap) == ["mAP@[.5:.95]", "mAP@.50"]
    assert loss.get_title(loc="left") == "Best mAP@[.5:.95] 0.300 after epoch 2"
    assert [a.get_ylabel() for a in (loss, ap, rate)] == ["loss", "on validation", "learning rate"]
    assert rate.get_xlabel() == "epoch"


def test_history_of_any_losses_and_figures():
    (loss,) = history_figure({"epoch": [1, 2], "loss": [2, 1], **{f"loss_{i}": [1, 1] for i in range(9)}}, {}).axes
    assert len(loss.lines) == 10 and loss.get_title(loc="left") == "Training"
    history = {"epoch": [1, 2], "step": [3, 6], "seconds": [1, 2], "lr": [1, 1], "loss": [2, 1], "loss_ce": [2, 1]}
    history |= {"empty": [np.nan] * 2, "miou": [0.2, 0.6], "other": [0, 1], "accuracy": [0.7, 0.9], "third": [1, 1]}
    titles = {"gone": "G", "empty": "E", "miou": "mIoU", "accuracy": "pixel accuracy", "third": "T"}
    loss, judged, _ = history_figure(history, titles).axes
    assert len(loss.lines) == 1, "a single part is the total"
    assert legend(judged) == ["mIoU", "pixel accuracy"], "the first two with numbers"
    assert loss.get_title(loc="left") == "Best mIoU 0.600 after epoch 2"


def test_history_of_a_run_that_has_just_begun(tmp_path):
    path = tmp_path / "metrics.csv"
    for content in ("", "epoch,loss,map\n", "epoch,loss,map\n1,nan,\n"):
        path.write_text(content)
        figure = history_figure(read_history(path), FIGURES)
        assert not figure.axes and figure.texts[0].get_text() == "no epochs yet", content
        assert plot_history(path, tmp_path / "history.png", FIGURES).stat().st_size > 0


def test_history_names_a_bad_cell(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss\n1,2\n2,oops\n")
    with pytest.raises(ValueError, match=r"metrics.csv: line 3, column 'loss': 'oops' is not a number"):
        read_history(path)


def test_history_survives_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,map\n1,2.5,0.1\n2,2")
    assert read_history(path)["loss"].tolist() == [2.5]


# ------------------------------------------------------------------------------------------------ files


def test_files_are_pictures(tmp_path):
    csv, folder = tmp_path / "metrics.csv", tmp_path / "plots"
    csv.write_text(CSV)
    rates = np.geomspace(1e-5, 1, 20)
    curve = RateCurve(rates, rates[::-1], rates[::-1], 0.01)
    confusion = Confusion(np.eye(3, dtype=int), ("牡丹", "b"), 0.3, 0.5)
    written = [
        plot_history(csv, folder / "history.png", FIGURES),
        plot_rates(curve, folder / "rates.png"),
        save(precision_recall_figure(evaluate(3)), folder / "curves.png"),
        save(anchors_figure([[10, 20], [30, 30]], [[10, 10]]), str(folder / "anchors.png")),
        save(ranked_figure(list("abc"), detection.class_columns(evaluate(3)), 0.95), folder / "classes.png"),
        save(confusion_figure(detection.confusions_of(confusion)), folder / "confusion.png"),
    ]
    for path in written:
        assert isinstance(path, Path) and is_picture(path), path


@pytest.mark.slow
def test_matplotlib_is_lazy_and_its_state_untouched(tmp_path):
    code = f"""
import sys
import detseg.report.pages.detector
from detseg.report.plots.anchors import anchors_figure
from detseg.report.plots.style import save
assert "matplotlib" not in sys.modules
import matplotlib
def state():  # asking for the backend would choose one
    return {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}
before = state()
save(anchors_figure([[10, 20]], [[10, 10]]), {str(tmp_path / "a.png")!r})
assert state() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
