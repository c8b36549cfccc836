"""A figure that is added to a task's list appears wherever its figures do, without any other change."""

import csv
import math

import pytest

from detseg.metrics import classification, detection, localization, segmentation
from detseg.metrics.figure import Figure
from detseg.report.pages.base import CARDS
from tests.params import slow_but
from tests.report.reading import Page, printed, rows_of
from tests.report.runs import detector, instances, pages

FIGURES = {
    "detector": detection.FIGURES,
    "segmenter": segmentation.FIGURES,
    "classifier": classification.FIGURES,
    "localizer": localization.FIGURES,
}


@pytest.fixture
def added():
    """Adds figures to a task's own list, and takes them out again at the end."""
    kept = {task: list(figures) for task, figures in FIGURES.items()}
    yield lambda task, *figures: FIGURES[task].extend(figures)
    for task, figures in FIGURES.items():
        figures[:] = kept[task]


@pytest.mark.parametrize("task", slow_but(["detector"], FIGURES))
def test_an_added_figure_is_everywhere(task, tmp_path, monkeypatch, added):
    before = FIGURES[task][0].name
    added(
        task,
        Figure("toy", "toy figure", "an eighth", lambda metrics: 0.125),
        Figure("nothing", "toy without a value", "never there", lambda metrics: math.nan),
    )
    page = pages(monkeypatch)[task](tmp_path)
    metrics = page.run.metrics
    names = list(metrics.figures())
    assert names[0] == before and names[-2:] == ["toy", "nothing"] and metrics.figures()["toy"] == 0.125
    content = metrics.to_dict()
    content = content.get("figures", content)
    assert content["toy"] == 0.125 and content["nothing"] is None, "in JSON"
    text = printed(page.table(), width=100)
    for title, value, meaning in (("toy figure", "0.125", "an eighth"), ("toy without a value", "–", "never there")):
        line = next(line for line in text.splitlines() if line.startswith(f"│ {title}"))
        assert value in line and meaning in text, "in the terminal"
    (_, report), *_ = page.write()
    rows = {row[0]: row[1] for row in Page(report.read_text(encoding="utf-8")).rows if len(row) > 1}
    assert rows["toy figure an eighth"] == "0.125" and rows["toy without a value never there"] == "–"
    assert page.run.figures["toy"] == "toy figure", "in the titles of what is logged"


def test_an_added_figure_is_beside_that_of_masks(tmp_path, added):
    added("detector", Figure("toy", "toy figure", "AP50 above 0.5", lambda metrics: metrics.map50 - 0.5))
    page = instances(tmp_path)
    metrics = page.run.metrics
    boxes, masks = (metrics.figures()[name] for name in ("toy", "mask_toy"))
    assert boxes == metrics.map50 - 0.5 and masks == metrics.masks.map50 - 0.5 and boxes != masks
    cells = rows_of(printed(page.table()))["toy figure"]
    assert f"{boxes:.3f}" in cells and f"{masks:.3f}" in cells, "in the terminal"
    rows = {title: cells for title, _, cells in page.figures_table().rows}
    assert rows["toy figure"] == [f"{boxes:.3f}", "", f"{masks:.3f}", ""], "in the report"
    assert page.run.figures["mask_toy"] == "mask toy figure", "in the titles of what is logged"


def test_a_figure_may_be_made_of_others(tmp_path, added):
    added("detector", Figure("loose", "loose boxes", "what exact boxes would gain", lambda m: m.map50 - m.map))
    metrics = detector(tmp_path).run.metrics
    assert metrics.figures()["loose"] == metrics.map50 - metrics.map


@pytest.mark.parametrize("task", FIGURES)
def test_the_first_figures_are_the_cards(task, tmp_path, monkeypatch):
    page = pages(monkeypatch)[task](tmp_path)
    (_, report), *_ = page.write()
    header = report.read_text(encoding="utf-8").split("</header>")[0]
    titles = [figure.title for figure in page.run.metrics.shown()]
    assert [title for title in titles if f"<span>{title}</span>" in header] == titles[:CARDS]


@pytest.mark.parametrize("task", FIGURES)
def test_figures_have_names_for_files_and_titles_for_people(task):
    for figure in FIGURES[task]:
        assert figure.name.isidentifier() and next(csv.reader([figure.name])) == [figure.name], figure
        assert figure.title and figure.meaning, figure
    assert len({figure.name for figure in FIGURES[task]}) == len(FIGURES[task])
