"""What a training run shows the network and when: batches, sizes, and how far along it is.

Everything random about a sample follows from (seed, epoch, position), never from a global state: the same batches
come back after a resume, with any number of worker processes.
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from detseg.data.augment.mosaic import mixup
from detseg.data.augment.transforms import TrainTransform
from detseg.data.shard_cache import TOGETHER

Batch = tuple[Tensor, Any, list[int]]
"""Images, the model's targets, and which images they are."""


class Request(NamedTuple):
    """One sample of the plan: which image, how large, and where its randomness comes from."""

    epoch: int
    position: int  # in the epoch's order
    image: int
    size: int  # side of the square, pixels
    mosaic: bool
    mixup: bool = False
    copy_paste: bool = False


@dataclass
class Progress:
    """How far a run is, by steps or, with a wall-clock budget, by seconds; an extended one in its extension.

    Attributes:
        steps: number of steps of the whole run, perhaps 0; None with a budget of time.
        seconds: length of the whole run, None with a number of steps.
        step: steps done.
        before: seconds that earlier processes of a resumed run took.
        first_step, first_second: where the extension began, of which the steps or seconds are then.
    """

    steps: int | None
    seconds: float | None
    step: int = 0
    before: float = 0.0
    first_step: int = 0
    first_second: float = 0.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("give either a number of steps or a number of seconds")
        self.begin()

    @property
    def last_step(self) -> float:
        """The step after which the run, or its extension, ends; infinite with a budget of time."""
        return math.inf if self.steps is None else self.first_step + self.steps

    def begin(self) -> None:
        """The clock starts now: what came before, such as a test of learning rates, is not counted."""
        self._started = time.monotonic()

    def elapsed(self) -> float:
        """Seconds trained so far, all processes together."""
        return self.before + time.monotonic() - self._started

    def fraction(self) -> float:
        """0 at the start, 1 when the run or its extension is to end."""
        return self.fraction_at(self.step, self.elapsed())

    def fraction_at(self, step: int, elapsed: float) -> float:
        """How far a run is after so many steps and seconds."""
        if self.seconds is not None:
            return min(1.0, (elapsed - self.first_second) / self.seconds)
        assert self.steps is not None
        return min(1.0, (step - self.first_step) / self.steps) if self.steps else 1.0


