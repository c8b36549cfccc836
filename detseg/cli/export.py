"""`detseg export`: write a trained model for engines without detseg."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Export:
    """Write the model of a run in another program's form.

        detseg export runs/detector-1 --format NAME --output flowers.NAME

    The formats are those that are registered; `detseg export RUN --format ?` lists them.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run."""
    format: str
    """Exporter, by name."""
    output: Path | None = None
    """File to write; by default model.FORMAT in the run folder."""


def run(config: Export) -> int:
    """Export as `config` says; returns the exit code.

    Raises:
        ValueError: there is no model in the folder, or no such exporter.
    """
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line
    from detseg.export import export

    path = export(config.run, config.format, config.output)
    print_line(Terminal(), f"{config.format}: {path}")
    return 0
