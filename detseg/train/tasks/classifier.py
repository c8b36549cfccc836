"""Train a classifier: from labelled images to a run folder with the best model in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from detseg.data.annotations import AnnotationError, Category, category_difference
from detseg.data.augment.classification_transforms import RESIZE, ClassificationTransform
from detseg.data.checks.validate import checked
from detseg.data.formats import read_label_splits, read_labelled_dataset
from detseg.data.label_dataset import ClassificationDataset, LabelledSample, collate_labels
from detseg.data.labels import LabelledImages
from detseg.metrics import ClassificationEvaluator, ClassificationMetrics
from detseg.options import given
from detseg.predict.classifier import classify
from detseg.train.config import OF_DIVISION, TrainClassifier
from detseg.train.data import open_images, own_split
from detseg.train.precision import Choice
from detseg.train.runner import Session, session, tell
from detseg.train.sampler import TrainingSamples
from detseg.train.task import Run
from detseg.train.tasks.transfer import resolve, solve_head

# The long side of cached images over the input size, of those that are not much longer than wide.
CACHE_ZOOM = 1.5
# Settings that mean nothing where the head alone learns, which is solved and not trained.
OF_STEPS = (
    *("epochs", "minutes", "batch_size", "accumulate", "optimizer", "lr", "find_lr", "backbone_lr", "stage_decay"),
    *("weight_decay", "schedule", "multi_scale", "precision", "dropout", "label_smoothing"),
)


class Augmentation:
    """`ClassificationTransform` for samples: (image, label) in and out."""

    def __init__(self, size: int, names: Sequence[str] | None = None) -> None:
        make = ClassificationTransform if names is None else partial(ClassificationTransform.by_name, names=names)
        self.transform: ClassificationTransform = make(size)

    def __call__(self, sample: LabelledSample, rng: np.random.Generator) -> LabelledSample:
        """Augment the image; the label stays."""
        return self.transform(sample[0], rng), sample[1]


@dataclass
class ClassifierRun(Run[TrainClassifier]):
    """A classifier's run.

    Attributes:
        metrics: `ClassificationMetrics` of the best model on the validation images.
        predictions: of the best model, (N, K) float32 probabilities.
    """

    FIGURES: ClassVar[Mapping[str, str]] = {"top1": "accuracy", "mean_class_accuracy": "mean class accuracy"}

    def annotations_of(self, dataset: ClassificationDataset) -> LabelledImages:
        """The labels of the images of `train` or `val`."""
        return dataset.labelled

    def contents(self, dataset: ClassificationDataset) -> Sequence[NDArray[Any]]:
        """The labels, and whose they are."""
        data = dataset.labelled
        return data.image_ids, data.sizes, data.labels

    def draw(self) -> dict[str, Path]:
        """Training samples."""
        from detseg.report.pages.classifier import draw_training

        return draw_training(self)

    def judge(self, model: nn.Module, indices: Sequence[int]) -> tuple[list[int], NDArray[np.float32]]:
        """Probabilities of some of the validation images."""
        return list(indices), see_images(model, self.val, indices, self.config.size, ten_crop=self.config.ten_crop)

    def combine(self, shares: Sequence[Any]) -> tuple[ClassificationMetrics, NDArray[np.float32]]:
        """Metrics of all images, and their probabilities in order."""
        order = np.argsort(np.concatenate([np.array(indices, np.int64) for indices, _ in shares]))
        probabilities = np.concatenate([share for _, share in shares])[order]
        return judge_images(self.val.labelled, probabilities), probabilities

    def figures(self, metrics: ClassificationMetrics) -> dict[str, float]:
        """Accuracy over images and over classes."""
        return {name: float(np.nan_to_num(getattr(metrics, name))) for name in self.FIGURES}


def train_classifier(config: TrainClassifier, console: Console | None = None) -> ClassifierRun:
    """Train as `config` says.

    Args:
        config: the settings.
        console: where progress is shown; none is shown without.

    Raises:
        ValueError: wrong settings or data; the message names file, item and remedy.
        TrainingError: a loss is not finite, or the backbone's weights cannot be had.
    """
    with session(config, console) as sitting:
        return _train(sitting)


def _train(sitting: Session[TrainClassifier]) -> ClassifierRun:
    console = sitting.console
    if sitting.state is None:
        _refuse_idle_shares(sitting.config)
    splits = load_labelled_data(sitting.config, console)
    print_labelled_data(console, splits)
    train_data, val_data = splits["train"], splits["val"]
    # Made here, so that a wrong name is told before images are read.
    augmentation = augmentation_of(sitting.config)
    augmentation(sitting.config.size)
    train = open_labelled(train_data, sitting.config.size, "training images", console)
    val = open_labelled(val_data, sitting.config.size, "validation images", console)
    asked = sitting.config
    config = sitting.config = resolve(sitting, train, _architecture(sitting.config, len(train_data.categories)))
    architecture = _architecture(config, len(train_data.categories))
    model, freeze = sitting.build(architecture, len(train))
    folder = sitting.open_folder()
    only_head = config.head == "first" and freeze == len(model.backbone.stages)
    choice = Choice("fp32", True) if only_head else sitting.choose_precision(architecture, freeze)
    run = ClassifierRun(folder, config, train, val, sitting.accelerator.is_main_process)
    samples = TrainingSamples(train, config.seed, augmentation)
    if only_head and sitting.state is None:
        tell(console, f"only the head learns, and it is solved at once{_without_effect(asked)}")
    if config.head == "first" and sitting.state is None:
        # With the loss that training goes on with, so that the head is where that would lead it. A head that is all
        # there is has no need of it, and its probabilities are the better for it.
        solve_head(sitting, model, train, samples, label_smoothing=0.0 if only_head else config.label_smoothing)
    sitting.fit(
        run,
        model,
        architecture,
        freeze=freeze,
        choice=choice,
        samples=samples,
        collate=collate_labels,
        trained=only_head,
    )
    return run


def _without_effect(config: TrainClassifier) -> str:
    """What was set of the steps of training, where there are none."""
    ignored = given(config, OF_STEPS)
    return f"; without effect: {', '.join(ignored)}" if ignored else ""


def augmentation_of(config: TrainClassifier) -> partial[Augmentation]:
    """Makes the augmentation of an input size."""
    return partial(Augmentation, names=config.augment)


def _architecture(config: TrainClassifier, classes: int) -> dict[str, Any]:
    """What `build_model` needs."""
    return {
        "kind": "classifier",
        "backbone": config.backbone,
        # Pretrained statistics are kept: batches are too small, and images too few, for better ones.
        "folded": config.weights != "none",
        "num_classes": classes,
        "dropout": config.dropout,
        "label_smoothing": config.label_smoothing,
    }


# ------------------------------------------------------------------ data


def _refuse_idle_shares(config: TrainClassifier) -> None:
    """Raise ValueError where shares are given and there is nothing to divide by them."""
    if config.data is None or not (asked := given(config, OF_DIVISION)):
        return
    splits = read_label_splits(config.data, images=config.images)
    if "val" in splits:
        raise ValueError(f"{config.data}: is divided already, into {', '.join(splits)}; leave out {', '.join(asked)}")


def load_labelled_data(config: TrainClassifier, console: Console, *, judged: str = "val") -> dict[str, LabelledImages]:
    """The images of a run: "train", "val" and, where there is one, "test".

    Training images and those of the split `judged` are checked, and mended if asked for; others are as read.

    Raises:
        ValueError: nothing readable is there, or it has errors; the message names file, item and remedy.
    """
    if config.data is not None:
        splits = read_labelled_dataset(config.data, split=config.split, seed=config.split_seed, images=config.images)
    else:
        assert config.train is not None and config.val is not None
        train, val = (
            own_split(path, read_label_splits(path, images=config.images), split)
            for path, split in ((config.train, "train"), (config.val, "val"))
        )
        splits = {"train": train, "val": matched_to(train.categories, val)}
    if judged in splits and not len(splits[judged]):
        raise ValueError(f"{splits[judged].source}: the {judged} split has no images to judge a model by; add some")
    check = partial(checked, mend=config.repair, tell=partial(tell, console))
    splits["train"] = check(splits["train"], None)
    if judged in splits and judged != "train":
        splits[judged] = check(splits[judged], splits["train"])
    return splits


def matched_to(categories: tuple[Category, ...], data: LabelledImages) -> LabelledImages:
    """`data` with the classes of training, matched by name: folders number them by what happens to be there.

    Raises:
        AnnotationError: it has images of another class.
    """
    names = [category.name for category in categories]
    found = zip(data.names, data.counts.tolist(), strict=True)
    if any(count and name not in names for name, count in found):
        raise AnnotationError(category_difference(categories, data.categories, data.source))
    table = np.array([names.index(name) if name in names else -1 for name in data.names], np.int64)
    return replace(data, categories=categories, labels=table[data.labels])


def open_labelled(data: LabelledImages, size: int, what: str, console: Console) -> ClassificationDataset:
    """The images read and kept, see `open_images`, large enough to see what `predict` sees of their files.

    Args:
        data: the images and their classes.
        size: of the model's input.
        what: the images are.
        console: where progress is shown.
    """
    kind = partial(ClassificationDataset, short_side=round(size * RESIZE))
    return open_images(kind, data, round(size * CACHE_ZOOM), what, console)


def print_labelled_data(console: Console, splits: Mapping[str, LabelledImages]) -> None:
    """Say how much there is of each split, and which label each class gets."""
    train, val = splits["train"], splits["val"]
    line = f"training on {len(train)} images of {len(train.categories)} classes, validating on {len(val)}"
    if len(splits.get("test", ())):
        line += f"; {len(splits['test'])} are left for detseg evaluate --split test"
    tell(console, line)
    tell(console, "labels: " + ", ".join(f"{k}={name}" for k, name in enumerate(train.names)))


# ------------------------------------------------------------------ judging


def see_images(
    model: nn.Module, data: ClassificationDataset, indices: Sequence[int], size: int, *, ten_crop: bool = False
) -> NDArray[np.float32]:
    """(len(indices), K) class probabilities of some images of a dataset."""
    seen = classify(model, (data.images[i] for i in indices), size, ten_crop=ten_crop)
    return np.array(list(seen), np.float32).reshape(len(indices), len(data.labelled.categories))


def judge_images(
    labelled: LabelledImages, probabilities: NDArray[np.float32], *, resamples: int = 1000
) -> ClassificationMetrics:
    """Metrics of one prediction for each image of a set; `resamples` for the intervals."""
    evaluator = ClassificationEvaluator(labelled.names, "probabilities")
    evaluator.update(probabilities, labelled.labels, labelled.image_ids)
    return evaluator.compute(resamples=resamples)
