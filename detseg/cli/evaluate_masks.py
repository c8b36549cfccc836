"""How good masks are: of the model of a run, or of a folder of files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray
from rich.console import Console, RenderableType

from detseg.cli.evaluate import (
    Evaluate,
    Evaluator,
    Verdict,
    data_of_run,
    limit_columns,
    pick_split,
    read_with_images,
    settings_if_there,
    settings_of,
)
from detseg.cli.predictions import BATCH, mask_values
from detseg.cluster.evaluation import class_masks_in, image_names
from detseg.cluster.manifest import holds_results, read_manifest
from detseg.console import print_line, track
from detseg.data.annotations import Category
from detseg.data.base import match_categories, with_channels
from detseg.data.cache import full_images
from detseg.data.checks.learnable import require_learnable
from detseg.data.checks.validate import checked
from detseg.data.formats import find_mask_sources, has_mask_files
from detseg.data.mask_reading import STORED
from detseg.data.masks import SemanticMasks
from detseg.data.sample import IGNORE
from detseg.data.tar_shards import address_of
from detseg.metrics import SegmentationEvaluator, SegmentationMetrics
from detseg.metrics.bootstrap.segmentation import (
    SegmentationIntervals,
    bootstrap_segmentation,
    compare_segmentation,
)
from detseg.metrics.segmentation import FIGURES
from detseg.models import DESCRIPTION
from detseg.predict import Segmenter, load
from detseg.report.tables import segmentation
from detseg.report.tables.builders import comparison_table
from detseg.train.tasks.segmenter import load_mask_data


def evaluate(config: Evaluate, console: Console) -> Verdict:
    """Evaluate as `config` says; `console` shows progress.

    Raises:
        ValueError: a file is missing or wrong; the message names it, the item and what is wrong.
    """
    sides = [path for path in (config.detections, config.compare) if path is not None]
    if not any(map(_is_run, sides)) and (config.flip or config.long_side is not None or config.scales != (1.0,)):
        raise ValueError(
            f"{sides[0]}: holds masks that are made already; --flip, --scales and --long-side are for runs"
        )
    truth = _truth(config, console)
    metrics = [_measure(path, truth, config, console) for path in sides]
    content = metrics[0].to_dict()
    intervals = bootstrap_segmentation(metrics[0], resamples=config.resamples) if config.resamples else None
    content["intervals"] = None if intervals is None else intervals.to_dict()
    tables: list[RenderableType] = [segmentation.tables(metrics[0], intervals)]
    if len(metrics) > 1:
        comparison = compare_segmentation(*metrics, resamples=config.resamples)
        content["comparison"] = comparison.to_dict()
        tables.append(comparison_table(comparison, truth.names, FIGURES, of="IoU", what="masks"))
    return Verdict(content, _rows(metrics[0], intervals, truth.categories), tables)


def _rows(
    metrics: SegmentationMetrics, intervals: SegmentationIntervals | None, categories: Sequence[Category]
) -> list[dict[str, Any]]:
    counts = {"pixels": int(metrics.confusion.sum()), "images": len(metrics.images.image_ids)}
    rows: list[dict[str, Any]] = [{"class": "", "category_id": "", **counts, **metrics.figures()}]
    if intervals is not None:
        rows[0] |= limit_columns(intervals.figures)
    for k, row in enumerate(metrics.per_class):
        columns = {"class": row.name, "category_id": categories[k].id, "pixels": row.pixels, "images": row.images}
        columns |= {name: getattr(row, name) for name in ("iou", "dice", "accuracy", "precision", "boundary_iou")}
        if intervals is not None:
            columns |= limit_columns({"iou": intervals.per_class[k]})
        rows.append(columns)
    return rows


# ------------------------------------------------------------------ truth


def _truth(config: Evaluate, console: Console) -> SemanticMasks:
    """The true masks, checked: as given, or those that the run was validated on."""
    trained = settings_if_there(config.detections) if _is_run(config.detections) else None
    path, masks, ignore_value, repair, images = config.ground_truth, config.masks, None, False, config.images
    if path is None:
        if not _is_run(config.detections):
            raise ValueError(
                f"--ground-truth is missing: {config.detections} is a folder of masks (only the folder of a run knows "
                "what it was validated on)"
            )
        trained = settings_of(config.detections)
        asked = replace(
            trained,
            masks=masks or trained.masks,
            images=config.images or trained.images,
            threshold=trained.threshold if config.threshold is None else config.threshold,
        )
        if config.split != "test":
            train, val = load_mask_data(asked, console)
            return train if config.split == "train" else val
        path, masks, repair = data_of_run(config.detections, trained), asked.masks, trained.repair
        images = asked.images
    threshold = config.threshold
    if trained is not None:
        if masks is None and trained.masks is not None and has_mask_files(path, trained.masks):
            masks = trained.masks
        if has_mask_files(path, masks, images):
            ignore_value = trained.ignore_value
            threshold = trained.threshold if threshold is None else threshold

    def read(images: Path | None) -> SemanticMasks:
        sources = find_mask_sources(path, masks, ignore_value, images, threshold)
        return sources[pick_split(path, sources, config.split)]()

    truth = read_with_images(read, images, None if trained is None else trained.images)
    truth = checked(truth, None, repairing=repair, print_line=partial(print_line, console))
    require_learnable(truth, "evaluate a model on")
    return truth


# ------------------------------------------------------------------ predictions


def _is_run(path: Path) -> bool:
    return (path / DESCRIPTION).exists()


def _measure(path: Path, truth: SemanticMasks, config: Evaluate, console: Console) -> SegmentationMetrics:
    """Figures of the predictions at a path, which come one image after another."""
    found = _looked_at(path, truth, config) if _is_run(path) else _read(path, truth)
    shown = track(found, len(truth), what=f"evaluating {path.name}", console=console)
    evaluator = SegmentationEvaluator(truth.names, ignore_index=IGNORE)
    for i, mask in enumerate(shown):
        evaluator.update([mask], [truth.mask(i)], [int(truth.image_ids[i])])
    return evaluator.compute()


def _looked_at(folder: Path, truth: SemanticMasks, config: Evaluate) -> Iterator[NDArray[np.uint8]]:
    """What the model of a run sees in the images, as labels of the truth."""
    segmenter = load(folder).to(PartialState().device)
    assert isinstance(segmenter, Segmenter)
    labels = _labels(segmenter.categories, truth)
    images = full_images(with_channels(truth, segmenter.channels), range(len(truth)))
    for seen in segmenter.stream(images, BATCH, config.flip, config.scales, config.long_side):
        yield labels[seen.mask]


def _labels(categories: Iterable[tuple[int, str]], truth: SemanticMasks) -> NDArray[np.uint8]:
    """The label that the truth has for each of a model; raises ValueError where they differ."""
    own = [Category(number, name) for number, name in categories]
    match_categories(own, truth)  # tells the difference, if there is one
    return np.array([truth.categories.index(category) for category in own], np.uint8)


def _read(path: Path, truth: SemanticMasks) -> Iterator[NDArray[np.uint8]]:
    """Masks that were made before."""
    return _read_shards(address_of(path), truth) if holds_results(path) else _read_files(path, truth)


def _read_shards(folder: str, truth: SemanticMasks) -> Iterator[NDArray[np.uint8]]:
    """Masks of results of a cluster, as labels of the truth."""
    labels = _labels(read_manifest(folder).categories, truth)
    found = class_masks_in(folder, image_names(truth))
    for number, (width, height) in zip(truth.image_ids.tolist(), truth.sizes.tolist(), strict=True):
        yield labels[found[number].label_map(height, width)]


def _read_files(folder: Path, truth: SemanticMasks) -> Iterator[NDArray[np.uint8]]:
    """Masks of files that are called as the images and have their values, as labels of the truth."""
    names = [Path(str(path)).stem for path in truth.paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{truth.source}: several images are called {twice[0]}; {folder} has one mask of that name")
    files = [folder / f"{name}.png" for name in names]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise ValueError(f"{missing[0]} is missing ({len(missing)} of {len(files)} images have no mask in {folder})")
    values = mask_values([category.id for category in truth.categories]).tolist()
    found = replace(
        truth,
        categories=tuple(Category(v, c.name) for v, c in zip(values, truth.categories, strict=True)),
        mask_paths=np.array([str(file) for file in files]),
        objects=None,
        pack=None,
        ignore_values=(),  # a prediction says something of every pixel
        reading=STORED,
    )
    return map(found.mask, range(len(found)))


MASKS = Evaluator("masks", evaluate, ("flip", "scales", "long_side", "masks", "threshold"))
