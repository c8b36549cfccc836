"""Tables and plots of segmentation: what stands where, that they fit, that files are pictures."""

import math

import cv2
import numpy as np
import pytest
from rich.console import Console

from detseg.metrics import bootstrap_segmentation, evaluate_segmentation
from detseg.report.plots.segmentation import (
    class_iou_figure,
    pixel_confusion_figure,
    plot_class_iou,
    plot_pixel_confusion,
)
from detseg.report.segmentation_tables import (
    MEANINGS,
    pixel_confusion_table,
    segmentation_class_table,
    segmentation_figures_table,
    segmentation_tables,
)
from tests.metrics.label_scenes import label_scene

NAMES = ["sky", "grass", "flower", "path", "nowhere"]


def printed(renderable, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def rows_of(text, bar="│"):
    lines = [line for line in text.splitlines() if line.startswith(bar)]
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip(bar).split(bar)] for line in lines)}


def cells_of(text):
    """Rows of a table without lines between its columns, by their first two words."""
    return {" ".join(line.split()[:2]): line.split()[2:] for line in text.splitlines() if line.strip()}


@pytest.fixture(scope="module")
def metrics():
    predictions, targets = label_scene(0, images=8)
    return evaluate_segmentation(targets, predictions, NAMES)


@pytest.fixture(scope="module")
def intervals(metrics):
    return bootstrap_segmentation(metrics)


def many_classes(classes):
    rng = np.random.default_rng(0)
    target = rng.integers(0, classes, (300, 300))
    found = np.where(rng.random(target.shape) < 0.5 + 0.4 * target / classes, target, (target + 1) % classes)
    return evaluate_segmentation([target], [found], [f"class {k}" for k in range(classes)], boundary=False)


# ------------------------------------------------------------------ tables


def test_figures_with_intervals(metrics, intervals):
    text = printed(segmentation_tables(metrics))
    rows = rows_of(text)
    assert f"pictures: 8, pixels: {metrics.confusion.sum():,}" in text and "95 % interval of IoU" in text
    for name, value in metrics.figures().items():
        limits = intervals.figures[name]
        assert rows[MEANINGS[name][0]][:3] == [f"{v:.3f}" for v in (value, limits.low, limits.high)]
    assert list(MEANINGS) == list(metrics.figures())
    row, limits = metrics.per_class[2], intervals.per_class[2]
    share = 100 * row.pixels / metrics.confusion.sum()
    figures = (row.iou, limits.low, limits.high, row.accuracy, row.boundary_iou)
    assert rows["flower"] == [f"{share:.1f} %", "8", *(f"{v:.3f}" for v in figures)]
    assert rows["nowhere"] == ["0.0 %", "0", *["–"] * 5]


def test_tables_without_intervals_and_boundary(metrics):
    assert "from" not in printed(segmentation_figures_table(metrics))
    assert len(rows_of(printed(segmentation_class_table(metrics)))["sky"]) == 5
    plain = many_classes(3)
    text = printed(segmentation_tables(plain))  # a single picture: no intervals
    assert "boundary" not in text and "from" not in text
    assert len(rows_of(text)["class 1"]) == 4


def test_confusions_in_percent(metrics):
    rows = cells_of(printed(pixel_confusion_table(metrics)))
    share = 100 * metrics.confusion[2] / metrics.confusion[2].sum()
    assert rows["3 flower"] == [*(f"{v:.1f}" for v in share[:4]), "·"]
    assert rows["5 nowhere"] == ["·"] * 5


def test_rare_confusions_are_not_shown_as_none():
    target = np.zeros((100, 100), int)
    found = target.copy()
    found[0, 0] = 1
    m = evaluate_segmentation([target], [found], ["a", "b"])
    assert cells_of(printed(pixel_confusion_table(m)))["1 a"] == ["100.0", "<0.1"]


def test_many_classes_are_listed_by_confusion():
    m = many_classes(40)
    text = printed(pixel_confusion_table(m))
    wrong = m.confusion * (1 - np.eye(40, dtype=int))
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert len(lines) == 20
    share = 100 * wrong[i, j] / m.confusion[i].sum()
    assert [c.strip() for c in lines[0].strip("│").split("│")] == [
        f"class {i}",
        f"class {j}",
        f"{wrong.max():,}",
        f"{share:.1f} %",
    ]
    assert f"{100 * wrong.sum() / m.confusion.sum():.1f} %" in text


def test_names_are_no_markup_and_tables_fit(metrics):
    target = np.zeros((9, 9), int)
    m = evaluate_segmentation([target], [target], ["[red]rose[/red]", "a class with quite a long name"])
    text = printed(segmentation_tables(m))
    assert "[red]rose[/red]" in text
    twelve = evaluate_segmentation([metrics.confusion % 2] * 2, [metrics.confusion % 2] * 2, ["traffic sign", "b"])
    assert "traffic sign │" in printed(segmentation_class_table(twelve, bootstrap_segmentation(twelve)))
    assert max(map(len, printed(segmentation_tables(metrics)).splitlines())) <= 80


# ------------------------------------------------------------------ plots


def test_class_iou_with_its_intervals(metrics, intervals):
    (axes,) = class_iou_figure(metrics, intervals).axes
    order = sorted(range(4), key=lambda k: -metrics.per_class[k].iou)
    assert [label.get_text() for label in axes.get_yticklabels()] == [NAMES[k] for k in order]
    bars, dots = axes.lines[::2], axes.lines[1::2]
    for place, k in enumerate(order):
        limits = intervals.per_class[k]
        assert list(bars[place].get_xdata()) == [limits.low, limits.high]
        assert list(np.ravel(dots[place].get_xdata())) == [metrics.per_class[k].iou]
    assert "95 % interval" in "".join(text.get_text() for text in axes.texts)


def test_pixel_confusion_is_normalised_by_row(metrics):
    (axes,) = pixel_confusion_figure(metrics).axes
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shown.sum(axis=1), [1, 1, 1, 1, 0])
    np.testing.assert_allclose(shown[1], metrics.confusion[1] / metrics.confusion[1].sum())
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[1, 1] == f"{100 * shown[1, 1]:.0f}" and (4, 4) not in texts
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted as", "in truth")


def test_files(tmp_path, metrics, intervals):
    for path in (
        plot_class_iou(metrics, intervals, tmp_path / "plots" / "iou.png"),
        plot_pixel_confusion(many_classes(60), tmp_path / "plots" / "confusion.png"),
    ):
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 300 and image.std() > 5


def test_nothing_to_judge(tmp_path):
    m = evaluate_segmentation([np.full((4, 4), 255)], [np.zeros((4, 4), int)], ["a", "b"])
    assert math.isnan(m.miou)
    assert rows_of(printed(segmentation_tables(m)))["mIoU"][0] == "–"
    plot_class_iou(m, None, tmp_path / "iou.png")
    plot_pixel_confusion(m, tmp_path / "confusion.png")
