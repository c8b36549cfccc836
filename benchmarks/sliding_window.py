"""A sliding window as convolutions against cutting every window out: seconds for an image, and their ratio.

    python benchmarks/sliding_window.py
    python benchmarks/sliding_window.py --backbones tf_efficientnet_lite0 resnet18 --windows 160 224
    python benchmarks/sliding_window.py --runs runs/windows runs/detector-1 --images photos/*.jpg

One level of the pyramid, an image of 1024 px: as many windows as fit in at the stride of the network's deepest map.
The crops go through the network in batches. "patches" is a network that pads nothing, where both ways must say the same
of every window; where a network pads, crops see zeros at their border where the image goes on, and the table says how
far the answers are apart. At the training size the two are always compared.

With --runs it is a trained localizer that slides, beside a trained detector: all of `predict` on each image, in turn.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from detseg.backbones import Backbone, create_deepest
from detseg.data.images import read_image
from detseg.flowers.dataset import write_flowers
from detseg.localize import SlidingWindowDetector
from detseg.localize.localizer import Localizer
from detseg.predict import SlidingDetector, load

CLASSES = 20
BATCH = 32
PATCHES = "patches"


class Patches(nn.Module):
    """Cells of 32 pixels that see nothing but themselves."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(itertools.pairwise((3, 32, 64, 128, 256, 256)))
        self.layers = nn.Sequential(
            *(layer for a, b in pairs for layer in (nn.Conv2d(a, b, 2, stride=2), nn.ReLU(), nn.Conv2d(b, b, 1)))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


def localizer(name: str) -> Localizer:
    """Random heads on a backbone, with ImageNet's weights where they are installed."""
    torch.manual_seed(0)
    if name == PATCHES:
        backbone = Backbone(Patches(), strides=(32,))
    else:
        backbone = create_deepest(name, pretrained=name == "tf_efficientnet_lite0")
    model = Localizer(backbone, CLASSES, objectness=True)
    for layer in (model.classifier, model.box, model.objectness):
        assert layer is not None
        nn.init.normal_(layer.weight, std=0.1)
    return model.eval().to(memory_format=torch.channels_last)


def seconds(work: Callable[[], Tensor], rounds: int) -> tuple[float, Tensor]:
    """The least of some rounds, and the result."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return min(times), result


@torch.no_grad()
def compare(name: str, window: int, image: Tensor) -> list[str]:
    model = localizer(name)
    plain = model.plain()
    stride = model.backbone.strides[-1]
    network = SlidingWindowDetector(model, window).eval().to(memory_format=torch.channels_last).network
    small = image[..., :window, :window]
    torch.testing.assert_close(network(small)[..., 0, 0], plain(small), rtol=1e-3, atol=1e-3)

    def cut() -> Tensor:
        crops = image[0].unfold(1, window, stride).unfold(2, window, stride).permute(1, 2, 0, 3, 4)
        rows, columns = crops.shape[:2]
        answers = [plain(batch) for batch in crops.flatten(0, 1).split(BATCH)]
        return torch.cat(answers).view(rows, columns, -1).permute(2, 0, 1)

    network(image)  # warms up
    dense, cells = seconds(lambda: network(image)[0], 3)
    cropped, answers = seconds(cut, 1)
    assert cells.shape == answers.shape
    difference = float((cells - answers).abs().mean() / answers.std())
    if name == PATCHES:
        torch.testing.assert_close(cells, answers, rtol=1e-3, atol=1e-3)
    count = cells[0].numel()
    return [
        name,
        str(window),
        str(count),
        f"{dense:.3f}",
        f"{cropped:.2f}",
        f"{cropped / dense:.1f}",
        f"{difference:.1%}",
    ]


def against_a_detector(runs: list[Path], images: list[Path]) -> Table:
    """Medians over the images of a localizer that slides and of a detector."""
    sliding, grid = SlidingDetector(load(runs[0])), load(runs[1])
    ways = {"windows": sliding.predict, "grid": grid.predict}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number, path in enumerate([images[0], *images]):
        for name, predict in ways.items():
            started = time.perf_counter()
            predict([str(path)])
            if number:  # the first one warms up
                times[name].append(time.perf_counter() - started)
    ratio = statistics.median(a / b for a, b in zip(times["windows"], times["grid"], strict=True))
    table = Table("", "s an image", title=f"{len(images)} images, {torch.get_num_threads()} threads")
    for name, found in times.items():
        table.add_row(name, f"{statistics.median(found):.3f}")
    table.add_row("ratio", f"{ratio:.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=[PATCHES, "tf_efficientnet_lite0", "resnet18"])
    parser.add_argument("--windows", nargs="+", type=int, default=[160])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--runs", nargs=2, type=Path, help="folders of a localizer with objectness and of a detector")
    parser.add_argument("--images", nargs="+", type=Path, default=[])
    options = parser.parse_args()
    if options.runs:
        Console().print(against_a_detector(options.runs, options.images))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = write_flowers(Path(folder) / "flowers", train=1, val=1, size=(options.size, options.size))
        image = read_image(next((data / "images").iterdir()))
    image = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).to(memory_format=torch.channels_last)
    table = Table(title=f"an image of {options.size} px, {torch.get_num_threads()} threads")
    for column in ("backbone", "window", "windows", "at once, s", "cut out, s", "ratio", "mean difference"):
        table.add_column(column, justify="left" if column == "backbone" else "right")
    for name in options.backbones:
        for window in options.windows:
            table.add_row(*compare(name, window, image))
    Console().print(table)


if __name__ == "__main__":
    main()
