"""How good detections are: of a file, or of the model of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detseg.cli.evaluate import (
    Evaluate,
    Evaluator,
    Verdict,
    data_of_run,
    limit_columns,
    own_images,
    pick_split,
    read_with_images,
    settings_if_there,
    settings_of,
)
from detseg.cli.evaluate_runs import categories_of, is_run, limits_asked, predict, results_of, slide_over
from detseg.cluster.manifest import holds_results
from detseg.console import print_line
from detseg.data.annotations import Annotations, Category
from detseg.data.checks.learnable import require_masks
from detseg.data.class_tree import on_nodes
from detseg.data.measurable import measurable_masks, tell_without_masks
from detseg.metrics.bootstrap.detection import compare_matches
from detseg.metrics.detection import FIGURES
from detseg.metrics.detection.analysis import Analysis, analyse
from detseg.metrics.detection.inputs import Detections, Truth, read_found, read_truth
from detseg.metrics.detection.levels import TreeDetections
from detseg.metrics.detection.matching import images_beyond, match
from detseg.metrics.detection.voc_ap import VocMethod, evaluate_voc
from detseg.options import given, require_positive
from detseg.report.tables import detection
from detseg.report.tables.builders import comparison_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from detseg.metrics.localization import LocalizationMetrics

logger = logging.getLogger(__name__)

COCO = (".json", ".gz")  # endings of its files
VOC_METHODS: dict[str, VocMethod] = {"2007": "11-point", "2012": "area"}


def evaluate(config: Evaluate, console: Console) -> Verdict:
    """Evaluate as `config` says; `console` shows progress.

    Raises:
        ValueError: a file is missing or wrong; the message names it, the item and what is wrong.
    """
    _check(config)
    settings = _one_object_each(config)
    truth, detections, other = _sides(config, settings, console)
    localization = None if settings is None else _localization(truth, detections, config.resamples)
    tree = detections.metrics if isinstance(detections, TreeDetections) else None
    truth = read_truth(truth if tree is None else tree.truth, config.iou_type)
    limits = limits_asked(config, truth)
    _warn_of_more(truth, limits[-1])
    analysis = analyse(
        *(truth, detections, config.iou_type),
        resamples=config.resamples,
        score_threshold=config.score_threshold,
        metrics=tree,
        max_detections=limits,
    )
    content, rows = analysis.to_dict(), _rows(analysis)
    tables: list[RenderableType] = [detection.analysis_tables(analysis)]
    if localization is not None:
        from rich.console import Group

        from detseg.report.tables import localization as localization_tables

        content["localization"] = localization.to_dict()
        rows = [row | more for row, more in zip(rows, _localization_columns(localization), strict=True)]
        tables.insert(0, Group(localization_tables.tables(localization), ""))
    if config.voc is not None:
        voc = evaluate_voc(truth, detections, method=VOC_METHODS[config.voc])
        content["voc"] = voc.to_dict()
        rows = [row | {"VOC AP": ap} for row, ap in zip(rows, [voc.map, *(c.ap for c in voc.per_class)], strict=True)]
        tables.append(detection.voc_table(voc, config.voc))
    if other is not None:
        matches = match(truth, read_found(other, truth, config.iou_type), config.iou_type, max_detections=limits)
        comparison = compare_matches(analysis.metrics.matches, matches, resamples=config.resamples)
        content["comparison"] = comparison.to_dict()
        names = [row.name for row in analysis.metrics.per_class]
        tables.append(comparison_table(comparison, names, FIGURES, of="AP", what="detections"))
    return Verdict(content, rows, tables)


def analysis_of_run(run: Path, console: Console) -> Analysis:
    """How good the detector of a run is on the images it was validated on, without confidence intervals."""
    config = Evaluate(detections=run)
    truth, detections, _ = _sides(config, None, console)
    tree = detections.metrics if isinstance(detections, TreeDetections) else None
    truth = read_truth(truth if tree is None else tree.truth, "bbox")
    return analyse(truth, detections, resamples=0, metrics=tree, max_detections=limits_asked(config, truth))


def _rows(analysis: Analysis) -> list[dict[str, Any]]:
    metrics, intervals, best = analysis.metrics, analysis.intervals, analysis.thresholds
    rows: list[dict[str, Any]] = [
        {"class": "", "category_id": "", "objects": metrics.objects, "images": metrics.images}
        | metrics.figures()
        | _best_columns(best.overall)
    ]
    if intervals is not None:
        rows[0] |= limit_columns(intervals.figures)
    for k, row in enumerate(metrics.per_class):
        columns = {"class": row.name, "category_id": row.category_id, "objects": row.objects, "images": row.images}
        columns |= dict(row.figures) | _best_columns(best.per_class[k])
        if intervals is not None:
            columns |= limit_columns({"AP": intervals.per_class[k].ap, "AP50": intervals.per_class[k].ap50})
        rows.append(columns)
    return rows


def _localization_columns(metrics: LocalizationMetrics) -> list[dict[str, float]]:
    """Columns of the row of all classes, and of each class's."""
    classes = [{"mean_iou": row.mean_iou, "accuracy": row.accuracy} for row in metrics.per_class]
    return [metrics.figures() | limit_columns(metrics.intervals), *classes]


