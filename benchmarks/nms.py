"""Non-max suppression: detseg against torchvision, on clustered scenes on a 640-px picture.

    python benchmarks/nms.py [--boxes 300 1000 5000] [--rounds 21]

The two take turns inside every round, so that a machine that slows down slows both; the table shows the
medians and the median of the rounds' ratios. Scores are distinct, and the indices are compared before timing.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
import tyro
from rich.console import Console
from rich.table import Table

from detseg.detect.nms import batched_nms, nms


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    boxes: tuple[int, ...] = (100, 300, 1000, 3000, 10000)
    """Numbers of boxes."""
    labels: int = 80
    """Classes for batched_nms."""
    iou_threshold: float = 0.5
    rounds: int = 21
    threads: int = 1
    """Threads that torch may use."""


def scene(count: int, labels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`count` boxes, 30 or so about each object, with distinct scores and random labels."""
    generator = torch.Generator().manual_seed(count)
    objects = max(1, count // 30)
    which = torch.randint(objects, (count,), generator=generator)
    centre = (torch.rand(objects, 2, generator=generator) * 600)[which]
    size = (torch.rand(objects, 2, generator=generator) * 90 + 16)[which]
    centre = centre + torch.randn(count, 2, generator=generator) * 0.1 * size
    size = size * torch.exp(torch.randn(count, 2, generator=generator) * 0.1)
    scores = torch.randperm(count, generator=generator).float() / count
    label = torch.randint(labels, (count,), generator=generator)
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), scores, label


def measure(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median milliseconds of both and the median of theirs / ours."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 2):
        start = time.perf_counter()
        ours()
        middle = time.perf_counter()
        theirs()
        end = time.perf_counter()
        if number >= 2:  # the first rounds warm up
            times.append(((middle - start) * 1e3, (end - middle) * 1e3))
    mine, other = zip(*times, strict=True)
    return statistics.median(mine), statistics.median(other), statistics.median(b / a for a, b in times)


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    table = Table(
        title="NMS on the CPU, milliseconds (median)",
        caption=f"torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"threads: {settings.threads}; ratio = torchvision / detseg, above 1 is faster",
    )
    for name in ("function", "boxes", "kept", "detseg", "torchvision", "ratio"):
        table.add_column(name, justify="left" if name == "function" else "right")
    threshold = settings.iou_threshold
    for count in settings.boxes:
        boxes, scores, labels = scene(count, settings.labels)
        cases: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]] = {
            "nms": (
                lambda b=boxes, s=scores: nms(b, s, threshold),
                lambda b=boxes, s=scores: torchvision.ops.nms(b, s, threshold),
            ),
            f"batched_nms, {settings.labels} labels": (
                lambda b=boxes, s=scores, c=labels: batched_nms(b, s, c, threshold),
                lambda b=boxes, s=scores, c=labels: torchvision.ops.batched_nms(b, s, c, threshold),
            ),
        }
        for name, (ours, theirs) in cases.items():
            kept = ours()
            if not torch.equal(kept, theirs()):
                # batched_nms adds offsets in float32, which can turn a pair close to the threshold.
                name += " (indices differ)"
            times = measure(ours, theirs, settings.rounds)
            row = (f"{times[0]:.3f}", f"{times[1]:.3f}", f"{times[2]:.2f}")
            table.add_row(name, str(count), str(len(kept)), *row)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
