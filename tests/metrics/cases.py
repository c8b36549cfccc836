"""Tests that go through a table of cases: a failure names the case."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def case(*values: object) -> Iterator[None]:
    """Whatever fails inside says which case it was."""
    try:
        yield
    except BaseException as error:  # pytest.raises fails with one
        error.add_note("case: " + ", ".join(f"{value!r:.200}" for value in values))
        raise
