"""How batches come from a DataLoader to a step."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import cv2
from torch import Tensor

Batch = tuple[Tensor, Any, list[int]]
"""Images, the model's targets, and which images they are."""


def groups_of(count: int, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Lists of so many batches that follow each other; what is left at the end is dropped."""
    iterator = iter(batches)
    while len(group := list(islice(iterator, count))) == count:
        yield group


def worker_options(workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader with so many processes."""
    if not workers:
        return {"num_workers": 0}
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork, and a worker is one thread anyhow
    # Forked processes see the images in this one's memory.
    context = "fork" if sys.platform == "linux" else None
    return {"num_workers": workers, "multiprocessing_context": context, "worker_init_fn": _ignore_interrupts}


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; only the first is to act on it, and it ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def collate_with_index(
    collate: Callable[[list[Any]], tuple[Tensor, Any]], batch: list[tuple[Any, list[int]]]
) -> tuple[Tensor, Any, list[int]]:
    """A batch of (sample, indices of its images): images and targets as `collate` makes them, and all indices."""
    images, targets = collate([sample for sample, _ in batch])
    return images, targets, [index for _, indices in batch for index in indices]
