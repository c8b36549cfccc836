"""What a task adds to a training run, and a run with what became of it.

A task (`detseg.train.tasks`) knows its data and how its models are evaluated; `detseg.train.runner` does the rest, the
same for all.
"""

from __future__ import annotations

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

import detseg
from detseg.metrics.figure import Figure, Metric, figures_of
from detseg.models import load_model
from detseg.train.fingerprint import fingerprint, image_marks

if TYPE_CHECKING:
    from detseg.train.config import TrainConfig
    from detseg.train.runner import Process
    from detseg.train.sampler import TrainingSamples


class Task(ABC):
    """One kind of training: its data, and how its models are evaluated.

    Args:
        config: the options of the run.
        console: where lines and progress are shown.
    """

    name: ClassVar[str]
    """As in `detseg train NAME`."""
    Options: ClassVar[type[Any]]
    """The dataclass of the task's options, those of the models apart."""
    FIGURES: list[Figure]
    """What is logged at each validation."""
    columns: ClassVar[Mapping[str, str]] = {}
    """What figures are called in metrics.csv, where that is not their name."""

    def __init__(self, config: Any, console: Console) -> None:
        self.config, self.console = config, console

    @property
    def headline(self) -> Sequence[str]:
        """Names of the figures that are printed after each validation; the first decides which model is the best."""
        return [figure.name for figure in self.FIGURES[:2]]

    # ------------------------------------------------------------------ data

    @abstractmethod
    def load(self) -> tuple[Any, Any]:
        """Training and validation annotations, checked, and repaired if asked for; prints what there is.

        Raises:
            ValueError: nothing readable is there, or it has errors; the message names file, item and remedy.
        """

    @abstractmethod
    def open(self, data: Any, split: str) -> Any:
        """The dataset of "training" or "validation" annotations, its images read at the size that is wanted of them."""

    def annotations_of(self, dataset: Any) -> Any:
        """What is known of the images of a dataset: their `paths` and `categories`."""
        return dataset.annotations

    def contents(self, dataset: Any) -> Sequence[NDArray[Any]]:
        """What is learnt from a dataset, images apart: boxes, if a task has nothing else."""
        data = dataset.annotations
        return data.image_ids, data.sizes, data.image_index, data.boxes, data.labels, data.iscrowd

    def image_names(self, dataset: Any) -> list[str]:
        """Paths of the images of a training dataset by the indices that its samples give, for messages."""
        return [str(path) for path in self.annotations_of(dataset).paths]

    def marks(self, dataset: Any) -> dict[str, str]:
        """A mark of each part of a dataset, "annotations" and "images" among them; a run is resumed with the same."""
        data = self.annotations_of(dataset)
        return {
            "annotations": fingerprint(data.categories, self.contents(dataset)),
            "images": fingerprint((), [image_marks(data, dataset.images)]),
        }

    def described(self, dataset: Any) -> dict[str, Any]:
        """What else `model.json` is to tell of a model, by its training data, as JSON holds it."""
        return {}

    @abstractmethod
    def samples(self, dataset: Any, config: Any) -> TrainingSamples:
        """Augmented samples of a dataset, as they are trained on."""

    @staticmethod
    @abstractmethod
    def collate(samples: list[Any]) -> tuple[torch.Tensor, Any]:
        """Samples to a batch of images and the model's targets."""

    # ------------------------------------------------------------------ the model

    def wanted_size(self, data: Any) -> int:
        """The input size that training data ask for, of a task whose options may leave it open."""
        return int(self.config.size)

    def started(self, model: Any, data: Any) -> None:  # noqa: B027
        """Do what is to be done with a new model before images are read, such as taking over weights."""

    def resolved(self, process: Process, model: Any, architecture: dict[str, Any], train: Any) -> Any:
        """The options, with what follows from the model and the training images filled in."""
        return self.config

    def head_only(self, all_frozen: bool) -> bool:
        """Whether nothing is left to train once `prepared` has been called; `all_frozen`: the backbone's stages are."""
        return False

    def prepared(self, process: Process, model: Any, samples: TrainingSamples, head_only: bool) -> None:  # noqa: B027
        """Do what is to be done with a new model before training, such as solving its head."""

    # ------------------------------------------------------------------ evaluation

    @abstractmethod
    def evaluator(self, dataset: Any) -> Metric:
        """An empty evaluator of predictions for a dataset."""

    @abstractmethod
    def predict(self, model: nn.Module, dataset: Any, indices: Iterable[int]) -> Iterable[Any]:
        """What a model finds in some images of a dataset, in order, in the form that the evaluator wants."""

    @abstractmethod
    def target(self, dataset: Any, index: int) -> Any:
        """What the evaluator compares the prediction of an image with."""

    def kept(self, prediction: Any) -> Any:
        """What a run remembers of the prediction of an image."""
        return prediction

    def joined(self, kept: list[Any]) -> Any:
        """What is kept of all images, in their order, in one."""
        return kept

    def finish(self, run: Run) -> None:  # noqa: B027
        """Do what is to be done with the best model, whose metrics and predictions are there."""

    def evaluate(self, model: nn.Module, dataset: Any, indices: Iterable[int]) -> tuple[Metric, dict[int, Any]]:
        """An evaluator that has seen some images of a dataset, and what is kept of their predictions by position."""
        indices, metric, kept = list(indices), self.evaluator(dataset), {}
        ids = self.annotations_of(dataset).image_ids
        for index, prediction in zip(indices, self.predict(model, dataset, indices), strict=True):
            metric.update([prediction], [self.target(dataset, index)], ids[index : index + 1])
            kept[index] = self.kept(prediction)
        return metric, kept


