"""What `detseg predict` makes of a classifier: the likeliest classes of each image, printed and written to a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detseg.cli.predictions import BATCH, Reader
from detseg.console import print_line, track
from detseg.files import write_atomically
from detseg.predict import Classification, ImageClassifier

if TYPE_CHECKING:
    from detseg.cli.predict import Predict

PRINTED, WRITTEN = 3, 5
# What rounds to nothing is not printed.
LEAST = 0.005


def write_classes(model: ImageClassifier, reader: Reader, config: Predict) -> None:
    """Print the classes of each image and write `classes.csv`: rows of image and class, the likeliest first."""
    config.output.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "rank", "class", "category_id", "score"))
    console = reader.console
    shown = track(reader, len(reader.images), what="predicting", console=console)
    read: list[str] = []  # some images ahead of what is found

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for position, image in shown:
            read.append(reader.names[position])
            yield image

    for index, seen in enumerate(model.stream(pixels(), BATCH, config.ten_crop)):
        image = read[index]
        print_line(console, f"{image}: {_text(seen, model.names)}")
        best = zip(seen.labels[:WRITTEN].tolist(), seen.scores[:WRITTEN].tolist(), strict=True)
        for rank, (label, score) in enumerate(best, 1):
            number, name = model.categories[label]
            table.writerow((image, rank, name, number, f"{score:.5f}"))
    path = config.output / "classes.csv"
    write_atomically(path, text.getvalue())
    print_line(console, f"the likeliest classes of each are in {path}")


def _text(seen: Classification, names: Sequence[str]) -> str:
    ranked = [(names[label], float(score)) for label, score in zip(seen.labels, seen.scores, strict=True)][:PRINTED]
    return ", ".join(f"{name} {100 * score:.0f} %" for i, (name, score) in enumerate(ranked) if not i or score >= LEAST)
