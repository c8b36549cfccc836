"""A further schedule for a run, from where it stood on: `--resume RUN --more-epochs 10`.

`config.json` lists the extensions of a run; the last one is what a resumed run goes on with.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from detseg.files import write_atomically
from detseg.train.config import EXTENSIONS, SETTINGS


class Extension(NamedTuple):
    """Epochs or minutes to train, and where they begin."""

    epochs: int | None
    minutes: float | None
    step: int = 0  # steps done before
    seconds: float = 0.0  # and the time they took

    def __str__(self) -> str:
        return f"{self.epochs} more epochs" if self.minutes is None else f"{self.minutes:g} more minutes"


def last_extension(folder: Path) -> Extension | None:
    """The one that a run is in; None if it is in its first schedule."""
    entries = _content(folder).get(EXTENSIONS, [])
    return Extension(**entries[-1]) if entries else None


def add_extension(folder: Path, extension: Extension) -> None:
    """Add one to those of a run."""
    content = _content(folder)
    content[EXTENSIONS] = [*content.get(EXTENSIONS, []), extension._asdict()]
    write_atomically(folder / SETTINGS, json.dumps(content, indent=2) + "\n")


def _content(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
