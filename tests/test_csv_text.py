"""CSV tables: no text in them is a formula, an order to a terminal or a second row."""

import csv
import io

import pytest

from detseg.csv_text import cell, csv_text, read_cell


def test_texts_that_a_spreadsheet_would_run():
    for text in ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "＝1", "=", "'=1", "''=1"):
        written = cell(text)
        assert written == "'" + text and read_cell(written) == text


@pytest.mark.parametrize("text", ["rose", "", "-1.5", "+3", "-inf", "-1e-3", "'rose'", "'", "a=b", "1+1", "''", "'-5"])
def test_other_texts_stay(text):
    assert cell(text) == text == read_cell(text)


def test_numbers_and_nothing_stay():
    assert [cell(value) for value in (-1, -2.5, None, True)] == [-1, -2.5, None, True]


def test_orders_are_shown():
    assert cell("\x1b[31mred") == r"\x1b[31mred"
    assert cell("\t=1") == r"\t=1" and cell("\r=1") == r"\r=1" and cell("a\nb") == r"a\nb"
    assert cell("caf\udce9.jpg") == r"caf\xe9.jpg"
    assert cell("\u202e=1") == r"\u202e=1"


def test_a_table_reads_back():
    names = ["=1", 'a"b', "a,b", "Gänse", "'=x", "-", ""]
    text = csv_text([("name", "score"), *((name, -0.5) for name in names)])
    assert "\r" not in text and text.encode()
    rows = list(csv.reader(io.StringIO(text)))
    assert [read_cell(row[0]) for row in rows[1:]] == names and {row[1] for row in rows[1:]} == {"-0.5"}
