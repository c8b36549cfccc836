"""`detseg train`: train a model and show how good it is."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.tasks import part


def options(name: str, words: Sequence[str]) -> type[Any]:
    """The options of ``train TASK``, with those of the model that the words ask for."""
    from detseg.train.config import config_for

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model", nargs="?")
    known, _ = parser.parse_known_args(list(words))
    try:
        return config_for(name.split()[1], known.model)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


def run(config: Any) -> int:
    """Train, then show the table, where the pictures are, and what to do next; or how to go on after a stop."""
    from rich.console import Console

    from detseg.console import print_line
    from detseg.train.runner import Run, train

    def draw(run: Run) -> Mapping[str, Path]:
        return part(run.task.name, "page")(run).draw_training()

    console = Console()
    run = train(config, console, draw=draw)
    folder = shlex.quote(str(run.folder))
    if run.interrupted:
        if run.main:
            print_line(console, f"interrupted; go on with: detseg train {config.task} --resume {folder}")
        return 130
    if run.metrics is not None:
        page = part(config.task, "page")(run)
        pictures = page.write()
        console.print(page.table())
        for caption, path in pictures:
            print_line(console, f"{caption}: {path}")
        print_line(console, f"use it: detseg predict {folder} image.jpg")
    return 0
