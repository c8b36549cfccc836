"""The data of a run: annotations found, checked and mended; pictures read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from detseg.data.annotations import Annotations, Category, match_categories
from detseg.data.readers import read_annotations, read_dataset
from detseg.data.readers.recognise import find_sources
from detseg.data.validate import raise_on_problems, repair, validate
from detseg.train.config import TrainDetector, TrainLocalizer

Dataset = TypeVar("Dataset", bound=Any)


def load_data(config: TrainDetector | TrainLocalizer, console: Console) -> tuple[Annotations, Annotations]:
    """Training and validation annotations, checked, mended if asked for.

    Raises:
        ValueError: nothing readable is there, or it has errors; the message names file, item and remedy.
    """
    if config.data is not None:
        splits = read_dataset(config.data)
        train, val = splits["train"], splits["val"]
    else:
        assert config.train is not None and config.val is not None
        train = _read_split(config.train, "train")
        val = match_categories(train.categories, _read_split(config.val, "val"))
    train = _checked(train, None, config, console)
    val = _checked(val, train, config, console)
    if train.iscrowd.all():
        raise ValueError(f"{train.source}: there are no objects to learn in {len(train)} pictures")
    return train, val


def _read_split(path: Path, split: str) -> Annotations:
    """Annotations of one path: its only set, or the split of that name where it holds several."""
    return read_annotations(path, split if split in find_sources(path, None) else None)


def _checked(
    data: Annotations, other: Annotations | None, config: TrainDetector | TrainLocalizer, console: Console
) -> Annotations:
    problems = validate(data, other=other)
    if config.repair:
        data, done = repair(data, problems)
        for line in done:
            console.print(f"mended: {line}", markup=False, highlight=False, soft_wrap=True)
        problems = validate(data, other=other)
    raise_on_problems(problems)
    if len(data) == 0:
        raise ValueError(f"{data.source}: there are no pictures in it")
    return data


def print_data(console: Console, train: Annotations, val: Annotations) -> None:
    """Say how much there is, and which label each category id gets."""
    console.print(
        f"training on {len(train)} pictures with {len(train.boxes)} objects, validating on {len(val)} with "
        f"{len(val.boxes)}",
        highlight=False,
        soft_wrap=True,
    )
    names = ", ".join(f"{label}={c.name} (id {c.id})" for label, c in enumerate(train.categories))
    console.print(f"labels: {names}", markup=False, highlight=False, soft_wrap=True)


def open_pictures(kind: Callable[..., Dataset], data: Any, long_side: int, what: str, console: Console) -> Dataset:
    """The dataset of a kind with its pictures read and kept at `long_side` pixels."""

    def shown(items: Iterable[int], total: int) -> Iterable[int]:
        hidden = not console.is_terminal
        return track(items, f"reading {what}", total, console=console, transient=True, disable=hidden)

    dataset = kind(data, long_side, shown)
    cache = dataset.pictures
    console.print(
        f"{what}: kept at {long_side} px, {cache.megabytes:.0f} MB in {cache.place}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return dataset


def fingerprint(categories: Iterable[Category], arrays: Iterable[np.ndarray]) -> str:
    """Equal for equal annotations, wherever their pictures lie."""
    digest = hashlib.sha256(repr(tuple(categories)).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