@dataclass
class Run:
    """A training run.

    Attributes:
        folder: the run folder.
        task: what is trained.
        config: its options.
        train, val: the datasets.
        architecture: what `build_model` made the model from.
        main: this process is the one that reports (the only one, unless there are several).
        drawn: captions and paths of the pictures of what is trained on, which are drawn before training begins.
        interrupted: stopped by a signal before the end.
        metrics: of the best model on the validation images; None in other processes than the main one.
        predictions: of the best model, what the task keeps of each validation image.
        seconds: of training, validation during it included.
        rates: the `RateCurve` of the learning-rate test, if there was one.
    """

    folder: Path
    task: Task
    config: TrainConfig
    train: Any
    val: Any
    architecture: dict[str, Any]
    main: bool = True
    drawn: Mapping[str, Path] = field(default_factory=dict)
    interrupted: bool = False
    metrics: Any = None
    predictions: Any = None
    seconds: float = 0.0
    rates: Any = None
    _latest: tuple[Any, Any] | None = field(default=None, repr=False)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the model, such as its anchors."""
        return self.architecture

    @property
    def data(self) -> Any:
        """What is known of the training images: their `paths` and `categories`."""
        return self.task.annotations_of(self.train)

    def image_names(self) -> list[str]:
        """Paths of the training images, for messages."""
        return self.task.image_names(self.train)

    @property
    def goal(self) -> str:
        """The column of the figure that decides which model is the best."""
        return self.column(self.task.headline[0])

    def column(self, figure: str) -> str:
        """What a figure is called in metrics.csv."""
        return self.task.columns.get(figure, figure)

    @property
    def figures(self) -> dict[str, str]:
        """Columns and titles of the figures that are logged, those that are printed first."""
        titles = {figure.name: figure.title for figure in self.task.FIGURES}
        order = dict.fromkeys([*self.task.headline, *titles])
        return {self.column(name): titles[name] for name in order}

    def fingerprint(self) -> dict[str, str]:
        """A mark of each part of the data: a run is only resumed with the same."""
        splits = {"training": self.train, "validation": self.val}
        return {
            f"{split} {part}": mark
            for split, dataset in splits.items()
            for part, mark in self.task.marks(dataset).items()
        }

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """The figures of a model by column, each process looking at its share of the validation images.

        Those that are printed are 0 where there is nothing to measure by.
        """
        mine = range(accelerator.process_index, len(self.val), accelerator.num_processes)
        shares = gather_object([self.task.evaluate(model, self.val, mine)])
        if not accelerator.is_main_process:
            return dict.fromkeys(self.figures, 0.0)
        self._latest = self._joined(shares)
        values = figures_of(self._latest[0], self.task.FIGURES)
        values |= {name: float(np.nan_to_num(values[name])) for name in self.task.headline}
        return {self.column(name): value for name, value in values.items()}

    def _joined(self, shares: Sequence[tuple[Metric, dict[int, Any]]]) -> tuple[Any, Any]:
        """Metrics and predictions of all validation images."""
        (metric, kept), *others = shares
        for other, more in others:
            metric.merge(other)
            kept |= more
        return metric.compute(), self.task.joined([kept[index] for index in sorted(kept)])

    def keep_latest(self) -> None:
        """What was validated last is the best so far."""
        assert self._latest is not None
        self.metrics, self.predictions = self._latest

    def evaluate_saved(self, device: torch.device) -> None:
        """Evaluate the saved model, where an earlier process of the run found it."""
        model = load_model(self.folder)[0]
        model.calibration = None  # if it has one: it is fitted anew
        model.to(device=device, memory_format=torch.channels_last)
        self.metrics, self.predictions = self._joined([self.task.evaluate(model, self.val, range(len(self.val)))])

    def describe(self, row: Mapping[str, float]) -> dict[str, Any]:
        """The content of `model.json` when the model is the best so far.

        Args:
            row: of the validation that found it.
        """
        printed = [self.column(name) for name in self.task.headline]
        return {
            "architecture": dict(self.architecture),
            "categories": [{"id": c.id, "name": c.name} for c in self.data.categories],
            "size": self.config.size,
            **self.task.described(self.train),
            "training": {
                "images": len(self.train),
                "date": time.strftime("%Y-%m-%d"),
                **{k: row[k] for k in ("epoch", "step", "seconds", *printed)},
            },
            "versions": {
                "detseg": detseg.__version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "torchvision", "timm")},
            },
        }