def _best_columns(best: Any) -> dict[str, float]:
    columns = {"score": best.score, "precision": best.precision, "recall": best.recall, "f1": best.f1}
    return {f"best_{name}": value for name, value in columns.items()}


# ------------------------------------------------------------------ files and runs


def _check(config: Evaluate) -> None:
    """Raise ValueError where options contradict each other."""
    if config.ground_truth is None and not is_run(config.detections):
        raise ValueError(
            f"--ground-truth is missing: {config.detections} is a file of detections (only the folder of a run knows "
            "what it was validated on)"
        )
    runs = [path for path in _paths(config) if is_run(path)]
    if config.voc is not None and config.iou_type != "bbox":
        raise ValueError(f"--voc compares boxes, --iou-type {config.iou_type} masks: leave out one of them")
    for run in runs if config.iou_type != "bbox" else ():
        if not _finds_masks(run):
            raise ValueError(
                f"{run}: the model finds boxes and no masks; leave out --iou-type {config.iou_type} to compare boxes"
            )
    if config.split is not None and not _reads_images(config):
        raise ValueError(f"{config.detections}: is evaluated by one file of ground truth; leave out --split")
    if config.images is not None and not _reads_images(config):
        raise ValueError(
            f"{config.detections}: is a file of detections, for which no images are looked at; leave out --images"
        )
    require_positive(config, "max_detections")
    if config.fuse and (config.slide or not is_run(config.detections)):
        raise ValueError("--fuse is for runs of detectors; leave it out")
    if config.size is not None or config.tta:
        _check_augmentation(config, runs)
    if config.slide and not runs:
        raise ValueError(f"{config.detections}: is a file of detections; only a localizer can slide: leave out --slide")


def _check_augmentation(config: Evaluate, runs: Sequence[Path]) -> None:
    """Raise ValueError where --size or --tta mean nothing."""
    from detseg.predict.detector import check_input_size

    options = " and ".join(given(config, ("size", "tta")))
    if not runs:
        raise ValueError(f"{config.detections}: is a file of detections; leave out {options}")
    if others := [run for run in runs if _is_localizer(run)]:
        raise ValueError(f"{others[0]}: a localizer looks at images of its training size only; leave out {options}")
    if config.size is not None:
        check_input_size(config.size)


def _paths(config: Evaluate) -> list[Path]:
    """What is evaluated, and what it is compared with."""
    return [path for path in (config.detections, config.compare) if path is not None]


def _reads_images(config: Evaluate) -> bool:
    """Whether the ground truth is a data set: for runs, and where it is no file of COCO."""
    truth = config.ground_truth
    return any(map(is_run, _paths(config))) or (
        truth is not None and (truth.is_dir() or (truth.is_file() and truth.suffix.lower() not in COCO))
    )


def _finds_masks(run: Path) -> bool:
    from detseg.models import described_model

    return bool(getattr(described_model(run)[0], "finds_masks", False))


def _is_localizer(run: Path) -> bool:
    from detseg.models import MODELS, read_description

    return bool(MODELS[read_description(run)["architecture"]["kind"]].task == "localize")


def _sides(config: Evaluate, one_object: Any, console: Console) -> tuple[Any, Any, Any]:
    """Ground truth, detections and, or None, the other detections."""
    paths = _paths(config)
    truth: Any = config.ground_truth
    if _reads_images(config):
        truth = _annotations(config, console)
        if config.iou_type != "bbox":
            require_masks(truth)
            if line := tell_without_masks(truth):
                print_line(console, line)
            truth = measurable_masks(truth)
    if one_object is not None:
        from detseg.train.tasks.localizer import chosen_images

        truth = chosen_images(truth, one_object, console)
    own = truth
    if nodes := _nodes([path for path in paths if is_run(path)]):
        truth = on_nodes(truth, nodes)
    sliding = _sliding([path for path in paths if is_run(path)]) if config.slide else []
    sides: list[Any] = []
    for position, path in enumerate(paths):
        if path in sliding:
            sides.append(slide_over(path, truth, config, console))
        elif is_run(path):
            more = () if position else config.fuse
            sides.append(predict([path, *more], truth if _has_tree(path) else own, config, console))
        else:
            sides.append(results_of(path, truth, console) if holds_results(path) else path)
    if config.iou_type == "bbox" and any(getattr(side, "masks", None) for side in sides):
        print_line(console, "boxes are compared; --iou-type segm compares the masks that the model finds")
    return truth, sides[0], sides[1] if len(sides) > 1 else None


