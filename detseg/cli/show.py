"""`detseg show`: what a data set looks like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Show:
    """Draw a data set: images with boxes, masks or classes; plots of classes, sizes and positions; tables.

    OUTPUT receives a sheet of images for each split, the plots, and index.html, one page with all of them. Nothing is
    checked or changed.

        detseg show flowers/
        detseg show flowers/ --split val --images 40 --output drawn
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Data set: a folder or file in any format that training takes."""
    output: Path | None = None
    """Output folder; by default runs/show-NAME. Only files of earlier calls are overwritten."""
    images: int = 16
    """Number of images to draw of each split."""
    split: tuple[str, ...] = ()
    """Splits to show, such as train val; by default all."""
    source_images: Path | None = None
    """Folder of SOURCE's images, where they are not found by themselves: --images of other commands."""
    seed: int = 0
    """Random seed of the choice of images."""


def run(config: Show) -> int:
    """Count, draw and print; returns the exit code.

    Raises:
        ValueError: nothing readable is there; the message says what was looked for.
    """
    from detseg.cli.crops import own_folder
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, track, working
    from detseg.data.convert import read_splits, recognise
    from detseg.report.pages.data import DataPage

    if config.images < 1:
        raise ValueError(f"--images must be at least 1, it is {config.images}")
    console = Terminal()
    with working("reading", console):
        gives = recognise(config.source, config.source_images).gives
        splits = read_splits(config.source, gives, images=config.source_images, only=config.split)
    name = config.source.resolve().name
    page = DataPage(splits, name, track=partial(track, what="reading masks", console=console))
    folder = config.output or Path("runs") / f"show-{Path(name).stem}"
    with own_folder(folder), working("drawing", console):
        drawn = page.write(folder, images=config.images, seed=config.seed)
    console.print(page.table())
    problems = [problem for data in splits.values() for problem in data.read_problems]
    if problems:
        print_line(console, f"{len(problems)} problems were found while reading, the first: {problems[0]}")
    names = ", ".join(path.name for _, path in drawn[1:])
    print_line(console, f"{drawn[0][1]}: the page; beside it {names}")
    return 0
