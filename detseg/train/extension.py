"""A further schedule for a run, from where it stood on: `--resume RUN --more-epochs 10`.

`config.json` lists the extensions of a run; the last one is what a resumed run goes on with.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec

from detseg.files import write_atomically
from detseg.json_text import as_declared
from detseg.train.config import EXTENSIONS, SETTINGS, read_settings

MOST = 10**12  # steps, or seconds


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Epochs or minutes to train, and where they begin."""

    epochs: Annotated[int, msgspec.Meta(ge=1, le=MOST)] | None
    minutes: Annotated[float, msgspec.Meta(gt=0, le=MOST)] | None
    step: Annotated[int, msgspec.Meta(ge=0, le=MOST)] = 0  # steps done before
    seconds: Annotated[float, msgspec.Meta(ge=0, le=MOST)] = 0.0  # and the time they took

    def __post_init__(self) -> None:
        if self.epochs is None and self.minutes is None:
            raise ValueError("epochs or minutes must be there")

    def __str__(self) -> str:
        return f"{self.epochs} more epochs" if self.minutes is None else f"{self.minutes:g} more minutes"


def last_extension(folder: Path) -> Extension | None:
    """The one that a run is in, None if it is in its first schedule; raises FileError where they cannot be read."""
    entries = _entries(read_settings(folder), folder)
    return entries[-1] if entries else None


def add_extension(folder: Path, extension: Extension) -> None:
    """Add one to those of a run."""
    content = read_settings(folder)
    content[EXTENSIONS] = msgspec.to_builtins([*_entries(content, folder), extension])
    write_atomically(folder / SETTINGS, json.dumps(content, indent=2) + "\n")


def _entries(content: dict[str, Any], folder: Path) -> list[Extension]:
    entries: list[Extension] = as_declared(
        content.get(EXTENSIONS, []), list[Extension], f"{folder / SETTINGS}: {EXTENSIONS}"
    )
    return entries
