"""The classifier's task: one class an image, by transfer learning."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from detseg.console import print_line
from detseg.data.annotations import AnnotationError, Category, category_difference
from detseg.data.augment.classification_transforms import RESIZE, ClassificationTransform
from detseg.data.augment.strengths import OF_CLASSES, strengths
from detseg.data.checks.learnable import require_learnable
from detseg.data.checks.validate import checked
from detseg.data.dataset import ClassificationDataset, LabelledSample, collate_labels
from detseg.data.formats import read_label_splits, read_labelled_dataset
from detseg.data.labels import LabelledImages
from detseg.metrics import ClassificationEvaluator
from detseg.metrics.classification import FIGURES
from detseg.options import given, require_positive
from detseg.predict.classifier import classify
from detseg.train.config import TrainConfig
from detseg.train.data import open_images, own_split
from detseg.train.process import Process
from detseg.train.sampler import TrainingSamples
from detseg.train.task import Task
from detseg.train.tasks.transfer import resolve, solve_head

# Options of how labelled images are split, where they are not.
OF_SPLITTING = ("split", "split_seed")
# The long side of cached images over the input size, of those that are not much longer than wide.
CACHE_ZOOM = 1.5
# Settings that mean nothing where the head alone learns, which is solved and not trained.
OF_STEPS = (
    *(
        "epochs",
        "minutes",
        "patience",
        "batch_size",
        "accumulate",
        "optimizer",
        "lr",
        "find_lr",
        "backbone_lr",
        "stage_decay",
    ),
    *("weight_decay", "schedule", "multi_scale", "precision", "dropout", "label_smoothing"),
)


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(TrainConfig):
    """Train an image classifier: one class per image.

    Data: --data (a folder per class, a CSV table, or an HDF5 file of `detseg pack`; split automatically if it has no
    splits), or --train and --val. By default the training strategy is chosen by the number of images and their
    similarity to ImageNet, and printed.

    Train for 30 minutes; train only a linear layer, in seconds; train LeNet-5 from scratch:

        detseg train classifier --data species/ --minutes 30
        detseg train classifier --data species/ --strategy probe
        detseg train classifier --data species/ --backbone lenet5 --weights none --size 32 --epochs 50
    """

    task: ClassVar[str] = "classifier"
    smallest_size: ClassVar[int] = 32

    model: str = "classifier"
    """Classifier, by name; each adds options of its own: detseg train classifier --model NAME --help."""
    size: int = 192
    """Input size: side of the square crop, in pixels; a multiple of 32."""
    batch_size: int = 16
    """Images per batch, per process."""
    images: Path | None = None
    """Folder of the images that a CSV table names, where they are not beside it."""
    split: tuple[float, ...] = (0.75, 0.15, 0.10)
    """Fractions of training, validation and test images, if the data have no splits."""
    split_seed: int = 0
    """Random seed of that split."""
    strategy: Literal["auto", "probe", "partial", "finetune", "full", "scratch"] = "auto"
    """probe: a linear layer only; partial: later stages too; finetune: all, early stages slowly; full, scratch: all."""
    fit_head: Literal["first", "together"] | None = None
    """Solve the last layer on frozen features first, or train all together. By default first if pretrained."""
    views: int = 2
    """Views per image on which the head is solved: centre crop, its mirror image, then augmented ones."""
    augment: tuple[str, ...] | None = None
    """Strengths, such as rotate=10 zoom=1.1, of patch*, scale, rotate, zoom*, warp, light, colour, blur, noise (*: off
    unless named). 0 switches one off; names without a number leave those alone on."""
    repair: bool = False
    """Leave out images that have errors, and list them; otherwise errors stop."""
    ten_crop: bool = False
    """Evaluate on the average of ten crops (corners and centre, and mirrored): ten times slower."""

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """With `flip` of its own, which once was among the augmentations, and `fit_head`, which was `head`."""
        if "fit_head" not in content and not isinstance(content.get("head"), list):
            content = content | {"fit_head": content.get("head"), "head": ()}
        names = content.get("augment")
        if not isinstance(names, list) or "flip" in content:
            return content
        flip = {(True, True): "both", (True, False): "horizontal", (False, True): "vertical"}.get(
            ("flip" in names, "flip-vertical" in names), "none"
        )
        return content | {"flip": flip, "augment": [name for name in names if not str(name).startswith("flip")]}

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        super().check()
        require_positive(self, "views")
        strengths(self.augment or (), OF_CLASSES)
        if self.data is None and self.resume is None and (asked := ", ".join(given(self, OF_SPLITTING))):
            raise ValueError(f"{asked}: for --data that are not divided; leave it out where --val is given")
        if getattr(self, "head", ()) and self.fit_head == "first":  # a model of one's own may have no such option
            raise ValueError("--fit-head first solves a single linear layer; leave it out, or leave out --head")
        if self.weights == "none" and self.strategy not in ("auto", "scratch"):
            raise ValueError(f"--strategy {self.strategy} builds on trained weights; leave out --weights none")
        return self


class Augmentation:
    """`ClassificationTransform` for samples: (image, label) in and out."""

    def __init__(self, size: int, **options: Any) -> None:
        self.transform = ClassificationTransform(size, **options)

    def __call__(self, sample: LabelledSample, rng: np.random.Generator) -> LabelledSample:
        """Augment the image; the label stays."""
        return self.transform(sample[0], rng), sample[1]


class ClassifierTask(Task):
    """Classifiers: labelled images in, accuracy out."""

    name: ClassVar[str] = "classifier"
    Options = ClassifierOptions
    FIGURES = FIGURES
    collate = staticmethod(collate_labels)

    @property
    def headline(self) -> Sequence[str]:
        """Accuracy over images and over classes."""
        return ("top1", "mean_class_accuracy")

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        """Training and validation images."""
        _refuse_idle_shares(self.config)
        splits = load_labelled_data(self.config, self.console)
        require_learnable(splits["train"])
        print_labelled_data(self.console, splits)
        augmentation_of(self.config)(self.config.size)  # a wrong strength is told before images are read
        return splits["train"], splits["val"]

    def open(self, data: LabelledImages, split: str) -> ClassificationDataset:
        """The images, large enough to see what `predict` sees of their files."""
        return open_labelled(data, self.config.size, f"{split} images", self.console)

    def annotations_of(self, dataset: ClassificationDataset) -> LabelledImages:
        """The labels of the images of a dataset."""
        return dataset.labelled

    def contents(self, dataset: ClassificationDataset) -> Sequence[NDArray[Any]]:
        """The labels, and whose they are."""
        data = dataset.labelled
        return data.image_ids, data.sizes, data.labels

    def samples(self, dataset: ClassificationDataset, config: Any) -> TrainingSamples:
        """Augmented images."""
        return TrainingSamples(dataset, config.seed, augmentation_of(config))

    def resolved(self, process: Process, model: Any, architecture: dict[str, Any], train: Any) -> Any:
        """What the strategy of transfer decides, filled in."""
        self._asked = self.config
        return resolve(process, train, architecture)

    def head_only(self, all_frozen: bool) -> bool:
        """A solved head on a frozen backbone leaves nothing to train."""
        return all_frozen and self.config.fit_head == "first"

    def prepared(self, process: Process, model: Any, samples: TrainingSamples, head_only: bool) -> None:
        """Solve the head."""
        if head_only:
            line = f"only the head learns, and it is solved at once{_without_effect(self._asked)}"
            print_line(self.console, line)
        if self.config.fit_head == "first":
            # With the loss that training goes on with, so that the head is where that would lead it. A head that is
            # all there is has no need of it, and its probabilities are the better for it.
            smoothing = 0.0 if head_only else self.config.label_smoothing
            solve_head(process, model, samples.dataset, samples, label_smoothing=smoothing)

    def evaluator(self, dataset: ClassificationDataset) -> ClassificationEvaluator:
        """Metrics of probabilities."""
        return ClassificationEvaluator(dataset.labelled.names, "probabilities")

    def predict(self, model: nn.Module, dataset: ClassificationDataset, indices: Iterable[int]) -> Iterable[Any]:
        """(K,) class probabilities of each image."""
        images = (dataset.images[i] for i in indices)
        return classify(model, images, self.config.size, ten_crop=self.config.ten_crop)

    def joined(self, kept: list[Any]) -> NDArray[np.float32]:
        """(N, K) class probabilities."""
        return np.array(kept, np.float32)

    def target(self, dataset: ClassificationDataset, index: int) -> int:
        """The label."""
        return int(dataset.labelled.labels[index])


def _without_effect(config: Any) -> str:
    """What was set of the steps of training, where there are none."""
    ignored = given(config, OF_STEPS)
    return f"; without effect: {', '.join(ignored)}" if ignored else ""


def augmentation_of(config: Any) -> partial[Augmentation]:
    """Makes the augmentation of an input size."""
    return partial(Augmentation, flip=config.flip, **strengths(config.augment or (), OF_CLASSES))


# ------------------------------------------------------------------ data


def _refuse_idle_shares(config: Any) -> None:
    """Raise ValueError where shares are given and there is nothing to divide by them."""
    if config.data is None or not (asked := given(config, OF_SPLITTING)):
        return
    splits = read_label_splits(config.data, images=config.images)
    if "val" in splits:
        raise ValueError(f"{config.data}: is divided already, into {', '.join(splits)}; leave out {', '.join(asked)}")


def load_labelled_data(config: Any, console: Console, *, evaluated: str = "val") -> dict[str, LabelledImages]:
    """The images of a run: "train", "val" and, where there is one, "test".

    Training images and those of the split `evaluated` are checked, and repaired if asked for; others are as read.

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
    if evaluated in splits and not len(splits[evaluated]):
        raise ValueError(
            f"{splits[evaluated].source}: the {evaluated} split has no images to evaluate a model on; add some"
        )
    check = partial(checked, repairing=config.repair, print_line=partial(print_line, console))
    splits["train"] = check(splits["train"], None)
    if evaluated in splits and evaluated != "train":
        splits[evaluated] = check(splits[evaluated], splits["train"])
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
    """Print how much there is of each split, and which label each class gets."""
    train, val = splits["train"], splits["val"]
    line = f"training on {len(train)} images of {len(train.categories)} classes, validating on {len(val)}"
    if len(splits.get("test", ())):
        line += f"; {len(splits['test'])} are left for detseg evaluate --split test"
    print_line(console, line)
    print_line(console, "labels: " + ", ".join(f"{k}={name}" for k, name in enumerate(train.names)))