def _warn_of_more(truth: Truth, most: int) -> None:
    """Warn where images have more objects of a class than detections count."""
    if beyond := images_beyond(truth, most):
        logger.warning(
            "%d of %d images have more than %d objects of a class, but only the best %d detections of an image and "
            "class count (COCO's rule: 100): raise --max-detections",
            *(beyond, len(truth.image_ids), most, most),
        )


def _has_tree(run: Path) -> bool:
    from detseg.models import read_description

    return read_description(run)["architecture"].get("tree") is not None


def _nodes(runs: Sequence[Path]) -> list[Category]:
    """The nodes of the tree of the first run that has one; none without."""
    from detseg.models import read_description

    run = next((run for run in runs if _has_tree(run)), None)
    return [] if run is None else categories_of(read_description(run))


def _sliding(runs: Sequence[Path]) -> Sequence[Path]:
    """Which runs are to slide: localizers; where there are none all, and what they hold is refused later."""
    return [run for run in runs if _is_localizer(run)] or runs


def _one_object_each(config: Evaluate) -> Any:
    """The settings of the localizer that is evaluated, if nothing else is: by the images and figures of its training.

    A localizer beside a detector or a file, or one that slides, is evaluated like any detector.
    """
    from detseg.models import read_description
    from detseg.train.config import TrainLocalizer

    if config.slide or not all(is_run(path) and _is_localizer(path) for path in _paths(config)):
        return None
    if config.ground_truth is None:
        return settings_of(config.detections)
    architecture = read_description(config.detections)["architecture"]
    known = TrainLocalizer(objectness=bool(architecture.get("objectness", False)))
    return settings_if_there(config.detections) or known


def _localization(truth: Annotations, found: Detections, resamples: int) -> LocalizationMetrics:
    """How good a localizer's detections are, one for each image and in their order."""
    from detseg.metrics.localization import LocalizationEvaluator
    from detseg.train.tasks.localizer import objects_of

    ids = [category.id for category in truth.categories]
    labels = np.array([ids.index(number) for number in found.category_ids.tolist()], np.int64)
    predictions = [
        {"boxes": found.boxes[i : i + 1], "labels": labels[i : i + 1], "scores": found.scores[i : i + 1]}
        for i in range(len(truth))
    ]
    evaluator = LocalizationEvaluator(truth.names)
    evaluator.update(predictions, [objects_of(truth, i) for i in range(len(truth))], truth.image_ids)
    return evaluator.compute(resamples=resamples)


def _annotations(config: Evaluate, console: Console) -> Annotations:
    """The annotations with their images: as given, or those that the run was validated on."""
    from detseg.models import read_description

    if config.ground_truth is not None:
        run = next((path for path in _paths(config) if is_run(path)), None)
        return _read_split(config.ground_truth, config, console, own=None if run is None else own_images(run))
    data = _own_data(config, console)
    size = read_description(config.detections)["size"]
    if config.slide and (data.sizes == size).all():
        raise ValueError(
            f"{config.detections}: was validated on windows of {size} px, with at most one object "
            "annotated in each; name the whole images to slide over by --ground-truth"
        )
    return data


def _own_data(config: Evaluate, console: Console) -> Annotations:
    """The validation images of the run that is evaluated, or another split of its --data."""
    from detseg.train.data import load_data

    trained = settings_of(config.detections)
    trained = replace(trained, images=config.images or trained.images)
    if config.split != "test":
        train, val = load_data(trained, console)
        return train if config.split == "train" else val
    path = data_of_run(config.detections, trained)
    return _read_split(path, replace(config, images=trained.images), console, repair=trained.repair)


def _read_split(
    path: Path,
    config: Evaluate,
    console: Console,
    *,
    own: Path | None = None,
    repair: bool = False,
) -> Annotations:
    """The annotations of a path, or of the split that is asked for, checked; `own` as for `read_with_images`."""
    from detseg.data.checks.validate import checked
    from detseg.data.formats import find_sources

    def read(images: Path | None) -> Annotations:
        sources = find_sources(path, images)
        return sources[pick_split(path, sources, config.split)]()

    data = read_with_images(read, config.images, own)
    return checked(data, None, repairing=repair, print_line=partial(print_line, console))


DETECTIONS = Evaluator(
    "detections", evaluate, ("iou_type", "score_threshold", "voc", "max_detections", "slide", "size", "fuse", "tta")
)
