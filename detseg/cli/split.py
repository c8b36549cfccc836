"""`detseg split`: train, val and test, or folds, of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from detseg.data.base import ImageSet
    from detseg.data.convert import Found
    from detseg.data.formats import Format

SHARES = (0.8, 0.1, 0.1)
NAMES = ("train", "val", "test")
WITHOUT_IMAGES = {"objects": "coco", "labels": "tables"}  # kind of data -> a format that names images where they are


@dataclass(frozen=True, kw_only=True)
class Split:
    """Split a data set into train, val and test, or into folds, with the same share of every class in each.

    Images with the same content, and Roboflow's versions of one image, are never separated; --by keeps more together.
    A set that has splits is taken as one and split anew. The same seed gives the same splits on every machine.

        detseg split flowers/ --output flowers-split
        detseg split flowers/ --output flowers-split-2 --shares 0.75 0.25 --to yolo --crowd drop
        detseg split flowers/ --output flowers-folds --folds 5

    Frames of one video ("film1_0001.jpg", "film1_0002.jpg"), images that look alike, plants of one garden:

        detseg split frames/ --output frames-split --by prefix
        detseg split photos/ --output photos-split --by near-duplicates
        detseg split photos/ --output photos-split --by photos.csv:garden
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Data set: a folder or file in any format that training takes."""
    output: Path
    """Output folder; must be new or empty, and not in SOURCE."""
    shares: tuple[float, ...] | None = None
    """Shares of train, val and, if there are three, test; by default 0.8 0.1 0.1."""
    by: str = ""
    """Keep together: prefix (file name without its last number), near-duplicates, or FILE.csv:COLUMN (a group each)."""
    seed: int = 0
    """Random seed; another one gives other splits."""
    folds: int | None = None
    """Number of folds, in place of --shares: OUTPUT/fold-1, … with train and val; a test split is left out."""
    to: str | None = None
    """Format to write."""
    images: Literal["link", "copy", "keep"] | None = None
    """Images in OUTPUT: links, copies, or kept where they are; by default link, for folds keep if possible."""
    source_images: Path | None = None
    """Folder of SOURCE's images, where they are not found by themselves: --images of other commands."""
    crowd: Literal["error", "drop", "keep"] = "error"
    """Crowd or difficult objects where the format cannot mark them: refuse, drop, or keep as ordinary ones."""
    repair: bool = False
    """Repair what is safe to repair in the annotations, and list it; otherwise errors stop."""


def options(name: str, words: Sequence[str]) -> type[Any]:
    """The options, with the formats that can be written in the help."""
    from detseg.cli.convert import with_formats

    text = "Format to write; by default SOURCE's own, for folds one that leaves images where they are. One of"
    return with_formats(Split, text, None)


def run(config: Split) -> int:
    """Read, check, split and write; returns the exit code.

    Raises:
        ValueError: nothing readable is there, it has errors, or it cannot be split so; the message says what to do.
    """
    from detseg.cli.convert import placed, require_outside
    from detseg.cli.crops import require_new
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, track, working
    from detseg.data.convert import checked_splits, read_whole, recognise, told, write_splits
    from detseg.data.splits import folds_of, split_set
    from detseg.files import new_folder

    if config.folds is not None and config.shares is not None:
        raise ValueError("give --shares or --folds, not both")
    shares = config.shares or SHARES
    if len(shares) not in (2, 3):
        raise ValueError(f"--shares are 2 or 3 (train, val and test), not {len(shares)}")
    require_new(config.output)
    require_outside(config.output, config.source)
    console = Terminal()
    found = recognise(config.source, config.source_images)
    to = target_format(config, found)
    say = partial(print_line, console)
    with working("reading", console):
        data = read_whole(
            config.source,
            to.gives,
            images=config.source_images,
            without_test=config.folds is not None,
            print_line=say,
        )
    with working("checking", console):
        data = checked_splits({"train": data}, repairing=config.repair, print_line=say)["train"]
    rule: dict[str, Any] = {"by": config.by, "seed": config.seed}
    rule["track"] = partial(track, what="comparing images", console=console)
    # Comparing images shows a bar of its own.
    with nullcontext() if config.by == "near-duplicates" else working("splitting", console):
        if config.folds is None:
            parts = {config.output: split_set(data, dict(zip(NAMES, shares, strict=False)), **rule)}
        else:
            folds = folds_of(data, config.folds, **rule)
            parts = {config.output / f"fold-{number}": fold for number, fold in enumerate(folds, 1)}
    keep = config.folds is not None and to.name in WITHOUT_IMAGES.values()
    images = config.images or ("keep" if keep else "link")
    with new_folder(config.output):
        for folder, splits in track(parts.items(), len(parts), what="writing", console=console):
            write_splits(splits, folder, to, images=images, crowd=config.crowd)
    for folder, splits in parts.items():
        print_line(console, f"{folder}: {to.title}, {told(splits)}; images {placed(images)}")
    print_line(console, uneven(data, parts.values()))
    return 0


def target_format(config: Split, found: Found) -> Format:
    """The format to write: asked for, the source's own, or for folds one that needs no images of its own."""
    from detseg.data.convert import format_named, own_format, require_kind

    kept = WITHOUT_IMAGES.get(found.gives) if config.folds is not None else None
    if config.to is None and kept is None:
        return own_format(found)
    to = format_named(config.to or str(kept))
    require_kind(config.source, found, to)
    return to


def uneven(data: ImageSet, parts: Iterable[Mapping[str, ImageSet]]) -> str:
    """How far the images of a class are from their share, where they are farthest, in a sentence."""
    import numpy as np

    from detseg.data.splits import classes_in

    classes = len(data.categories)
    if not classes:
        return "there are no classes to split evenly"
    images, labels = classes_in(data)
    images, labels = np.divmod(np.unique(images * classes + labels), classes)
    total = np.bincount(labels, minlength=classes)
    worst = (-1.0, "")
    for split, part in (item for splits in parts for item in splits.items()):
        counts = np.bincount(labels[np.isin(data.image_ids[images], part.image_ids)], minlength=classes)
        shares = total * len(part) / len(data)
        k = int(np.abs(counts - shares).argmax())
        where = f"{data.names[k]}, {counts[k]} images of {split}, where {shares[k]:.1f} would be its share"
        worst = max(worst, (float(abs(counts[k] - shares[k])), where))
    return f"farthest from its share: {worst[1]}" if worst[0] >= 0.05 else "every class has its share of each split"
