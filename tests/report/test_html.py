"""The page of a run: complete, escaped, nothing from the network, forgiving about missing pictures."""

import json
import logging
import math
import re

import cv2
import numpy as np
import pytest

from detseg.report.columns import Column, whole
from detseg.report.pages.html import ClassTable, Table, write_page
from detseg.report.pages.html import Page as Content
from tests.report.reading import Page
from tests.report.runs import EVIL

CLASSES = ClassTable(
    ["daisy", EVIL, "tulip"],
    [
        Column("AP", [0.5, 1.0, math.nan]),
        Column("from", [0.25, math.nan, math.nan]),
        Column("images", [2, 1, 0], whole),
    ],
)
SNIPPET = "import detseg\nmodel = detseg.load({run})\n"


def write(folder, **changes):
    content = {"title": "A run", "summary": {}, "pictures": [], "predicts": "draws", "snippet": SNIPPET} | changes
    path = write_page(folder, Content(**content))
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def picture(path, width=60, height=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 100, np.uint8))


def test_classes_are_sorted_by_their_first_figure(tmp_path):
    _, page = write(tmp_path, classes=CLASSES)
    assert page.rows == [
        ["Class", "AP", "From", "Images"],
        [EVIL, "1.000", "–", "1"],
        ["daisy", "0.500", "0.250", "2"],
        ["tulip", "–", "–", "0"],
    ]
    values = [attributes["data-value"] for tag, attributes in page.tags if tag == "td"]
    assert values == ["1.0", "-1.0", "1", "0.5", "0.25", "2", "-1.0", "-1.0", "0"]


def test_everything_is_escaped(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({EVIL: EVIL}))
    picture(tmp_path / "a.png")
    text, page = write(
        tmp_path,
        title=EVIL,
        summary={EVIL: EVIL},
        cards=[(EVIL, EVIL, EVIL)],
        figures=Table(EVIL, [(EVIL, EVIL, [EVIL])], note=EVIL),
        classes=CLASSES,
        tables=[Table(EVIL, [(EVIL, EVIL, [EVIL])], [EVIL, EVIL], EVIL)],
        pictures=[(EVIL, "a.png"), (EVIL, "none.png")],
    )
    assert "<b>" not in text.split("</header>")[1] and "alert(1)</script>" not in text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert text.count("&lt;script&gt;") >= 16
    assert not page.open, "all tags are closed"


def test_nothing_comes_from_the_network(tmp_path):
    picture(tmp_path / "a.png")
    text, page = write(tmp_path, classes=CLASSES, pictures=[("a", "a.png")])
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


def test_pictures_lie_in_the_run_folder(tmp_path):
    for path in ("/tmp/a.png", "../a.png", "x/../../a.png", "C:\\a.png"):
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


def test_bare_report(tmp_path, caplog):
    for place, content in enumerate((None, "{", "{}", "[]")):
        caplog.clear()
        folder = tmp_path / f"{place}"
        if content is not None:
            folder.mkdir()
            (folder / "config.json").write_text(content)
        text, page = write(folder)
        assert "Classes" not in text and not page.open, content
        assert ("configuration left out" in caplog.text) == (content == "{"), content


def test_usage_names_the_run(tmp_path):
    folder = tmp_path / 'my "runs"'
    _, page = write(folder)
    text = "".join(page.text)
    assert f"detseg predict '{folder}' image.jpg" in text
    snippet = next(part for part in page.text if "detseg.load" in part)
    compile(snippet, "snippet", "exec")
    assert json.dumps(str(folder)) in snippet


def test_summary_keeps_its_order_and_writes_values_plainly(tmp_path):
    _, page = write(tmp_path, summary={"b": 1.5, "a": [1, 2], "c": {"x": False}, "d": None})
    assert page.rows == [["b", "1.5"], ["a", "1, 2"], ["c", "x: no"], ["d", "–"]]
