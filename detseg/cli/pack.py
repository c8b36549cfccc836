"""`detseg pack`: a data set of any task in one HDF5 file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Task = Literal["classification", "detection", "segmentation"]


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Put a data set into one HDF5 file of resized raw pictures, to be read from disk as training goes along.

    For sets larger than the memory; smaller ones are kept in memory anyway.

        detseg pack --data birds/ --output birds.h5 --size 256
    """

    data: Path
    """Folder, data.yaml or CSV file of the data set: labelled pictures, boxes or masks."""
    output: Path
    """File to write, such as flowers.h5; it must not be there yet."""
    size: int = 256
    """Long side of the stored pictures, in pixels. Crops of 224 are best cut from 336."""
    task: Task | None = None
    """What is to be learnt: classification, detection or segmentation. By default what the data are for."""
    chunk: int = 32
    """Pictures to a chunk of the file; a batch is good."""


def run(config: Pack) -> int:
    """Check the data and write the file; returns the exit code.

    Raises:
        ValueError: nothing readable is there, or it has errors; the message names file, item and remedy.
    """
    from rich.console import Console
    from rich.progress import track

    from detseg.data.packing import write_pack
    from detseg.data.validate import raise_on_problems

    if config.output.exists():
        raise ValueError(f"{config.output}: is there already; name another file, or remove it")
    splits = read_any(config.data, config.task)
    train = splits.get("train")
    for data in splits.values():
        raise_on_problems(data.validate(other=None if data is train else train))
    console = Console()

    def shown(items: Iterable[int], total: int) -> Iterable[int]:
        return track(items, "packing", total, console=console, transient=True, disable=not console.is_terminal)

    info = write_pack(config.output, splits, config.size, chunk=config.chunk, track=shown)
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    for line in (
        f"{config.output}: {info.task}, {counts} pictures of {len(info.categories)} classes, long side {info.size} px, "
        f"{config.output.stat().st_size / 1e6:.0f} MB",
        f"means of the channels {_numbers(info.mean)}, standard deviations {_numbers(info.std)}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def read_any(path: Path, task: Task | None) -> Mapping[str, Any]:
    """The splits of a data set; without a task as masks, boxes or labels, the first of these that the path holds.

    Raises:
        AnnotationError: nothing readable is there, or not for this task.
    """
    from detseg.data.labels import read_labelled_dataset
    from detseg.data.readers import read_dataset
    from detseg.data.readers.masks import read_mask_dataset

    readers: dict[Task, Callable[[Path], Mapping[str, Any]]] = {
        "classification": read_labelled_dataset,
        "detection": read_dataset,
        "segmentation": read_mask_dataset,
    }
    return readers[task or _task_of(path)](path)


def _task_of(path: Path) -> Task:
    from detseg.data.annotations import AnnotationError
    from detseg.data.readers.mask_folders import find_layout
    from detseg.data.readers.recognise import find_sources

    # A VOC folder may hold boxes and masks of some pictures; there, masks have to be asked for.
    if path.is_dir() and not (path / "Annotations").is_dir() and find_layout(path, "masks") is not None:
        return "segmentation"
    try:
        find_sources(path)
        return "detection"
    except AnnotationError:
        return "classification"


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
