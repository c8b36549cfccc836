"""A table of mistakes in one test: `assert_named` says which line of it fails."""

import re


def assert_named(message: str, call, /, *arguments, **options) -> None:
    """The call raises a ValueError whose message the pattern is found in."""
    try:
        call(*arguments, **options)
    except ValueError as error:
        assert re.search(message, str(error)), f"expected {message!r}, got {str(error)!r}"
    else:
        raise AssertionError(f"no error where {message!r} is expected")
