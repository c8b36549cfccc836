"""`detseg convert`: a data set in another format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a data set in another format.

    SOURCE is whatever training takes: its format is recognised. Splits are kept. Problems are listed first: errors
    stop, with --repair they are repaired. What the format cannot hold is counted and told.

        detseg convert flowers/ --to yolo --output flowers-yolo --crowd drop
        detseg convert flowers/ --to voc --output flowers-voc --images copy
        detseg convert flowers/train.json --to coco --output divided --val-share 0.25
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Data set: a folder or file in any format that training takes."""
    to: str
    """Format to write."""
    output: Path
    """Output folder; must be new or empty, and not in SOURCE."""
    images: Literal["link", "copy", "keep"] = "link"
    """Images in OUTPUT are links (copies where there are none), copies, or left out: kept where they are."""
    source_images: Path | None = None
    """Folder of SOURCE's images, where they are not found by themselves: --images of other commands."""
    split: tuple[str, ...] = ()
    """Splits to convert, such as train val; by default all."""
    val_share: float | None = None
    """Fraction of the images that becomes val, such as 0.2, if SOURCE has no splits; the same as in training."""
    crowd: Literal["error", "drop", "keep"] = "error"
    """Crowd or difficult objects where the format cannot mark them: refuse, drop, or keep as ordinary ones."""
    repair: bool = False
    """Repair what is safe to repair in the annotations, and list it; otherwise errors stop."""


def options(name: str, words: Sequence[str]) -> type[Any]:
    """The options, with the formats that can be written in the help."""
    return with_formats(Convert, "Format to write", ...)


def with_formats(config: type[Any], text: str, default: Any) -> type[Any]:
    """A command's options, the help of --to with the names of the formats that can be written."""
    from detseg.data.formats import FORMATS

    names = sorted(format.name for format in FORMATS if format.write is not None)
    shown: Any = tyro.conf.arg(help=f"{text}: {', '.join(names)}.")
    field: Any = ("to", Annotated[str, shown]) if default is ... else ("to", Annotated[str | None, shown], default)
    kind = make_dataclass(config.__name__, [field], bases=(config,), frozen=True, kw_only=True)
    kind.__doc__, kind.__module__ = config.__doc__, config.__module__
    return kind


def run(config: Convert) -> int:
    """Read, check and write; returns the exit code.

    Raises:
        ValueError: nothing readable is there, it has errors, or it cannot be written so; the message says what to do.
    """
    from detseg.cli.crops import require_new
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, working
    from detseg.data.convert import (
        checked_splits,
        format_named,
        read_splits,
        recognise,
        require_kind,
        told,
        write_splits,
    )
    from detseg.files import new_folder

    format = format_named(config.to)
    require_new(config.output)
    require_outside(config.output, config.source)
    if config.val_share is not None and not 0 < config.val_share < 1:
        raise ValueError(f"--val-share is a share above 0 and below 1, such as 0.2, not {config.val_share}")
    if config.val_share is not None and config.split:
        raise ValueError("--val-share makes the splits train and val; leave --split out")
    console = Terminal()
    require_kind(config.source, recognise(config.source, config.source_images), format)
    with working("reading", console):
        splits = read_splits(
            config.source,
            format.gives,
            images=config.source_images,
            val_share=config.val_share,
            only=config.split,
        )
    with working("checking", console):
        splits = checked_splits(splits, repairing=config.repair, print_line=partial(print_line, console))
    with new_folder(config.output), working(f"writing {told(splits)}", console):
        write_splits(splits, config.output, format, images=config.images, crowd=config.crowd)
    where = "inside" if format.holds_images else placed(config.images)
    print_line(console, f"{config.output}: {format.title}, {told(splits)}; images {where}")
    return 0


def require_outside(output: Path, source: Path) -> None:
    """Raise ValueError if a folder is part of the set that it is made from: of class folders it would be a class."""
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{output}: lies in {source}, where it could be read as part of it; name a folder elsewhere")


def placed(images: str) -> str:
    """What was done with the images, in words."""
    return {"link": "linked", "copy": "copied", "keep": "kept where they are"}[images]
