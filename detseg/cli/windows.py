"""`detseg windows`: what a sliding window sees, from a detection set."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Cut windows with and without a centred object out of annotated images.

    Writes a COCO data set to train a localizer for sliding-window detection (`detseg predict --slide`):

        detseg windows --data flowers/ --output windows
        detseg train localizer --data windows --objectness --size 128 --zoom 1 1
        detseg predict runs/localizer-1 photos/ --slide
    """

    data: Path
    """Folder or data.yaml with a training and a validation split: COCO, VOC or YOLO."""
    output: Path
    """Output folder; must be new or empty."""
    images: Path | None = None
    """Folder of the images, where they are not beside the COCO or VOC annotations."""
    size: int = 128
    """Side of the windows, in pixels; train the localizer with the same --size."""
    stride: int = 32
    """Step between windows, in pixels: the stride of the localizer's last feature map."""
    per_object: int = 2
    """Windows per object."""
    background: float = 1.0
    """Windows without an object per window with one; half of them are near misses."""
    min_side: int = 16
    """Skip objects whose shorter side is below this, in pixels."""
    seed: int = 0
    """Random seed; the same seed gives the same windows."""
    repair: bool = False
    """Repair what is safe to repair in the annotations, and list it; otherwise errors stop."""


def run(config: Windows) -> int:
    """Write the windows; returns the exit code.

    Raises:
        ValueError: the annotations have errors, the output is not empty, or an option is out of range.
    """
    from detseg.cli.crops import checked_splits, require_new
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, track
    from detseg.data.windows import WindowGrid, windows_of
    from detseg.files import new_folder

    require_new(config.output)
    console = Terminal()
    grid = WindowGrid(size=config.size, stride=config.stride)

    shown = partial(track, what="cutting", console=console)
    splits = checked_splits(config.data, config.repair, console, config.images)
    with new_folder(config.output):  # half of the windows could be taken for all
        for split, data in splits.items():
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
            print_line(
                console,
                f"{split}: {report.objects} windows with an object and {report.background} without, of {len(data)} "
                f"images; left out {report.small} small and {report.crowds} crowd or difficult objects",
            )
            if report.below:
                print_line(
                    console,
                    f"{split}: {report.below} of the objects are smaller than --slide finds by default; it finds all "
                    f"with --long-side {report.long_side}",
                )
    return 0
