"""Where the time of a prediction goes: read, resize, forward, decode, NMS, for one image at a time.

    python benchmarks/inference.py [RUN] [IMAGE …]

Without a run and images: a network with pretrained features and random head, and embedded flower images. Each
part is timed alone on the same images; medians over all images and rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from default_network import architecture
from rich.console import Console
from rich.table import Table

from detseg.data.images import read_image
from detseg.data.letterbox import Letterbox, letterbox_image
from detseg.detect.grid import decode, make_grid
from detseg.detect.model import select
from detseg.flowers.dataset import write_flowers
from detseg.models import build_model
from detseg.predict import Detector, load

ROUNDS = 5


def description() -> dict[str, Any]:
    """What a run says of the default network."""
    categories = [{"id": i, "name": str(i)} for i in range(5)]
    return {"task": "detector", "categories": categories, "size": 320, "architecture": architecture(classes=5)}


def untrained() -> Detector:
    """The default network as it is before training: the work is the same."""
    return Detector(build_model(description()["architecture"], pretrained=True), description())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("images", nargs="*", type=Path)
    options = parser.parse_args()
    detector = load(options.run) if options.run else untrained()
    with tempfile.TemporaryDirectory() as folder:
        images = options.images
        if not images:
            data = write_flowers(Path(folder) / "flowers", train=1, val=16, seed=0)
            images = sorted((data / "images").iterdir())
        report(detector, images)


@torch.inference_mode()
def report(detector: Detector, images: list[Path]) -> None:
    model: Any = detector.model
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    for number in range(ROUNDS + 1):
        if number == 1:
            seconds.clear()  # the first round warmed up caches and kernels
        for path in images:
            image = timed("read the file", lambda path=path: read_image(path))
            height, width = image.shape[:2]
            square = timed("fit into the square", lambda image=image: letterbox_image(image, detector.size)[0])
            tensor = torch.from_numpy(square)[None].permute(0, 3, 1, 2)
            maps = timed(
                "network",
                lambda tensor=tensor: [model.head(x) for x in model.neck(model.backbone(model.normalise(tensor)))],
            )
            sizes = [tuple(-(-detector.size // s) for _ in range(2)) for s in model.backbone.strides]

            def boxes_of(maps: Any = maps, sizes: Any = sizes) -> Any:
                grid = make_grid(sizes, model.backbone.strides, list(model.anchors))
                box = torch.cat([b for b, _ in maps], 1).float()
                classes = torch.cat([c for _, c in maps], 1).float()
                return decode(box[..., :-1], grid, model.reach), model._scores(box[..., -1], classes)

            boxes, probabilities = timed("decode", boxes_of)
            found = timed(
                "select and NMS",
                lambda boxes=boxes, p=probabilities, t=tensor: select(boxes[0], p[0], t.shape[-2:], model).found,
            )
            timed(
                "back to the image",
                lambda found=found, w=width, h=height: Letterbox.fit(w, h, detector.size).to_original(
                    found["boxes"], (w, h)
                ),
            )
            timed("all of predict", lambda path=path: detector.predict([path]))
    total = statistics.median(seconds["all of predict"])
    table = Table(title=f"one image, {detector.size} px, {torch.get_num_threads()} threads, {len(images)} images")
    for column in ("part", "ms", "share of predict"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, times in seconds.items():
        median = statistics.median(times)
        table.add_row(name, f"{median * 1e3:.2f}", f"{median / total:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
