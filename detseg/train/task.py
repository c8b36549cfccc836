"""A training run as its task knows it: its data, how a model is judged, and what became of it.

A task's own class (`detseg.train.tasks.detector.DetectorRun` and its siblings) judges; `detseg.train.runner` trains.
"""

from __future__ import annotations

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

import detseg
from detseg.models import load_model
from detseg.train.config import TrainConfig
from detseg.train.fingerprint import fingerprint, image_marks

Config = TypeVar("Config", bound=TrainConfig)


@dataclass
class Run(ABC, Generic[Config]):
    """A run: a task's own adds how its model is judged.

    Attributes:
        folder: the run folder.
        config: its settings.
        train, val: the datasets, with their `.images` and `.annotations`.
        drawn: captions and paths of the images of what is trained on, which are written before training begins.
        main: this process is the one that reports (the only one, unless there are several).
        interrupted: stopped by a signal before the end.
        metrics: of the best model on the validation images; None in other processes than the main one.
        predictions: of the best model, what the task makes of them.
        seconds: of training, validation during it included.
    """

    FIGURES: ClassVar[Mapping[str, str]] = {}
    """Figures that validation gives and their titles; the first decides which model is the best."""

    folder: Path
    config: Config
    train: Any
    val: Any
    main: bool = True
    drawn: Mapping[str, Path] = field(default_factory=dict)
    interrupted: bool = False
    metrics: Any = None
    predictions: Any = None
    seconds: float = 0.0
    _latest: tuple[Any, Any] | None = field(default=None, repr=False)

    @property
    def data(self) -> Any:
        """What is known of the training images: their `paths` and `categories`."""
        return self.annotations_of(self.train)

    def annotations_of(self, dataset: Any) -> Any:
        """What is known of the images of `train` or `val`."""
        return dataset.annotations

    def contents(self, dataset: Any) -> Sequence[NDArray[Any]]:
        """What is learnt from, or judged by, in `train` or `val`, images apart: boxes, if a task has nothing else."""
        data = dataset.annotations
        return data.image_ids, data.sizes, data.image_index, data.boxes, data.labels, data.iscrowd

    def fingerprint(self) -> dict[str, str]:
        """A mark of each part of the data: a run is only resumed with the same."""
        marks = {}
        for split, dataset in (("training", self.train), ("validation", self.val)):
            data = self.annotations_of(dataset)
            marks[f"{split} annotations"] = fingerprint(data.categories, self.contents(dataset))
            marks[f"{split} images"] = fingerprint((), [image_marks(data, dataset.images)])
        return marks

    @abstractmethod
    def draw(self) -> dict[str, Path]:
        """Write what `drawn` tells of into the run folder, so that wrong annotations show before time is spent."""

    @abstractmethod
    def judge(self, model: nn.Module, indices: Sequence[int]) -> Any:
        """What this process finds out about its share of the validation images, in a form that can be pickled."""

    @abstractmethod
    def combine(self, shares: Sequence[Any]) -> tuple[Any, Any]:
        """Metrics and predictions, from what `judge` gave in each process."""

    @abstractmethod
    def figures(self, metrics: Any) -> dict[str, float]:
        """The numbers of `FIGURES`, finite."""

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """How good a model is, each process looking at its share of the validation images."""
        mine = range(accelerator.process_index, len(self.val), accelerator.num_processes)
        shares = gather_object([self.judge(model, mine)])
        if not accelerator.is_main_process:
            return dict.fromkeys(self.FIGURES, 0.0)
        self._latest = self.combine(shares)
        return self.figures(self._latest[0])

    def keep_latest(self) -> None:
        """What was validated last is the best so far."""
        assert self._latest is not None
        self.metrics, self.predictions = self._latest

    def judge_saved(self, device: torch.device) -> None:
        """Judge the saved model, where an earlier sitting of the run found it."""
        model = load_model(self.folder)[0].to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.metrics, self.predictions = self.combine([self.judge(model, range(len(self.val)))])

    def describe(self, architecture: Mapping[str, Any], row: Mapping[str, float]) -> dict[str, Any]:
        """The content of `model.json` when the model is the best so far.

        Args:
            architecture: what `build_model` made it from.
            row: of the validation that found it.
        """
        return {
            "architecture": dict(architecture),
            "categories": [{"id": c.id, "name": c.name} for c in self.data.categories],
            "size": self.config.size,
            "training": {
                "images": len(self.train),
                "date": time.strftime("%Y-%m-%d"),
                **{k: row[k] for k in ("epoch", "step", "seconds", *self.FIGURES)},
            },
            "versions": {
                "detseg": detseg.__version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "torchvision", "timm")},
            },
        }
