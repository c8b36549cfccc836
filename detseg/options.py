"""Settings as the command line calls them, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any


def option(name: str) -> str:
    """What a setting is called on the command line: ``--batch-size`` for ``batch_size``."""
    return "--" + name.replace("_", "-")


def given(config: Any, names: Iterable[str]) -> list[str]:
    """Those of the settings `names` of a dataclass that differ from their default, as options."""
    default = {field.name: field.default for field in fields(config)}
    return [option(name) for name in names if getattr(config, name) != default[name]]
