"""The page of a segmenter's run, and curves of any figures."""

import numpy as np
import pytest

from detseg.metrics import evaluate_segmentation
from detseg.metrics.bootstrap.segmentation import bootstrap_segmentation
from detseg.report.pages.segmenter_page import write_segmenter_report
from detseg.report.plots.detection import history_figure
from tests.report.test_html import EVIL, Page


def metrics(boundary=True):
    """Three pictures of background and a class that is found worse and worse; the third class is nowhere."""
    truth = np.zeros((3, 20, 20), np.uint8)
    truth[:, 5:15, 5:15] = 1
    found = truth.copy()
    for i in range(3):
        found[i, 5 : 5 + 2 * i] = 0
    return evaluate_segmentation(truth, found, ["background", EVIL, "tulip"], boundary=boundary)


def write(folder, found, intervals=None):
    path = write_segmenter_report(
        folder, title="Segmenter", summary={}, metrics=found, pictures=[], intervals=intervals
    )
    return Page(path.read_text(encoding="utf-8"))


def test_figures_and_classes_of_masks(tmp_path):
    found = metrics()
    intervals = bootstrap_segmentation(found, resamples=50)
    page = write(tmp_path, found, intervals)
    rows = {row[0]: row[1:] for row in page.rows}
    limits = intervals.figures["miou"]
    told = [f"{found.miou:.3f}", f"{limits.low:.3f} to {limits.high:.3f}"]
    assert rows["mIoU mean IoU of the classes"] == told
    assert told[1] in page.text, "beside the large number too"
    start = page.rows.index(
        ["Class", "IoU", "From", "To", "Dice", "Recall", "Precision", "Boundary IoU", "Pixels", "Pictures"]
    )
    background, rose, tulip = page.rows[start + 1 : start + 4]
    assert (background[0], rose[0], tulip[0]) == ("background", EVIL, "tulip"), "best first, absent ones last"
    assert rose[1] == f"{240 / 300:.3f}"
    assert rose[-2:] == ["300", "3"]
    assert tulip == ["tulip", *["–"] * 7, "0", "0"]
    assert not page.open, "all tags are closed"
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
    assert "Ranges are 95 % intervals" in "".join(page.text)
    compile(next(part for part in page.text if "detseg.load" in part), "snippet", "exec")


def test_without_intervals_and_boundaries(tmp_path):
    page = write(tmp_path, metrics(boundary=False))
    assert [row[0].split()[0] for row in page.rows[:5]] == ["mIoU", "pixel", "mean", "frequency-weighted", "Dice"]
    assert "Ranges are" not in "".join(page.text)
    assert ["Class", "IoU", "Dice", "Recall", "Precision", "Boundary IoU", "Pixels", "Pictures"] in page.rows


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("figures", "names", "title"),
    [
        ({"miou": [0.2, 0.6], "pixel_accuracy": [0.7, 0.9]}, ["mIoU", "pixel accuracy"], "mIoU 0.600"),
        ({"top1": [0.5, 0.4], "top5": [0.9, 0.9]}, ["accuracy", "top-5 accuracy"], "accuracy 0.500"),
    ],
)
def test_curves_of_the_figures_of_any_task(figures, names, title):
    history = {"epoch": [1, 2], "step": [3, 6], "seconds": [1, 2], "lr": [1, 1], "loss": [2, 1], "loss_ce": [2, 1]}
    loss, judged, _ = history_figure(history | figures).axes
    assert len(loss.lines) == 1, "a single part is the total"
    assert labels(judged) == names
    assert judged.get_ylabel() == "on validation"
    assert loss.get_title(loc="left").startswith(f"Best {title}")
