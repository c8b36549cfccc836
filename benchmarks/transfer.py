"""Ways of transfer on few and many images: accuracy of each in the same time, and which one `auto` takes.

    python benchmarks/transfer.py [--data FOLDER] [--minutes 2.5]

Without --data it draws 200 images of flowers and cuts the flowers out. Every row is a number of training images a
class, drawn by the seed; every column a strategy of `detseg train classifier`. `probe` solves a linear layer and needs
seconds, whatever the minutes.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from detseg.data.crops import crops_of
from detseg.data.formats import read_dataset, read_labelled_dataset
from detseg.data.labels import LabelledImages
from detseg.flowers.dataset import write_flowers
from detseg.train.config import TrainClassifier

STRATEGIES = ("scratch", "probe", "partial", "finetune", "full", "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="what detseg train classifier takes")
    parser.add_argument("--images", type=int, nargs="+", default=[10, 30, 0], help="a class; 0: all there are")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES[:-1]), choices=STRATEGIES)
    parser.add_argument("--minutes", type=float, default=2.5, help="of each training")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.data is not None:
        compare(read_labelled_dataset(options.data), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(read_labelled_dataset(draw_crops(Path(folder))), options)


def draw_crops(folder: Path, train: int = 200, val: int = 100) -> Path:
    """A classification set of drawn flowers, cut out of so many images; returns its folder."""
    for split, data in read_dataset(write_flowers(folder / "drawn", train=train, val=val, seed=0)).items():
        crops_of(data, folder / "crops" / split)
    return folder / "crops"


def compare(splits: dict[str, LabelledImages], options: argparse.Namespace) -> None:
    """Train with every strategy on every number of images, and print the table."""
    console = Console()
    table = Table("images a class", *options.strategies, title="accuracy on the validation images")
    for images in options.images:
        train = some_of_each(splits["train"], images, options.seed)
        cells = [f"{accuracy(train, splits['val'], name, options, console):.3f}" for name in options.strategies]
        table.add_row(str(images or "all"), *cells)
    console.print(table)


def some_of_each(data: LabelledImages, images: int, seed: int) -> LabelledImages:
    """At most so many images of each class; 0 for all."""
    if not images:
        return data
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(data.labels == k))[:images] for k in range(len(data.names))]
    return data.subset(np.sort(np.concatenate(chosen)))


def accuracy(
    train: LabelledImages, val: LabelledImages, strategy: str, options: argparse.Namespace, console: Console
) -> float:
    """Of a training on these images."""
    with tempfile.TemporaryDirectory() as folder:
        tables = {name: write_table(data, Path(folder) / name) for name, data in (("train", train), ("val", val))}
        config = TrainClassifier(
            **tables,
            output=Path(folder) / "run",
            weights="none" if strategy == "scratch" else "pretrained",
            strategy=strategy,  # type: ignore[arg-type]
            minutes=options.minutes,
            size=options.size,
            precision="fp32",
            seed=options.seed,
        )
        metrics = train(config, console).metrics
    return float(metrics.top1)


def write_table(data: LabelledImages, folder: Path) -> Path:
    """A table of the images where they are."""
    folder.mkdir()
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "class"))
        rows.writerows((Path(path).resolve(), data.names[k]) for path, k in zip(data.paths, data.labels, strict=True))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in data.names))
    return folder / "images.csv"


if __name__ == "__main__":
    main()
