"""Options as they are typed: beside their own names those that other toolkits have made familiar."""

from collections.abc import Mapping
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from detseg.options import option

# What options are called elsewhere; every command that has one takes both names.
KNOWN_ELSEWHERE = {
    "size": "--imgsz",
    "batch_size": "--batch",
    "score_threshold": "--conf",
    "iou_threshold": "--iou",
    "max_detections": "--max-det",
}
FROM_FILE = "config"
"""What the option that names a file of options is called."""


def as_typed(kind: type[Any]) -> type[Any]:
    """A command's dataclass with the names of `KNOWN_ELSEWHERE` and with --config, for `tyro.cli`."""
    hints = get_type_hints(kind, include_extras=True)
    more: list[Any] = []
    for one in fields(kind):
        if one.name in KNOWN_ELSEWHERE:
            # The other way round, for tyro shows what it takes for the alias first.
            also: Any = tyro.conf.arg(name=KNOWN_ELSEWHERE[one.name][2:], aliases=(option(one.name),))
            default = field() if one.default is MISSING else field(default=one.default)
            more.append((one.name, Annotated[hints[one.name], also], default))
    runs = ", or from the config.json of a run" if "resume" in hints else ""
    about: Any = tyro.conf.arg(
        help=f"Read options from a YAML file, in lines of `name: value`{runs}; those on the command line win."
    )
    more.append((FROM_FILE, Annotated[Path | None, about], field(default=None)))
    result = make_dataclass(kind.__name__, more, bases=(kind,), frozen=True, kw_only=True)
    result.__doc__, result.__module__ = kind.__doc__, kind.__module__
    return result


def option_names(kind: type[Any]) -> Mapping[str, str]:
    """The field that each name of an option means, in small letters with underscores; positional ones are left out."""
    names: dict[str, str] = {}
    hints = get_type_hints(kind, include_extras=True)
    for name in (one.name for one in fields(kind)):
        extras = getattr(hints[name], "__metadata__", ())
        if tyro.conf.Positional in extras:
            continue
        aliases = [alias for extra in extras for alias in getattr(extra, "aliases", None) or ()]
        aliases += [KNOWN_ELSEWHERE[name]] if name in KNOWN_ELSEWHERE else []
        names |= {plain_name(alias): name for alias in (name, *aliases)}
    return names


def plain_name(word: str) -> str:
    """``batch_size`` of ``--batch-size`` and ``--batch-size=8``."""
    return word.partition("=")[0].lstrip("-").replace("-", "_")