@dataclass(frozen=True)
class SizeSchedule:
    """Which input size and augmentation a step uses.

    Attributes:
        size: the size the model is made for, a multiple of 32.
        smallest: with multi-scale training, the smallest of the sizes below `size`; equal to `size` without. Smaller
            images cost less, so that the same minutes hold more of them.
        hold: steps between changes of size.
        settle: share of the run, at its end, that is trained at `size`, without mosaics, mixup and copy-paste, so that
            the last thing the network sees is what it will meet.
        mosaic: probability of a mosaic before that.
        mixup: probability, before that, that another image is laid over a sample, be it a mosaic or not.
        copy_paste: probability, before that, that objects of another image are pasted on a sample, before any mixup.
        seed: of the sizes.
    """

    size: int
    smallest: int
    hold: int = 10
    settle: float = 0.3
    mosaic: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    seed: int = 0

    @property
    def cost(self) -> float:
        """Pixels of an image, on average over the run, as a share of those at `size`."""
        early = float(np.mean([size**2 for size in self._choices])) / self.size**2
        return self.settle + (1 - self.settle) * early

    @property
    def _choices(self) -> range:
        return range(self.smallest, max(self.size, self.smallest + 1), 32)

    def at(self, step: int, fraction: float) -> tuple[int, float, float, float]:
        """(size, probability of a mosaic, of mixup, of copy-paste) of a step, `fraction` of the way through the run."""
        if fraction >= 1 - self.settle:
            return self.size, 0.0, 0.0, 0.0
        chosen = np.random.default_rng((self.seed, 1, step // self.hold)).integers(len(self._choices))
        return self._choices[int(chosen)], self.mosaic, self.mixup, self.copy_paste


def steps_per_epoch(images: int, batch_size: int, world: int = 1) -> int:
    """Whole batches in an epoch, at least one: a set smaller than a batch is repeated to fill it."""
    return max(1, images // (batch_size * world))


def epoch_windows(shards: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,) the window of each image in an epoch, of `shards` (N,) numbered 0..S-1.

    Shards come in random order, `TOGETHER` of them make a window, and an epoch goes from window to window: only so many
    shards are read from at a time, which can be remote and together larger than any disk here.
    """
    count = int(shards.max(initial=-1)) + 1
    place = np.random.default_rng((seed, 4, epoch)).permutation(count)
    return (place // TOGETHER)[shards]


def epoch_order(
    images: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    world: int = 1,
    shards: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The images of an epoch in their random order, cut or repeated to whole batches of all processes.

    With `shards` (N,), the shard of each image, the order is random within `epoch_windows`.
    """
    rng = np.random.default_rng((seed, 0, epoch))
    if shards is None:
        order = rng.permutation(images)
    else:
        window = epoch_windows(shards, seed=seed, epoch=epoch)
        members = np.argsort(window, kind="stable")
        order = np.concatenate([rng.permutation(m) for m in np.split(members, np.cumsum(np.bincount(window))[:-1])])
    return np.resize(order, steps_per_epoch(images, batch_size, world) * batch_size * world)


class BatchPlan:
    """Endless batches of requests from a given step on; one process's share of them.

    Args:
        images: number of images in the set.
        batch_size: images a process and step.
        parts: each step's images come in so many batches of equal length, each shared by all processes.
        sizes: which size each step has.
        fraction: asked when a batch is planned, how far the run is then.
        seed: of the order.
        first_step: where to begin; a resumed run gives the number of steps done.
        rank: this process's number.
        world: number of processes.
        shards: (N,) the shard of each image, for images that are in some, see `epoch_order`.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        sizes: SizeSchedule,
        fraction: Callable[[int], float],
        *,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        shards: NDArray[np.int64] | None = None,
    ) -> None:
        if images < 1:
            raise ValueError("there are no images to train on")
        self.part = batch_size // parts
        self.images, self.batch_size, self.sizes, self.fraction = images, batch_size, sizes, fraction
        self.seed, self.first_step, self.rank, self.world, self.shards = seed, first_step, rank, world, shards

    def __iter__(self) -> Iterator[list[Request]]:
        per_epoch = steps_per_epoch(self.images, self.batch_size, self.world)
        step = self.first_step
        while True:
            epoch, within = divmod(step, per_epoch)
            order = epoch_order(
                self.images, self.batch_size, seed=self.seed, epoch=epoch, world=self.world, shards=self.shards
            )
            for batch in range(within, per_epoch):
                requests = self._step(step, epoch, batch, order)
                for first in range(self.rank * self.part, len(requests), self.world * self.part):
                    yield requests[first : first + self.part]
                step += 1

    def _step(self, step: int, epoch: int, batch: int, order: NDArray[np.int64]) -> list[Request]:
        """A step of all processes: what is drawn does not depend on how they divide it."""
        size, *shares = self.sizes.at(step, self.fraction(step))
        count = self.world * self.batch_size
        first = batch * count
        positions = range(first, first + count)
        draws = np.random.default_rng((self.seed, 2, epoch, first)).random((len(shares), count))
        chosen = (draws < np.reshape(shares, (-1, 1))).T.tolist()
        return [
            Request(epoch, position, int(order[position]), size, *kinds)
            for position, kinds in zip(positions, chosen, strict=True)
        ]


class TrainingSamples:
    """Augmented samples by request; what a DataLoader's workers run.

    Args:
        dataset: the images.
        seed: of the augmentation.
        transform: makes the augmentation for an input size: ``transform(size)(sample, rng)``.
    """

    def __init__(self, dataset: Any, seed: int, transform: Callable[[int], Any] = TrainTransform) -> None:
        self.dataset, self.seed, self.transform = dataset, seed, transform
        self.shards: NDArray[np.int64] | None = getattr(dataset, "shards", None)
        self._transforms: dict[int, Any] = {}
        # An epoch, the window of each image in it, and the images of the window that was asked for last.
        self._windows: tuple[int, NDArray[np.int64], dict[int, NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, request: Request) -> tuple[Any, list[int]]:
        """The sample and the indices of its images: one, or four of a mosaic; copy-paste and mixup add one each."""
        rng, transform = self.rng_of(request), self.transform_of(request.size)
        indices = [request.image]
        if request.mosaic:
            indices += self._others(request, rng, 3)
            sample = transform.mosaic([self.dataset[i] for i in indices], rng)
        else:
            sample = transform(self.dataset[request.image], rng)
        if request.copy_paste:
            indices += self._others(request, rng, 1)
            sample = transform.copy_paste(sample, transform(self.dataset[indices[-1]], rng), rng)
        if request.mixup:
            indices += self._others(request, rng, 1)
            sample = mixup(sample, transform(self.dataset[indices[-1]], rng), rng)
        return sample, indices

    def _others(self, request: Request, rng: np.random.Generator, count: int) -> list[int]:
        """Images to lay a sample's image together with: any, or of the same window of shards."""
        if self.shards is None:
            return rng.integers(len(self.dataset), size=count).tolist()
        if self._windows is None or self._windows[0] != request.epoch:
            self._windows = request.epoch, epoch_windows(self.shards, seed=self.seed, epoch=request.epoch), {}
        _, windows, members = self._windows
        window = int(windows[request.image])
        if window not in members:
            members.clear()
            members[window] = np.flatnonzero(windows == window)
        return members[window][rng.integers(len(members[window]), size=count)].tolist()

    def rng_of(self, request: Request) -> np.random.Generator:
        """What everything random about a sample is drawn from."""
        return np.random.default_rng((self.seed, 3, request.epoch, request.position))

    def transform_of(self, size: int) -> Any:
        """The augmentation of an input size, made once."""
        if size not in self._transforms:
            self._transforms[size] = self.transform(size)
        return self._transforms[size]


@dataclass
class Batches:
    """The batches of a run.

    Attributes:
        samples: training images.
        collate: makes a batch of samples: images (N, 3, H, W) and the model's targets.
        sizes: input sizes over the run.
        batch_size: images per batch and process.
        accumulate: batches per step.
        seed: of their order.
        workers: processes that augment images.
        memory_format: of the images.
    """

    samples: TrainingSamples
    collate: Callable[[list[Any]], tuple[Tensor, Any]]
    sizes: SizeSchedule
    batch_size: int = 8
    accumulate: int = 1
    seed: int = 0
    workers: int = 0
    memory_format: torch.memory_format = torch.channels_last

    @property
    def step_size(self) -> int:
        """Images per step and process."""
        return self.batch_size * self.accumulate

    def per_epoch(self, world: int) -> int:
        """Steps of an epoch with so many processes."""
        return steps_per_epoch(len(self.samples), self.step_size, world)

    def stream(self, accelerator: Accelerator, step: int, fraction: Callable[[int], float]) -> Iterator[Batch]:
        """Endless batches on the device, from a step on; `fraction` tells how far the run will be at a step."""
        device = accelerator.device
        plan = BatchPlan(
            len(self.samples),
            self.step_size,
            self.sizes,
            fraction,
            seed=self.seed,
            first_step=step,
            rank=accelerator.process_index,
            world=int(accelerator.num_processes),
            parts=self.accumulate,
            shards=self.samples.shards,
        )
        loader: DataLoader[Any] = DataLoader(
            self.samples,  # type: ignore[arg-type]
            batch_sampler=plan,
            collate_fn=partial(collate_with_index, self.collate),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its own, so that making a loader leaves torch's random state alone
            **worker_options(self.workers),
        )
        for images, targets, indices in loader:
            images = images.to(device, non_blocking=True, memory_format=self.memory_format)
            yield images, send_to_device(targets, device, non_blocking=True), indices


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
