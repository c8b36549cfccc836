"""Many cases in one test, with the one that failed named."""

from contextlib import contextmanager


@contextmanager
def case(*values):
    """Add these values to the report of what fails in the block."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case {', '.join(map(str, values))}")
        raise
