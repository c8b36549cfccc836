"""Detectors of a few classes trained on few images: mAP with its interval, by the number of training images.

    python benchmarks/few_images.py [--train FILE --val FILE] [--images 10 30 100] [--classes 4] [--groups 3]

FILE are COCO files of one set; without, 400 images are drawn. Groups of `--classes` categories are drawn at random, no
category twice. Of the images of a group, from both files, as many as asked for are trained on, the same ones among the
larger numbers; all that are trained on in no run of the group are validated. Each run is `detseg train detector` with
its defaults but `--minutes`. The interval is that of the mean over the groups: a bootstrap of each group's validation
images.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from detseg.flowers.dataset import write_flowers


def read(path: Path) -> dict[str, Any]:
    """A COCO file, the names of its images as whole paths."""
    content = json.loads(path.read_text())
    folder = next(f for f in (path.parent, path.parent / "images") if (f / content["images"][0]["file_name"]).exists())
    for image in content["images"]:
        image["file_name"] = str((folder / image["file_name"]).resolve())
    return content


def group_of(files: list[dict[str, Any]], categories: list[dict[str, Any]], rng: np.random.Generator) -> Any:
    """The images of some categories in random order, and their objects of these."""
    wanted, images, objects = {category["id"] for category in categories}, [], []
    for content in files:
        inside = [one for one in content["annotations"] if one["category_id"] in wanted]
        holding = {one["image_id"] for one in inside}
        first = 1 + max((image["id"] for image in images), default=0)
        images += [image | {"id": image["id"] + first} for image in content["images"] if image["id"] in holding]
        objects += [one | {"image_id": one["image_id"] + first, "id": len(objects) + i} for i, one in enumerate(inside)]
    return [images[i] for i in rng.permutation(len(images))], objects


def write(path: Path, images: list[Any], objects: list[Any], categories: list[Any]) -> Path:
    """Write images, with their objects, as a COCO file."""
    ids = {image["id"] for image in images}
    held = [one for one in objects if one["image_id"] in ids]
    path.write_text(json.dumps({"images": images, "annotations": held, "categories": categories}))
    return path


def figures(folder: Path, train: Path, val: Path, minutes: float) -> dict[str, tuple[float, float, float]]:
    """AP and AP50 after a training: value, lower and upper limit."""
    command = [sys.executable, "-m", "detseg", "train", "detector", "--train", train, "--val", val, "--repair"]
    subprocess.run([*map(str, command), "--minutes", str(minutes), "--output", str(folder)], check=True)
    command = [sys.executable, "-m", "detseg", "evaluate", "--detections", str(folder), "--json"]
    content = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    intervals = content["intervals"]["figures"]
    return {
        name: (content["figures"][name], intervals[name]["low"], intervals[name]["high"]) for name in ("AP", "AP50")
    }


def averaged(found: list[tuple[float, float, float]]) -> str:
    """The mean of several figures, with the interval that follows from theirs."""
    value = float(np.mean([one for one, _, _ in found]))
    half = math.sqrt(sum(((high - low) / 2) ** 2 for _, low, high in found)) / len(found)
    return f"{value:.3f} ({value - half:.3f}-{value + half:.3f})"


def compare(options: argparse.Namespace, folder: Path) -> dict[int, list[Any]]:
    """The figures of every group by number of training images."""
    files = [read(options.train), read(options.val)]
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(len(files[0]["categories"]))
    results: dict[int, list[Any]] = {count: [] for count in options.images}
    for group in range(min(options.groups, len(order) // options.classes)):
        chosen = order[group * options.classes : (group + 1) * options.classes]
        categories = [files[0]["categories"][i] for i in chosen]
        images, objects = group_of(files, categories, rng)
        val = write(folder / f"val{group}.json", images[max(options.images) :], objects, categories)
        for count in options.images:
            train = write(folder / f"train{group}-{count}.json", images[:count], objects, categories)
            results[count].append(figures(folder / f"run{group}-{count}", train, val, options.minutes))
            print([category["name"] for category in categories], count, results[count][-1], file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=None)
    parser.add_argument("--val", type=Path, default=None)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.train is None or options.val is None:
            drawn = write_flowers(Path(folder) / "drawn", train=320, val=80, seed=0)
            options.train, options.val = drawn / "train.json", drawn / "val.json"
        results = compare(options, Path(folder))
    table = Table(title=f"groups of {options.classes} classes, {options.minutes:g} minutes a run")
    for column in ("training images", "mAP", "mAP@.50"):
        table.add_column(column, justify="right", no_wrap=True)
    for count, found in results.items():
        table.add_row(str(count), *(averaged([one[name] for one in found]) for name in ("AP", "AP50")))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
