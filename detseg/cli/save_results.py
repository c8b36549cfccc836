"""What `detseg predict` writes of an image's objects beside the drawing: a label file, a crop of each, JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from detseg.data.bands import shown
from detseg.data.crops import class_folders
from detseg.data.images import write_image
from detseg.files import WriteError, refuse_link, write_atomically

if TYPE_CHECKING:
    from detseg.cli.predict import Predict
    from detseg.results import Results

T = TypeVar("T")

# By option, the folder in the output folder.
FOLDERS = {"save_txt": "labels", "save_crops": "crops", "save_json": "json"}

Save = Callable[["Results", str], None]
"""Writes the objects of an image; the name is that of its drawing, without the ending."""


def savers(config: Predict, names: Sequence[str], *, again: bool) -> list[Save]:
    """Those that the options ask for.

    Args:
        config: the options.
        names: the model's classes.
        again: the output folder is that of an earlier prediction.

    Raises:
        ValueError: one of the folders is there and not of an earlier prediction, or two classes would share a folder of
            crops.
        WriteError: one of the folders is a link.
    """
    asked = {option: config.output / folder for option, folder in FOLDERS.items() if getattr(config, option)}
    for folder in asked.values():
        if folder.exists() and not again:
            raise ValueError(f"{folder}: is there already, and not from an earlier prediction; name another --output")
    kinds = class_folders(names, config.run) if "save_crops" in asked else []
    for folder in (*asked.values(), *(asked["save_crops"] / kind for kind in kinds)):
        refuse_link(folder)
    makers: dict[str, Callable[[Path], Save]] = {
        "save_txt": _labels,
        "save_crops": lambda folder: _crops([folder / kind for kind in kinds]),
        "save_json": _json,
    }
    return [makers[option](folder) for option, folder in asked.items()]


@contextmanager
def so_far(count: int, what: str) -> Iterator[Callable[[Iterable[T]], Iterator[T]]]:
    """Where something cannot be written in the block, the message says how much was before.

    Gives a function that counts what goes through it, each when the next is asked for.

    Args:
        count: of all that is to be written.
        what: that is, "images".
    """
    done = 0

    def counted(items: Iterable[T]) -> Iterator[T]:
        nonlocal done
        for item in items:
            yield item
            done += 1

    try:
        yield counted
    except WriteError as error:
        raise WriteError(f"{error}; {done} of {count} {what} are written") from error


def _labels(folder: Path) -> Save:
    return lambda found, name: write_atomically(folder / f"{name}.txt", found.to_yolo())


def _json(folder: Path) -> Save:
    return lambda found, name: write_atomically(folder / f"{name}.json", found.to_json() + "\n")


def _crops(folders: Sequence[Path]) -> Save:
    """By label, the folder of each class; crops are numbered from 0, best first."""

    def save(found: Results, name: str) -> None:
        for number, (label, crop) in enumerate(zip(found.labels.tolist(), found.crops(), strict=True)):
            write_image(folders[label] / f"{name}_{number}.jpg", shown(crop))

    return save
