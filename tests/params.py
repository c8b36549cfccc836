"""Parameters of tests of which `make test` takes only some."""

import pytest


def slow_but(quick, values):
    """All values; those that are not among the quick ones are marked slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
