"""The page of a run: complete, escaped, nothing from the network, forgiving about missing pictures."""

import json
import logging
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from detseg.metrics import evaluate_detections
from detseg.metrics.detection.analysis import analyse
from detseg.report import write_report

EVIL = "<b>\"rose\" & 'co'</b><script>alert(1)</script>"


class Page(HTMLParser):
    """Tags with their attributes, and the table cells by row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.open, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)
        if self.rows and any(tag in ("td", "th") for tag in self.open):
            self.rows[-1][-1] += data


def sides(names=("daisy", EVIL, "tulip")):
    """Ground truth and detections: the first class half found, the second wholly, the third has no objects."""
    objects = [(1, 1), (2, 1), (1, 2)]  # image, category
    truth = {
        "images": [{"id": i, "width": 100, "height": 100} for i in (1, 2)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": [5, 5, 50, 50], "area": 2500, "iscrowd": 0}
            for n, (i, k) in enumerate(objects, start=1)
        ],
    }
    found = [
        {"image_id": i, "category_id": k, "bbox": [5, 5, 50, 50], "score": 0.9} for i, k in (objects[0], objects[2])
    ]
    return truth, found


def metrics(names=("daisy", EVIL, "tulip")):
    return evaluate_detections(*sides(names))


def write(folder, **changes):
    arguments = {"title": "A run", "summary": {}, "metrics": None, "pictures": []} | changes
    path = write_report(folder, **arguments)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def picture(path, width=60, height=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 100, np.uint8))


def test_figures_and_classes(tmp_path):
    found = metrics()
    _, page = write(tmp_path, metrics=found)
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["AP IoU .50 to .95"] == [f"{found.map:.3f}"]
    assert rows["AP small objects to 32² pixels"] == ["–"], "no small objects: a dash, not -1 or NaN"
    assert sum(row[0].startswith(("AP", "AR")) for row in page.rows) == len(found.figures()) == 12
    start = page.rows.index(["Class", "AP", "AP50", "AR 100", "Objects", "Pictures"])
    classes = page.rows[start + 1 : start + 4]
    assert [row[0] for row in classes] == [EVIL, "daisy", "tulip"], "best first, without objects last"
    assert classes[0] == [EVIL, "1.000", "1.000", "1.000", "1", "1"]
    assert classes[1][3:] == ["0.500", "2", "2"]
    assert classes[2] == ["tulip", "–", "–", "–", "0", "0"]


def test_the_analysis_is_shown(tmp_path):
    found = analyse(*sides())
    _, page = write(tmp_path, metrics=found.metrics, analysis=found)
    rows = {row[0]: row[1:] for row in page.rows}
    limits = found.intervals.figures["AP"]
    assert limits.low < found.metrics.map < limits.high
    ranges = f"{limits.low:.3f} to {limits.high:.3f}"
    assert rows["AP IoU .50 to .95"] == [f"{found.metrics.map:.3f}", ranges]
    assert rows["AR 10 with 10"][1] == ""
    assert ranges in page.text, "beside the large number too"
    daisy = found.intervals.per_class[0].ap.low, found.intervals.per_class[0].ap.high
    start = page.rows.index(["Class", "AP", "From", "To", "AP50", "AR 100", "Best score", "F1", "Objects", "Pictures"])
    best, half, nothing = page.rows[start + 1 : start + 4]
    assert best == [EVIL, "1.000", "–", "–", "1.000", "1.000", "0.900", "1.000", "1", "1"], "one picture: no interval"
    assert half[0] == "daisy" and half[2:4] == [f"{v:.3f}" for v in daisy] and half[6:8] == ["0.900", "0.667"]
    assert nothing == ["tulip", *["–"] * 7, "0", "0"]
    start = page.rows.index(["Error", "Gain", "Number"])
    assert page.rows[start + 1] == ["missed objects with nothing near", f"{1 - found.errors.ap:.3f}", "1"]
    assert [row[0].split()[0] for row in page.rows[start + 7 : start + 9]] == ["false", "false"]
    assert "Ranges are 95 % intervals" in "".join(page.text)
    assert not page.open


def test_an_analysis_without_intervals(tmp_path):
    found = analyse(*sides(), resamples=0)
    _, page = write(tmp_path, metrics=found.metrics, analysis=found)
    assert ["Class", "AP", "AP50", "AR 100", "Best score", "F1", "Objects", "Pictures"] in page.rows
    assert "Ranges are" not in "".join(page.text)


def test_everything_is_escaped(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({EVIL: EVIL}))
    picture(tmp_path / "a.png")
    text, page = write(
        tmp_path,
        title=EVIL,
        summary={EVIL: EVIL},
        metrics=metrics(),
        pictures=[(EVIL, "a.png"), (EVIL, "none.png")],
    )
    assert "<b>" not in text.split("</header>")[1] and "alert(1)</script>" not in text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert text.count("&lt;script&gt;") >= 8
    assert not page.open, "all tags are closed"


def test_nothing_comes_from_the_network(tmp_path):
    picture(tmp_path / "a.png")
    text, page = write(tmp_path, metrics=metrics(), pictures=[("a", "a.png")])
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    links = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href")]
    assert links == ["a.png", "a.png"]
    assert "prefers-color-scheme: dark" in text
    assert any(tag == "meta" and attributes.get("name") == "viewport" for tag, attributes in page.tags)


def test_links_are_quoted_and_sizes_given(tmp_path):
    picture(tmp_path / "plots" / "a b#1 é.png", 60, 40)
    picture(tmp_path / "sheet.png", 1400, 300)
    _, page = write(tmp_path, pictures=[("odd", "plots/a b#1 é.png"), ("sheet", "sheet.png")])
    first, second = (attributes for tag, attributes in page.tags if tag == "img")
    assert first["src"] == "plots/a%20b%231%20%C3%A9.png" and (first["width"], first["height"]) == (
        "60",
        "40",
    )
    assert first["alt"] == "odd" and second["src"] == "sheet.png"
    assert [attributes.get("class") for tag, attributes in page.tags if tag == "figure"] == [None, "wide"]


def test_a_missing_picture_is_named_not_fatal(tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        text, page = write(tmp_path, pictures=[("gone", "gone.png"), ("broken", "broken.png")])
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert text.count("This picture was not written.") == 2
    assert "gone.png" in caplog.text and "broken.png" in caplog.text


@pytest.mark.parametrize("path", ["/tmp/a.png", "../a.png", "x/../../a.png", "C:\\a.png"])
def test_pictures_lie_in_the_run_folder(tmp_path, path):
    with pytest.raises(ValueError, match="must be a path inside the run folder"):
        write(tmp_path, pictures=[("a", path)])


def test_configuration_is_shown_flat(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "size": 320,
                "optim": {"lr": 0.001, "name": "adamw"},
                "anchors": [[1, 2]],
                "ema": True,
                "resume": None,
            }
        )
    )
    _, page = write(tmp_path)
    assert page.rows == [
        ["size", "320"],
        ["optim.lr", "0.001"],
        ["optim.name", "adamw"],
        ["anchors", "1, 2"],
        ["ema", "yes"],
        ["resume", "–"],
    ]


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_bare_report(tmp_path, content, caplog):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    text, page = write(tmp_path / "new" if content is None else tmp_path)
    assert "Classes" not in text and "COCO" not in text.split("Use the model")[0] and not page.open
    assert ("configuration left out" in caplog.text) == (content == "{")


def test_usage_names_the_run(tmp_path):
    folder = tmp_path / 'my "runs"'
    _, page = write(folder)
    text = "".join(page.text)
    assert f"detseg predict '{folder}' picture.jpg" in text
    snippet = next(part for part in page.text if "detseg.load" in part)
    compile(snippet, "snippet", "exec")
    assert json.dumps(str(folder)) in snippet


def test_summary_keeps_its_order_and_writes_values_plainly(tmp_path):
    _, page = write(tmp_path, summary={"b": 1.5, "a": [1, 2], "c": {"x": False}, "d": None})
    assert page.rows == [["b", "1.5"], ["a", "1, 2"], ["c", "x: no"], ["d", "–"]]
