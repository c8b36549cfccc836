"""Damaged files of every form are read, or refused by a message that names them. DETSEG_FUZZ_SEED chooses other damage.

`python -m tests.fuzz --count 2000 --seed 7` does the same with a table.
"""

import os

import pytest

from detseg.reading import FileError, reading
from tests.fuzz.harness import FAILURES, REFUSED, UNNAMED, Form, forms, run, try_reading

SEED = int(os.environ.get("DETSEG_FUZZ_SEED", "0"))
FORMS = forms()
each = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@each
def test_damaged_files_are_read_or_refused_by_name(form):
    expect_none_to_fail(form, form.quick)


@pytest.mark.slow
@each
def test_many_damaged_files_are_read_or_refused_by_name(form):
    expect_none_to_fail(form, 20_000)


def expect_none_to_fail(form, count):
    outcome = run(form, count, SEED)
    assert sum(outcome.counts.values()) == count
    failures = "\n".join(repr(str(failure))[:500] for failure in outcome.failures[:20])
    assert not sum(outcome.counts[column] for column in FAILURES), failures


def test_the_name_of_the_folder_is_not_that_of_the_file(tmp_path):
    def read(raised):
        with reading(tmp_path):
            raise raised

    def judged(raised):
        return try_reading(Form("one", lambda folder: [], lambda folder: read(raised)), tmp_path, "a.csv")[0]

    assert judged(IndexError("list index out of range")) == UNNAMED
    assert judged(IndexError("a.csv: list index out of range")) == REFUSED
    assert judged(FileError(f"{tmp_path}: holds no images")) == REFUSED
