"""How good the classifier of a run is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from rich.console import Console, RenderableType

from detseg.cli.evaluate import (
    Evaluate,
    Evaluator,
    Verdict,
    limit_columns,
    own_images,
    pick_split,
    read_with_images,
    settings_of,
)
from detseg.data.annotations import Category
from detseg.data.base import with_channels
from detseg.data.checks.validate import raise_on_problems, validate
from detseg.data.formats import read_label_splits
from detseg.data.labels import LabelledImages
from detseg.metrics.bootstrap.classification import compare_classification
from detseg.metrics.classification import FIGURES, ClassificationEvaluator, ClassificationMetrics
from detseg.models import load_model
from detseg.predict.classifier import classify
from detseg.report.tables import classification
from detseg.report.tables.builders import comparison_table
from detseg.train.tasks.classifier import load_labelled_data, matched_to, open_labelled


def evaluate(config: Evaluate, console: Console) -> Verdict:
    """Evaluate as `config` says; `console` shows progress.

    Raises:
        ValueError: a file is missing or wrong; the message names it, the item and what is wrong.
    """
    sides = [path for path in (config.detections, config.compare) if path is not None]
    seen = [_look(path, config, console) for path in sides]
    labelled, probabilities = seen[0]
    metrics = _measure(labelled, probabilities, config.resamples)
    content = metrics.to_dict()
    tables: list[RenderableType] = [classification.tables(metrics)]
    if len(seen) > 1:
        other = _in_order_of(labelled, *seen[1])
        comparison = compare_classification(labelled.labels, probabilities, other, resamples=config.resamples)
        content["comparison"] = comparison.to_dict()
        tables.append(comparison_table(comparison, labelled.names, FIGURES, of="accuracy", what="images"))
    return Verdict(content, _rows(metrics), tables)


def _rows(metrics: ClassificationMetrics) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"class": "", "images": metrics.images, **metrics.figures()}]
    rows[0] |= limit_columns(metrics.intervals)
    for row in metrics.per_class:
        columns = {"class": row.name, "images": row.count, "predicted": row.predicted}
        rows.append(columns | {name: getattr(row, name) for name in ("precision", "recall", "f1")})
    return rows


def _look(folder: Path, config: Evaluate, console: Console) -> tuple[LabelledImages, NDArray[np.float32]]:
    """The images to evaluate on, with the labels of a run, and what its model says of them."""
    model, description = load_model(folder)
    categories = tuple(Category(int(entry["id"]), str(entry["name"])) for entry in description["categories"])
    evaluated = _truth(folder, categories, config, console)
    size = int(description["size"])
    evaluated = with_channels(evaluated, description["architecture"].get("in_channels", 3))
    data = open_labelled(evaluated, size, "images", console)
    model.to(device=PartialState().device, memory_format=torch.channels_last)
    probabilities = classify(model, map(data.images.__getitem__, range(len(data))), size, ten_crop=config.ten_crop)
    return evaluated, np.array(list(probabilities), np.float32).reshape(len(data), len(categories))


def _truth(folder: Path, categories: tuple[Category, ...], config: Evaluate, console: Console) -> LabelledImages:
    """The images, checked, with the classes of a run: as given, or those of a split of the run's own."""
    path = config.ground_truth
    if path is None:
        trained = settings_of(folder)
        trained = replace(trained, images=config.images or trained.images)
        splits = load_labelled_data(trained, console, evaluated=config.split or "val")
        return splits[pick_split(trained.data or folder, splits, config.split)]

    def read(images: Path | None) -> LabelledImages:
        splits = read_label_splits(path, images=images)
        return splits[pick_split(path, splits, config.split)]

    truth = read_with_images(read, config.images, own_images(folder))
    truth = matched_to(categories, truth)
    raise_on_problems(validate(truth))
    return truth


def _measure(labelled: LabelledImages, probabilities: NDArray[np.float32], resamples: int) -> ClassificationMetrics:
    evaluator = ClassificationEvaluator(labelled.names, "probabilities")
    evaluator.update(probabilities, labelled.labels, labelled.image_ids)
    return evaluator.compute(resamples=resamples)


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


CLASSES = Evaluator("classes", evaluate, ("ten_crop",))
