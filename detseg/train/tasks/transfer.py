"""Transfer learning: a strategy for a set of images, and a head solved on features that are computed once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.classify import Similarity, fit_softmax_regression, measure_similarity
from detseg.console import print_line
from detseg.data.augment.classification_transforms import ClassificationEval
from detseg.data.dataset import ClassificationDataset
from detseg.predict.predictor import memory_format
from detseg.train.process import Process
from detseg.train.sampler import Request, TrainingSamples
from detseg.train.tasks.strategy import STRATEGIES, choose_strategy

# Similarity is measured on so many images, drawn by the seed; with more, its second decimal stays the same.
LOOK_AT = 256
BATCH = 32


def resolve(process: Process, train: ClassificationDataset, architecture: Mapping[str, Any]) -> Any:
    """The settings, with what the strategy decides filled in; prints which one it is and why.

    What was given is kept. A resumed run has everything filled in already.

    Args:
        process: the process.
        train: the training images.
        architecture: of the model.

    Raises:
        TrainingError: the backbone's weights cannot be had.
    """
    config = process.config
    if process.state is not None:
        return config
    # Folded batch norms would have forgotten what they have seen; those of an earlier run mostly are.
    model, _ = process.make({**architecture, "folded": False}, train.labelled.names)
    name, why = str(config.strategy), "as asked for"
    if config.weights == "none":
        name, why = "scratch", "there are no trained weights to build on"
    elif name == "auto":
        strategy, why = choose_strategy(
            len(train), int((train.labelled.counts > 0).sum()), _similarity(process, model, train)
        )
        name = strategy.name
    strategy = STRATEGIES[name]
    stages = len(model.backbone.stages)
    solvable = strategy.head_first and not getattr(config, "head", ())
    filled: dict[str, Any] = {
        "freeze": round(strategy.frozen * stages),
        # A head that is trained already knows more than these images can tell.
        "fit_head": "first" if solvable and not process.starts_whole else "together",
        "lr": strategy.lr,
        "backbone_lr": strategy.backbone_lr,
        "stage_decay": strategy.stage_decay,
    }
    filled = {key: value for key, value in filled.items() if getattr(config, key) is None}
    print_line(process.console, f"strategy: {name}; {why}")
    return replace(config, strategy=name, **filled)


def _similarity(process: Process, model: Any, train: ClassificationDataset) -> Similarity | None:
    """Of some training images; measured in all processes alike."""
    config = process.config
    chosen = np.random.default_rng((config.seed, 4)).permutation(len(train))[:LOOK_AT]
    cut = ClassificationEval(config.size)
    model.to(device=process.accelerator.device, memory_format=torch.channels_last)
    return measure_similarity(model, (images for images, _ in _batches(model, chosen, lambda i: cut(train[i][0]))))


def solve_head(
    process: Process,
    model: Any,
    train: ClassificationDataset,
    samples: TrainingSamples,
    *,
    label_smoothing: float,
) -> None:
    """Give the head of a classifier the best weights for its features as they are, in place.

    The backbone looks at every view of every image once, each process at its share of them.

    Args:
        process: the process.
        model: the classifier.
        train: the training images.
        samples: their augmented views.
        label_smoothing: of the loss.
    """
    config, accelerator = process.config, process.accelerator
    model.to(device=accelerator.device, memory_format=torch.channels_last)
    mine = range(accelerator.process_index, len(train), accelerator.num_processes)
    views = [_view(train, samples, config, number) for number in range(config.views)]
    share = torch.stack([extract(model, mine, view) for view in views])
    shares = gather_object([(list(mine), share)])
    order = torch.tensor([index for indices, _ in shares for index in indices]).argsort()
    features = torch.cat([features for _, features in shares], 1)[:, order].to(accelerator.device)
    labels = torch.from_numpy(train.labelled.labels).to(accelerator.device)
    solved = fit_softmax_regression(
        features, labels, model.num_classes, label_smoothing=label_smoothing, seed=config.seed
    )
    with torch.no_grad():
        model.classifier.weight.copy_(solved.weight)
        model.classifier.bias.copy_(solved.bias)
    held_out = f", {solved.losses[solved.penalty]:.3f} on images held out" if solved.losses else ""
    print_line(
        process.console,
        f"head: solved on {features.shape[-1]} features of {config.views} x {len(train)} views; penalty "
        f"{solved.penalty:g}{held_out}",
    )


@torch.inference_mode()
def extract(model: Any, indices: Sequence[int], view: Any) -> Tensor:
    """Pooled features (len(indices), C) float32 on the CPU.

    Args:
        model: a classifier; it is put into evaluation mode.
        indices: of images.
        view: gives the image (size, size, 3) of an index.
    """
    model.eval()
    none = torch.zeros(0, model.classifier.in_features)  # a process may have no image
    seen = (model.features(images).float().cpu() for images, _ in _batches(model, indices, view))
    return torch.cat([none, *seen])


def _batches(model: nn.Module, indices: Iterable[int], view: Any) -> Iterator[tuple[Tensor, list[int]]]:
    """Images in batches, where the model is."""
    device, layout = next(model.parameters()).device, memory_format(model)
    left = [int(index) for index in indices]
    for first in range(0, len(left), BATCH):
        batch = left[first : first + BATCH]
        images = torch.from_numpy(np.stack([view(index) for index in batch])).permute(0, 3, 1, 2)
        yield images.to(device, memory_format=layout), batch


def _view(train: ClassificationDataset, samples: TrainingSamples, config: Any, number: int) -> Any:
    """How to see an image the first time, the second, …: its centre, that mirrored as `--flip` says, then augmented."""
    cut = ClassificationEval(config.size)
    mirrored = {"none": None, "vertical": np.s_[::-1]}.get(config.flip, np.s_[:, ::-1])

    def view(index: int) -> NDArray[np.uint8]:
        if number > 1 or (number == 1 and mirrored is None):
            return samples[Request(10**6 + number, index, index, config.size, False)][0][0]
        image = cut(train[index][0])
        return image if number == 0 else np.ascontiguousarray(image[mirrored])

    return view
