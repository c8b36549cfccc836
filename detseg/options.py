"""Settings as the command line calls them, for messages."""

import re
from collections.abc import Iterable
from dataclasses import fields
from itertools import pairwise
from typing import Any


def option(name: str) -> str:
    """What a setting is called on the command line: ``--batch-size`` for ``batch_size``."""
    return "--" + name.replace("_", "-")


def as_entries(message: str) -> str:
    """A message on options for whoever has set them in a file: ``batch_size`` for ``--batch-size``."""
    return re.sub(r"--([a-z][a-z-]*)", lambda match: match[1].replace("-", "_"), message)


def device_of(text: str) -> str:
    """What torch calls a device: "cuda:1" for "1", anything else as it is.

    Raises:
        ValueError: these are several, such as "0,1".
    """
    if "," in text:
        raise ValueError(f"--device {text}: name one device, such as {text.split(',')[0].strip() or 'auto'}")
    return f"cuda:{int(text)}" if text.isascii() and text.isdigit() else text


def given(config: Any, names: Iterable[str]) -> list[str]:
    """Those of the settings `names` of a dataclass that differ from their default, as options."""
    default = {field.name: field.default for field in fields(config)}
    return [option(name) for name in names if getattr(config, name) != default[name]]


def require_positive(config: Any, *names: str) -> None:
    """Raise ValueError where one of these settings is there and not positive."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{option(name)} must be positive, not {value}")


def require_share(config: Any, *names: str, below: bool = False) -> None:
    """Raise ValueError where one of these settings is there and no share from 0 to 1, or `below` 1."""
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if not 0 <= value <= 1 or (below and value == 1):
            span = "of at least 0 and below 1" if below else "between 0 and 1"
            raise ValueError(f"{option(name)} is a share {span}, not {value}")


def check_score_threshold(value: float) -> None:
    """Raise ValueError unless this is a number from 0 to 1, which NaN and texts are not."""
    try:
        fine = 0 <= value <= 1
    except TypeError:
        fine = False
    if not fine:
        raise ValueError(f"the score threshold must be a number from 0 to 1, got {value!r}")


def require_rising_strides(strides: tuple[int, ...]) -> None:
    """Raise ValueError where --strides are not positive and rising."""
    if not strides or strides[0] < 1 or any(a >= b for a, b in pairwise(strides)):
        good = " ".join(map(str, sorted({stride for stride in strides if stride > 0}) or (8, 16, 32)))
        raise ValueError(
            f"--strides are positive and rise, the finest first, not {' '.join(map(str, strides))}; {good} do"
        )
