"""`detseg crops`: a classification set from a detection set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.data.annotations import Annotations


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Crop the annotated objects of a detection data set, one folder per class.

    Writes OUTPUT/train, OUTPUT/val and, if there is such a split, OUTPUT/test, for `detseg train classifier`:

        detseg crops --data flowers/ --output flower_crops
    """

    data: Path
    """Folder or data.yaml with a training and a validation split: COCO, VOC or YOLO."""
    output: Path
    """Output folder; must be new or empty."""
    images: Path | None = None
    """Folder of the images, where they are not beside the COCO or VOC annotations."""
    margin: float = 0.1
    """Margin around each box, as a fraction of its width and height."""
    min_side: int = 16
    """Skip objects whose shorter side is below this, in pixels."""
    repair: bool = False
    """Repair what is safe to repair in the annotations, and list it; otherwise errors stop."""


def run(config: Crops) -> int:
    """Write the crops; returns the exit code.

    Raises:
        ValueError: the annotations have errors, the output is not empty, or an option is out of range.
    """
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, track
    from detseg.data.crops import crops_of, folder_names
    from detseg.files import new_folder, write_atomically

    require_new(config.output)
    console = Terminal()
    splits = checked_splits(config.data, config.repair, console, config.images)
    shown = partial(track, what="cutting", console=console)
    with new_folder(config.output):  # half of the crops could be taken for all
        for split, data in splits.items():
            report = crops_of(data, config.output / split, margin=config.margin, min_side=config.min_side, track=shown)
            print_line(
                console,
                f"{split}: {report.written} crops of {len(data)} images; left out {report.small} small and "
                f"{report.crowds} crowd or difficult objects",
            )
        # Folders have no order of their own; labels are to count as in the annotations.
        write_atomically(config.output / "classes.txt", "".join(f"{name}\n" for name in folder_names(splits["train"])))
    return 0


def require_new(folder: Path) -> None:
    """Raise ValueError unless a folder can be written to without touching what is there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already and not empty; name a new folder, or remove it")


def require_own(folder: Path) -> None:
    """Raise ValueError unless a folder for `index.html` and what belongs to it is new, empty, or of an earlier call."""
    page = folder / "index.html"
    if page.is_file() and b'content="detseg"' in page.read_bytes()[:1000]:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: holds other files, which could be overwritten; name a new folder")


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """A folder as of `require_own`; one that was not there, or empty, is removed again if the block ends early."""
    from detseg.files import new_folder

    require_own(folder)
    with nullcontext() if folder.exists() and any(folder.iterdir()) else new_folder(folder):
        yield


def checked_splits(path: Path, repair: bool, console: Console, images: Path | None = None) -> dict[str, Annotations]:
    """The splits "train", "val" and, where there is one, "test" of a detection set, checked, with the same labels.

    Raises:
        ValueError: the annotations have errors.
    """
    from detseg.console import print_line
    from detseg.data.annotations import match_categories
    from detseg.data.checks.validate import checked
    from detseg.data.formats import find_sources, read_annotations, read_dataset

    splits = read_dataset(path, images)
    if "test" in find_sources(path, images):
        splits["test"] = match_categories(splits["train"].categories, read_annotations(path, "test", images))
    for split, data in splits.items():
        other = None if split == "train" else splits["train"]
        splits[split] = checked(data, other, repairing=repair, print_line=partial(print_line, console))
    return splits
