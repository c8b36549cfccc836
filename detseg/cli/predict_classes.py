"""What `detseg predict` makes of a classifier: the likeliest classes of each image, printed and written to a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detseg.cli.predictions import BATCH, Reader, given_only
from detseg.console import print_line, track
from detseg.csv_text import csv_text
from detseg.files import make_folder, write_atomically

if TYPE_CHECKING:
    from detseg.cli.predict import Predict

WRITTEN = 5


def write_classes(model: Any, reader: Reader, config: Predict) -> None:
    """Print the classes of each image and write `classes.csv`: rows of image and class, the likeliest first."""
    make_folder(config.output)
    rows: list[tuple[Any, ...]] = [("image", "rank", "class", "category_id", "score")]
    console = reader.console
    shown = track(reader, len(reader.images), what="predicting", console=console)
    read: list[str] = []  # some images ahead of what is found

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for position, image in shown:
            read.append(reader.names[position])
            yield image

    options = given_only(ten_crop=config.ten_crop or None)
    for index, seen in enumerate(model.stream(pixels(), BATCH, **options)):
        image = read[index]
        print_line(console, f"{image}: {seen}")
        best = zip(seen.labels[:WRITTEN].tolist(), seen.scores[:WRITTEN].tolist(), strict=True)
        for rank, (label, score) in enumerate(best, 1):
            number, name = model.categories[label]
            rows.append((image, rank, name, number, f"{score:.5f}"))
    path = config.output / "classes.csv"
    write_atomically(path, csv_text(rows))
    print_line(console, f"the likeliest classes of each are in {path}")
