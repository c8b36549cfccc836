"""How good the classifier of a run is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from detseg.cli.evaluate import (
    Evaluate,
    Verdict,
    limit_columns,
    own_images,
    pick_split,
    read_with_images,
    settings_of,
)
from detseg.data.annotations import Category
from detseg.data.checks.validate import raise_on_problems
from detseg.data.formats import read_label_splits
from detseg.data.labels import LabelledImages
from detseg.metrics.bootstrap.draws import Comparison, difference_of, draw, mean_over_classes
from detseg.metrics.classification import ClassificationMetrics
from detseg.models import load_model
from detseg.report.classification_tables import MEANINGS, classification_tables
from detseg.report.tables import comparison_table
from detseg.train.config import TrainClassifier
from detseg.train.tasks.classifier import judge_images, load_labelled_data, matched_to, open_labelled, see_images

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LEVEL = 0.95


def judge(config: Evaluate, console: Console) -> Verdict:
    """Judge as `config` says; `console` shows what takes time.

    Raises:
        ValueError: a file is missing or wrong; the message names it, the item and what is wrong.
    """
    sides = [path for path in (config.detections, config.compare) if path is not None]
    seen = [_look(path, config, console) for path in sides]
    labelled, probabilities = seen[0]
    metrics = judge_images(labelled, probabilities, resamples=config.resamples)
    content = metrics.to_dict()
    tables: list[RenderableType] = [classification_tables(metrics)]
    if len(seen) > 1:
        comparison = compare_classifiers(labelled, probabilities, _in_order_of(labelled, *seen[1]), config.resamples)
        content["comparison"] = comparison.to_dict()
        titles = {name: title for name, (title, _) in MEANINGS.items()}
        tables.append(comparison_table(comparison, labelled.names, of="accuracy", what="images", titles=titles))
    return Verdict(content, _rows(metrics), tables)


def _rows(metrics: ClassificationMetrics) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"class": "", "images": metrics.images, **metrics.figures()}]
    rows[0] |= limit_columns(metrics.intervals)
    for row in metrics.per_class:
        columns = {"class": row.name, "images": row.count, "predicted": row.predicted}
        rows.append(columns | {name: getattr(row, name) for name in ("precision", "recall", "f1")})
    return rows


def _look(folder: Path, config: Evaluate, console: Console) -> tuple[LabelledImages, NDArray[np.float32]]:
    """The images to judge by, with the labels of a run, and what its model says of them."""
    model, description = load_model(folder)
    categories = tuple(Category(int(entry["id"]), str(entry["name"])) for entry in description["categories"])
    judged = _truth(folder, categories, config, console)
    size = int(description["size"])
    data = open_labelled(judged, size, "images", console)
    model.to(device=PartialState().device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return judged, see_images(model, data, range(len(data)), size, ten_crop=config.ten_crop)


def _truth(folder: Path, categories: tuple[Category, ...], config: Evaluate, console: Console) -> LabelledImages:
    """The images, checked, with the classes of a run: as given, or those of a split of the run's own."""
    path = config.ground_truth
    if path is None:
        trained = settings_of(TrainClassifier, folder)
        trained = replace(trained, images=config.images or trained.images)
        splits = load_labelled_data(trained, console, judged=config.split or "val")
        return splits[pick_split(trained.data or folder, splits, config.split)]

    def read(images: Path | None) -> LabelledImages:
        splits = read_label_splits(path, images=images)
        return splits[pick_split(path, splits, config.split)]

    truth = read_with_images(read, config.images, own_images(TrainClassifier, folder))
    truth = matched_to(categories, truth)
    raise_on_problems(truth.validate())
    return truth


def _in_order_of(
    wanted: LabelledImages, other: LabelledImages, probabilities: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What another run says of the same images, in their order and with their classes' order."""
    place = {path: row for row, path in enumerate(other.paths.tolist())}
    if set(place) != set(wanted.paths.tolist()) or set(other.names) != set(wanted.names):
        raise ValueError(
            f"{other.source}: the other run was validated on other images or classes; give both the same by "
            "--ground-truth"
        )
    rows = [place[path] for path in wanted.paths.tolist()]
    return probabilities[rows][:, [other.names.index(name) for name in wanted.names]]


def compare_classifiers(
    labelled: LabelledImages, a: NDArray[np.float32], b: NDArray[np.float32], resamples: int, seed: int = 0
) -> Comparison:
    """Whether b classifies the images better than a: their accuracies on the same draws of the images.

    Args:
        labelled: N images of K classes.
        a, b: (N, K) probabilities.
        resamples: how often the images are drawn.
        seed: of that.
    """
    labels = labelled.labels
    member = np.eye(len(labelled.names))[labels]  # (N, K)
    right = [(side.argmax(1) == labels).astype(np.float64) for side in (a, b)]
    weights = draw(len(labels), range(resamples), seed)
    with np.errstate(invalid="ignore"):
        spreads = [(weights @ (member * side[:, None])) / (weights @ member) for side in right]  # (R, K)
        recalls = [(side @ member) / member.sum(0) for side in right]
    tell = bool((right[0] != right[1]).any())
    top1 = [side.mean() for side in right]
    gain = weights @ (right[1] - right[0]) / len(labels)
    means: Sequence[NDArray[np.float64]] = [mean_over_classes(spread) for spread in spreads]
    figures = {
        "top1": difference_of(float(top1[0]), float(top1[1]), gain, LEVEL, tell),
        "mean_class_accuracy": difference_of(
            float(np.nanmean(recalls[0])), float(np.nanmean(recalls[1])), means[1] - means[0], LEVEL, tell
        ),
    }
    per_class = tuple(
        difference_of(float(recalls[0][k]), float(recalls[1][k]), spreads[1][:, k] - spreads[0][:, k], LEVEL, tell)
        for k in range(len(labelled.names))
    )
    return Comparison(LEVEL, resamples, figures, per_class)
