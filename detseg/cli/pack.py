"""`detseg pack`: a data set of any task in one HDF5 file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

Set = TypeVar("Set", bound=Any)
Task = Literal["classification", "detection", "segmentation"]


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Pack a data set into one HDF5 file of resized images, which training reads from disk.

    For data sets larger than memory; smaller ones are cached in memory anyway. All `detseg train` commands take such a
    file as --data, or two as --train and --val. Labelled images without splits are split later, by training.

        detseg pack --data flowers/ --output flowers.h5
        detseg train detector --data flowers.h5
        detseg pack --data birds/ --output large-birds.h5 --size 336
        detseg train classifier --data large-birds.h5 --size 224
    """

    data: Path
    """Data set, as for training: labelled images, boxes or masks."""
    output: Path
    """File to write, such as flowers.h5; must not exist."""
    size: int | None = None
    """Long side of the stored images in pixels; by default 1.25 times the training size, for labels 1.5 times."""
    task: Task | None = None
    """Kind of data; by default recognised from the files."""
    chunk: int = 32
    """Images per HDF5 chunk; the batch size is a good choice."""
    masks: str | None = None
    """Masks: their folder, by name beside the images or by path; by default masks/, SegmentationClass/ or the like."""
    ignore_value: int | None = None
    """Masks: value to ignore; by default 255, or as the class list says."""
    threshold: int | None = None
    """Masks of two classes with soft edges, or JPEG: brightness (of 255) from which on a pixel is foreground."""
    images: Path | None = None
    """Folder of the images, where they are not beside the annotations or the CSV table."""
    repair: bool = False
    """Repair or leave out what has errors, and list it; otherwise errors stop."""


def run(config: Pack) -> int:
    """Check the data and write the file; returns the exit code.

    Raises:
        ValueError: nothing readable is there, or it has errors; the message names file, item and remedy.
    """
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, track
    from detseg.data.checks.validate import checked
    from detseg.data.pack.datasets import write_pack
    from detseg.data.pack.file import is_pack
    from detseg.options import require_positive

    require_positive(config, "threshold")
    if config.output.exists():
        raise ValueError(f"{config.output}: is there already; name another file, or remove it")
    if not is_pack(config.output):
        raise ValueError(f"{config.output}: must end in .h5, by which training knows packed files")
    if is_pack(config.data):
        raise ValueError(f"{config.data}: is packed already; pack what it was made of")
    console = Terminal()

    splits = dict(read_any(config))
    for split, data in splits.items():
        train = splits["train"] if "train" in splits and split != "train" else None
        splits[split] = checked(data, train, repairing=config.repair, print_line=partial(print_line, console))

    shown = partial(track, what="packing", console=console)
    size = default_size(next(iter(splits.values()))) if config.size is None else config.size
    info = write_pack(config.output, splits, size, chunk=config.chunk, track=shown)
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    classes, megabytes = len(info.categories), config.output.stat().st_size / 1e6
    print_line(
        console,
        f"{config.output}: {info.task}, {counts} images of {classes} classes, long side {info.size} px, "
        f"{megabytes:.0f} MB",
    )
    moments = f"means of the channels {_numbers(info.mean)}, standard deviations {_numbers(info.std)}"
    print_line(console, f"{moments}: for information, a model subtracts the mean that its backbone declares")
    return 0


def default_size(data: Any) -> int:
    """The long side, in pixels, of images that training wants by default: a detector's, of those that need boxes."""
    from detseg.data.pack.datasets import task_of
    from detseg.train.config import TrainClassifier, TrainSegmenter
    from detseg.train.size import wanted_size
    from detseg.train.tasks import classifier, detector, segmenter

    usual = {
        "classification": lambda: TrainClassifier.size * classifier.CACHE_ZOOM,
        "detection": lambda: wanted_size(data) * detector.CACHE_ZOOM,
        "segmentation": lambda: TrainSegmenter.size * segmenter.CACHE_ZOOM,
    }
    return round(usual[task_of(data)]())


def read_any(config: Pack) -> Mapping[str, Any]:
    """The splits of the data set, those of one list of classes; "all" stands for images without splits.

    Without a task they are read as masks, boxes or labels, the first of these that is there.

    Raises:
        AnnotationError: nothing readable is there, or not for this task.
    """
    from detseg.data.annotations import match_categories
    from detseg.data.formats import find_mask_sources, find_sources, read_label_splits
    from detseg.data.pack.file import UNDIVIDED

    masks_asked = any(value is not None for value in (config.masks, config.ignore_value, config.threshold))
    task = config.task or ("segmentation" if masks_asked else _task_of(config.data))
    if task == "classification":
        splits = read_label_splits(config.data, images=config.images)
        return {split or UNDIVIDED: data for split, data in splits.items()}
    if task == "detection":
        return _alike(find_sources(config.data, config.images), match_categories)
    sources = find_mask_sources(config.data, config.masks, config.ignore_value, config.images, config.threshold)
    return _alike(sources, match_categories)


def _alike(sources: Mapping[str, Callable[[], Set]], match: Callable[[Any, Set], Set]) -> dict[str, Set]:
    """All splits, with the classes in the order of training."""
    from detseg.data.pack.file import UNDIVIDED

    splits = {split or UNDIVIDED: read() for split, read in sources.items()}
    reference = splits.get("train", next(iter(splits.values())))
    return {split: match(reference.categories, data) for split, data in splits.items()}


def _task_of(path: Path) -> Task:
    from detseg.data.annotations import AnnotationError
    from detseg.data.formats import find_sources, has_mask_files

    # A VOC folder may hold boxes and masks of some images; there, masks have to be asked for.
    boxed = (path / "Annotations").is_dir()
    if path.is_dir() and not boxed and has_mask_files(path):
        return "segmentation"
    try:
        find_sources(path)
        return "detection"
    except AnnotationError:
        return "classification"


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
