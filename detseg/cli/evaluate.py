"""`detseg evaluate`: how good detections are, how sure that is, and what is wrong with them."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.data.annotations import Annotations
    from detseg.metrics.analysis import Analysis
    from detseg.metrics.inputs import Detections


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge detections the COCO way: mean average precision with its interval, classes, errors, confusions.

    A file of detections; the model of a training run, on its validation pictures; is the second better?

        detseg evaluate --ground-truth gt.json --detections dt.json
        detseg evaluate --detections runs/detector-1
        detseg evaluate --ground-truth gt.json --detections dt.json --compare other.json
    """

    detections: Path
    """COCO results JSON file: a list of image_id, category_id, bbox (x, y, width, height) and score. Or the folder of
    a training run, whose model then looks at the pictures."""
    ground_truth: Path | None = None
    """COCO JSON file with images, annotations and categories; for a run any annotations that it could be trained on.
    By default those that the run was validated on."""
    iou_type: Literal["bbox", "segm"] = "bbox"
    """Compare boxes, or masks (both files then need a segmentation for every entry)."""
    compare: Path | None = None
    """Other detections of the same pictures, a file or the folder of a run: are they better?"""
    resamples: int = 1000
    """How often to draw the pictures anew for the 95 % intervals; 0 leaves them out."""
    score_threshold: float | None = None
    """Of the confusion matrix: detections below are left out; by default the score with the best F1."""
    json: bool = False
    """Print JSON instead of tables, and nothing else."""
    csv: Path | None = None
    """Write a table to this file, a row for all classes and one for each."""


def run(config: Evaluate) -> int:
    """Print the metrics; returns the exit code.

    Raises:
        ValueError: a file is missing or wrong; the message names it, the item and what is wrong.
    """
    from rich.console import Console

    from detseg.metrics.analysis import analyse, none_for_nan
    from detseg.metrics.resampling import compare
    from detseg.report.tables import analysis_tables, comparison_table

    _check(config)
    truth, detections, other = _sides(config, Console(stderr=True))
    analysis = analyse(
        truth, detections, config.iou_type, resamples=config.resamples, score_threshold=config.score_threshold
    )
    comparison = None
    if other is not None:
        comparison = compare(truth, detections, other, config.iou_type, resamples=config.resamples)
    if config.csv is not None:
        write_csv(analysis, config.csv)
    if config.json:
        told = none_for_nan(comparison.to_dict()) if comparison else None
        content = analysis.to_dict() | ({"comparison": told} if told else {})
        print(json.dumps(content, indent=2, allow_nan=False))
        return 0
    console = Console()
    console.print(analysis_tables(analysis))
    if comparison is not None:
        console.print(comparison_table(comparison, [row.name for row in analysis.metrics.per_class]))
    return 0


def write_csv(analysis: Analysis, path: Path) -> None:
    """Write a row for all classes together and one for each class; empty where there is nothing to tell."""
    metrics, intervals, best = analysis.metrics, analysis.intervals, analysis.thresholds
    figures = metrics.figures()
    rows: list[dict[str, Any]] = [
        {"class": "", "category_id": "", "objects": metrics.objects, "pictures": metrics.pictures}
        | figures
        | _best_columns(best.overall)
    ]
    if intervals is not None:
        rows[0] |= _limit_columns(intervals.figures)
    for k, row in enumerate(metrics.per_class):
        columns = {"class": row.name, "category_id": row.category_id, "objects": row.objects, "pictures": row.pictures}
        columns |= dict(row.figures) | _best_columns(best.per_class[k])
        if intervals is not None:
            columns |= _limit_columns({"AP": intervals.per_class[k].ap, "AP50": intervals.per_class[k].ap50})
        rows.append(columns)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), restval="")
        writer.writeheader()
        for columns in rows:
            writer.writerow({n: "" if isinstance(v, float) and math.isnan(v) else v for n, v in columns.items()})


def _best_columns(best: Any) -> dict[str, float]:
    columns = {"score": best.score, "precision": best.precision, "recall": best.recall, "f1": best.f1}
    return {f"best_{name}": value for name, value in columns.items()}


def _limit_columns(intervals: dict[str, Any]) -> dict[str, float]:
    return {f"{name}_{end}": getattr(limits, end) for name, limits in intervals.items() for end in ("low", "high")}


# ------------------------------------------------------------------ files and runs


def _check(config: Evaluate) -> None:
    """Raise ValueError where options contradict each other or make no sense."""
    if config.resamples < 0:
        raise ValueError(f"--resamples must not be negative, it is {config.resamples}")
    if config.compare is not None and not config.resamples:
        raise ValueError("--compare draws resamples; leave out --resamples 0")
    if config.ground_truth is None and not config.detections.is_dir():
        raise ValueError(
            f"--ground-truth is missing: {config.detections} is a file of detections (only the folder of a run knows "
            "what it was validated on)"
        )
    runs = [path for path in (config.detections, config.compare) if path is not None and path.is_dir()]
    if runs and config.iou_type == "segm":
        raise ValueError(f"{runs[0]}: the model finds boxes and no masks; leave out --iou-type segm")


def _sides(config: Evaluate, console: Console) -> tuple[Any, Any, Any]:
    """Ground truth, detections and, or None, the other detections."""
    paths = [path for path in (config.detections, config.compare) if path is not None]
    truth: Any = config.ground_truth
    if any(path.is_dir() for path in paths):
        truth = _annotations(config, console)
    sides = [_predict(path, truth, console) if path.is_dir() else path for path in paths]
    return truth, sides[0], sides[1] if len(sides) > 1 else None


def _annotations(config: Evaluate, console: Console) -> Annotations:
    """The annotations with their pictures: as given, or those that the run was validated on."""
    from detseg.data.readers import read_annotations
    from detseg.data.validate import raise_on_problems, validate
    from detseg.train.checkpoint import read_description
    from detseg.train.config import TrainDetector
    from detseg.train.data import load_data

    if config.ground_truth is None:
        read_description(config.detections)  # a folder that holds no run is told as such
        return load_data(TrainDetector.load(config.detections), console)[1]
    annotations = read_annotations(config.ground_truth)
    raise_on_problems(validate(annotations))
    return annotations


def _predict(folder: Path, truth: Annotations, console: Console) -> Detections:
    """What the model of a run finds in the pictures."""
    import torch
    from accelerate import PartialState

    from detseg.data.annotations import Category, match_categories
    from detseg.data.dataset import DetectionDataset
    from detseg.metrics.inputs import Detections
    from detseg.train.checkpoint import load_model
    from detseg.train.data import open_pictures
    from detseg.train.detector import predict_dataset

    model, description = load_model(folder)
    categories = [Category(int(c["id"]), str(c["name"])) for c in description["categories"]]
    match_categories(categories, truth)  # tells the difference, if there is one
    size = int(description["size"])
    pictures = open_pictures(DetectionDataset, truth, size, "pictures", console)
    model.to(device=PartialState().device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    predictions = predict_dataset(model, pictures, range(len(pictures)), size)
    return Detections.from_predictions(predictions, truth.image_ids.tolist(), [c.id for c in categories])
