"""What `detseg predict` makes of a classifier: the likeliest classes of each picture, told and written to a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import track

from detseg.cli.predict import Predict
from detseg.cli.predictions import BATCH
from detseg.data.images import read_image
from detseg.data.readers.files import write_atomically
from detseg.predict import Classification, PictureClassifier

if TYPE_CHECKING:
    from rich.console import Console

TOLD, WRITTEN = 3, 5
# What rounds to nothing is not told.
LEAST = 0.005


def write_classes(model: PictureClassifier, pictures: Sequence[Path], config: Predict, console: Console) -> None:
    """Tell the classes of each picture and write `classes.csv`: a row for each picture and class, the likeliest first.

    Raises:
        ValueError: a picture cannot be read; those before it are told.
    """
    config.output.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("picture", "rank", "class", "category_id", "score"))
    shown = track(pictures, "predicting", console=console, transient=True, disable=not console.is_terminal)
    images = (read_image(str(picture)) for picture in pictures)
    for picture, seen in zip(shown, model.stream(images, BATCH, config.ten_crop), strict=True):
        console.print(f"{picture}: {_told(seen, model.names)}", markup=False, highlight=False, soft_wrap=True)
        best = zip(seen.labels[:WRITTEN].tolist(), seen.scores[:WRITTEN].tolist(), strict=True)
        for rank, (label, score) in enumerate(best, 1):
            number, name = model.categories[label]
            table.writerow((picture, rank, name, number, f"{score:.5f}"))
    path = config.output / "classes.csv"
    write_atomically(path, text.getvalue())
    console.print(f"the likeliest classes of each are in {path}", markup=False, highlight=False, soft_wrap=True)


def _told(seen: Classification, names: Sequence[str]) -> str:
    ranked = [(names[label], float(score)) for label, score in zip(seen.labels, seen.scores, strict=True)][:TOLD]
    return ", ".join(f"{name} {100 * score:.0f} %" for i, (name, score) in enumerate(ranked) if not i or score >= LEAST)
