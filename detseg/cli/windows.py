"""`detseg windows`: what a sliding window sees, from a detection set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Cut windows out of annotated images: with an object in the middle, and without.

    Writes a data set in COCO's form, from which a localizer learns to find what `detseg predict --slide` slides over:

        detseg windows --data flowers/ --output windows
        detseg train localizer --data windows --objectness --size 128 --zoom 1 1
        detseg predict runs/localizer-1 photos/ --slide
    """

    data: Path
    """Folder or data.yaml with training and validation annotations: COCO, VOC or YOLO."""
    output: Path
    """Folder to write to; it must be new or empty."""
    images: Path | None = None
    """Folder of the images that COCO or VOC annotations name, where they are not found beside these."""
    size: int = 128
    """Side of the windows, pixels; train the localizer with the same --size."""
    stride: int = 32
    """Of the localizer's deepest map, pixels: windows lie so far apart."""
    per_object: int = 2
    """Windows for each object."""
    background: float = 1.0
    """Windows without an object for each with one; half of them are near misses."""
    min_side: int = 16
    """Objects with a shorter side, in pixels, get no windows."""
    seed: int = 0
    """Of all that is random; the same seed gives the same windows."""
    repair: bool = False
    """Mend the annotations where that is safe, and say what was done; otherwise errors stop."""


def run(config: Windows) -> int:
    """Write the windows; returns the exit code.

    Raises:
        ValueError: the annotations have errors, the output is not empty, or an option is out of range.
    """
    from rich.console import Console
    from rich.progress import track

    from detseg.cli.crops import checked_splits, require_new
    from detseg.data.windows import WindowGrid, windows_of

    require_new(config.output)
    console = Console()
    grid = WindowGrid(size=config.size, stride=config.stride)

    def shown(items: Iterable[int], total: int) -> Iterable[int]:
        return track(items, "cutting", total, console=console, transient=True, disable=not console.is_terminal)

    for split, data in checked_splits(config.data, config.repair, console, config.images).items():
        report = windows_of(
            data,
            config.output,
            split,
            grid=grid,
            per_object=config.per_object,
            background=config.background,
            min_side=config.min_side,
            seed=config.seed,
            track=shown,
        )
        console.print(
            f"{split}: {report.objects} windows with an object and {report.background} without, of {len(data)} "
            f"images; left out {report.small} small and {report.crowds} crowd or difficult objects",
            highlight=False,
            soft_wrap=True,
        )
        if report.below:
            console.print(
                f"{split}: {report.below} of the objects are smaller than --slide finds by default; it finds all with "
                f"--long-side {report.long_side}",
                highlight=False,
                soft_wrap=True,
            )
    return 0
