"""Train a detector: from annotation files to a run folder with the best model in it."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from rich.console import Console
from rich.progress import track
from torch import nn

import detseg
from detseg.data.annotations import Annotations
from detseg.data.dataset import DetectionDataset
from detseg.data.readers import read_annotations, read_dataset
from detseg.data.validate import raise_on_problems, repair, validate
from detseg.detect.anchors import fit_anchors, fit_of
from detseg.metrics import DetectionMetrics, Detections, evaluate_detections
from detseg.predict import detect
from detseg.train.checkpoint import build_model
from detseg.train.config import TrainDetector
from detseg.train.log import RunLog
from detseg.train.optim import create_optimizer, freeze_stages, norms, parameter_groups
from detseg.train.plan import Progress, SizeSchedule, TrainingSamples, steps_per_epoch
from detseg.train.precision import Choice, choose
from detseg.train.trainer import Settings, Trainer

logger = logging.getLogger(__name__)

DEFAULT_EPOCHS = 30
LEVELS, ANCHORS_PER_LEVEL = 3, 3
STRIDES = (8, 16, 32)
# Fewer pictures than this teach the first stages nothing that ImageNet's million did not.
FEW_PICTURES = 5000
# Cached pictures are this much larger than the training size, so that zooming in finds detail.
CACHE_ZOOM = 1.25


@dataclass
class Run:
    """A finished (or interrupted) run.

    Attributes:
        folder: the run folder.
        config: its settings.
        interrupted: stopped by a signal before the end.
        train, val: the datasets, with their cached pictures.
        anchors: (A, 2) widths and heights, pixels at the training size.
        metrics: of the best model on the validation pictures.
        predictions: of the best model, one dict a validation picture, boxes in the pictures' own pixels.
        seconds: of training, validation during it included.
    """

    folder: Path
    config: TrainDetector
    interrupted: bool
    train: DetectionDataset
    val: DetectionDataset
    anchors: np.ndarray
    metrics: DetectionMetrics | None = None
    predictions: list[dict[str, np.ndarray]] | None = None
    seconds: float = 0.0


def train_detector(config: TrainDetector, console: Console | None = None) -> Run:
    """Train as `config` says.

    Args:
        config: the settings.
        console: where progress is shown; none is shown without.

    Raises:
        ValueError: wrong settings or data; the message names file, item and remedy.
        TrainingError: a loss is not finite.
    """
    resume = config.resume is not None
    config.check()
    if config.resume is not None:
        folder = config.resume
        config = TrainDetector.load(folder).check()
    accelerator = Accelerator()
    main = accelerator.is_main_process
    console = console if console is not None and main else Console(quiet=True)
    if not resume:
        folder = _new_folder(config, main)
    set_seed(config.seed)

    train_data, val_data = load_data(config, console)
    _print_data(console, train_data, val_data)
    train, val = (
        DetectionDataset(data, side, lambda items, total, what=what: _track(items, total, what, console))
        for data, side, what in (
            (train_data, round(config.size * CACHE_ZOOM), "reading training pictures"),
            (val_data, config.size, "reading validation pictures"),
        )
    )
    sizes = train.scaled_sizes(config.size)
    anchors = fit_anchors(sizes, LEVELS, ANCHORS_PER_LEVEL, seed=config.seed)
    fit = fit_of(sizes, anchors.reshape(-1, 2))
    console.print(
        f"anchors: mean best IoU {fit.mean_iou:.3f}, {fit.best_recall:.1%} of objects above 0.5",
        highlight=False,
    )

    architecture = {
        "kind": "yolo",
        "backbone": config.backbone,
        "strides": STRIDES,
        "num_classes": len(train_data.categories),
        "anchors": anchors.round(2).tolist(),
    }
    pretrained: bool | str = {"pretrained": True, "none": False}.get(config.weights, config.weights)
    model = build_model(architecture, pretrained=pretrained)
    freeze = config.freeze if config.freeze is not None else _stages_to_freeze(model.backbone, config, len(train))
    frozen = freeze_stages(model.backbone.stages, freeze)
    spec = {
        "architecture": architecture,
        "freeze": freeze,
        "size": config.size,
        "batch_size": config.batch_size,
        "device": accelerator.device.type,
    }
    choice = _agree_on_choice(spec, config, console, main)

    progress = _length(config, len(train), accelerator.num_processes)
    smallest = max(64, round(config.size * 0.6 / 32) * 32) if config.multi_scale else config.size
    run = Run(folder, config, False, train, val, anchors.reshape(-1, 2))
    _print_plan(console, config, accelerator, freeze, len(model.backbone.stages), folder)

    with RunLog(folder, console, visible=main) as log:
        groups = parameter_groups(model, lr=config.lr, weight_decay=config.weight_decay, backbone_lr=config.backbone_lr)
        trainer = Trainer(
            model=model,
            samples=TrainingSamples(train, {}, config.seed),
            optimizer=create_optimizer(config.optimizer, groups),
            accelerator=accelerator,
            folder=folder,
            progress=progress,
            sizes=SizeSchedule(config.size, smallest, mosaic=config.mosaic, seed=config.seed),
            choice=choice,
            settings=Settings(config.batch_size, config.seed, config.schedule, workers=_workers(config, accelerator)),
            in_eval=[*frozen, *norms(model.backbone)] if config.weights != "none" else frozen,
            validate=lambda model: _validate(model, run, accelerator),
            describe=lambda row: _describe(architecture, config, train_data, row),
            names=[str(path) for path in train_data.paths],
            log=log,
        )
        trainer.run(resume=resume)
    run.interrupted = trainer.interrupted
    run.seconds = progress.elapsed()
    accelerator.end_training()
    return run


def load_data(config: TrainDetector, console: Console) -> tuple[Annotations, Annotations]:
    """Training and validation annotations, checked, mended if asked for."""
    if config.data is not None:
        splits = read_dataset(config.data)
        missing = [name for name in ("train", "val") if name not in splits]
        if missing:
            raise ValueError(
                f"{config.data}: found no {' and no '.join(missing)} split; give --train and --val instead of --data"
            )
        train, val = splits["train"], splits["val"]
    else:
        assert config.train is not None and config.val is not None
        train, val = read_annotations(config.train, "train"), read_annotations(config.val, "val")
    if train.categories != val.categories:
        raise ValueError(
            f"the categories of {config.train} and {config.val} differ; both files must list the same ids and names "
            "in the same order"
        )
    return _checked(train, None, config, console), _checked(val, train, config, console)


def _checked(data: Annotations, other: Annotations | None, config: TrainDetector, console: Console) -> Annotations:
    problems = validate(data, other=other)
    if config.repair:
        data, done = repair(data, problems)
        for line in done:
            console.print(f"mended: {line}", markup=False, highlight=False)
        problems = validate(data, other=other)
    raise_on_problems(problems)
    for problem in [p for p in problems if p.severity == "warning"][:5]:
        console.print(f"warning: {problem}", markup=False, highlight=False)
    if len(data) == 0:
        raise ValueError(f"{data.source}: there are no pictures in it")
    return data


def _track(items: Iterable[int], total: int, what: str, console: Console) -> Iterable[int]:
    return track(items, description=what, total=total, console=console, transient=True)


def _new_folder(config: TrainDetector, main: bool) -> Path:
    """Make the run folder and write the settings into it; the same in all processes."""
    chosen: list[Any] = [None]
    if main:
        folder = config.output
        if folder is None:
            taken = {p.name for p in Path("runs").glob("detector-*")}
            number = next(i for i in range(1, len(taken) + 2) if f"detector-{i}" not in taken)
            folder = Path("runs") / f"detector-{number}"
        if (folder / "config.json").exists():
            raise ValueError(
                f"{folder}: holds a run already; go on with it by --resume {folder} or give another --output"
            )
        folder.mkdir(parents=True, exist_ok=True)
        config.save(folder)
        chosen = [str(folder)]
    broadcast_object_list(chosen)
    return Path(chosen[0])


def _stages_to_freeze(backbone: nn.Module, config: TrainDetector, pictures: int) -> int:
    """The stages finer than stride 8 of a pretrained backbone when there are few pictures, else none."""
    if config.weights == "none" or pictures >= FEW_PICTURES:
        return 0
    return sum(stride < STRIDES[0] for stride in backbone.stage_strides)  # type: ignore[union-attr]


def _agree_on_choice(spec: dict[str, Any], config: TrainDetector, console: Console, main: bool) -> Choice:
    """Measure in the first process, tell the others."""
    result: list[Any] = [None]
    if main:
        with console.status("timing a few training steps"):
            choice, times = choose(spec, config.precision)
        best = times[choice]
        others = ", ".join(f"{o} {best / t:.2f} x" for o, t in times.items() if o != choice)
        console.print(
            f"precision: {choice}, {config.batch_size / best:.1f} pictures/s" + (f" ({others})" if others else ""),
            highlight=False,
        )
        result = [(choice.precision, choice.channels_last)]
    broadcast_object_list(result)
    return Choice(*result[0])


def _length(config: TrainDetector, pictures: int, world: int) -> Progress:
    if config.minutes is not None:
        return Progress(None, config.minutes * 60)
    return Progress((config.epochs or DEFAULT_EPOCHS) * steps_per_epoch(pictures, config.batch_size, world), None)


def _workers(config: TrainDetector, accelerator: Accelerator) -> int:
    if config.workers is not None:
        return config.workers
    return 0 if accelerator.device.type == "cpu" else min(8, torch.multiprocessing.cpu_count())


def _validate(model: nn.Module, run: Run, accelerator: Accelerator) -> dict[str, float]:
    """mAP on the validation pictures, each process predicting its share of them."""
    mine = range(accelerator.process_index, len(run.val), accelerator.num_processes)
    predictions = predict_dataset(model, run.val, mine, run.config.size)
    shares = gather_object([(list(mine), predictions)])
    if not accelerator.is_main_process:
        return {"map": 0.0, "map50": 0.0}
    together = {index: found for indices, share in shares for index, found in zip(indices, share, strict=True)}
    ordered = [together[i] for i in range(len(run.val))]
    metrics = score(run.val, ordered)
    if run.metrics is None or not metrics.map <= run.metrics.map:
        run.metrics, run.predictions = metrics, ordered
    return {"map": _number(metrics.map), "map50": _number(metrics.map50)}


def predict_dataset(
    model: nn.Module, data: DetectionDataset, indices: Iterable[int], size: int
) -> list[dict[str, np.ndarray]]:
    """Detections of some pictures of a dataset, boxes in the pictures' own pixels."""
    pictures = (
        (data.pictures[i], (int(data.annotations.sizes[i, 0]), int(data.annotations.sizes[i, 1]))) for i in indices
    )
    return [{k: v.numpy() for k, v in found.items()} for found in detect(model, pictures, size)]


def score(data: DetectionDataset, predictions: list[dict[str, np.ndarray]]) -> DetectionMetrics:
    """COCO metrics of one prediction for each picture of a dataset."""
    annotations = data.annotations
    ids = [category.id for category in annotations.categories]
    return evaluate_detections(
        annotations, Detections.from_predictions(predictions, annotations.image_ids.tolist(), ids)
    )


def _number(value: float) -> float:
    return 0.0 if np.isnan(value) else float(value)


def _describe(
    architecture: Mapping[str, Any], config: TrainDetector, data: Annotations, row: Mapping[str, float]
) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "architecture": dict(architecture),
        "categories": [{"id": c.id, "name": c.name} for c in data.categories],
        "size": config.size,
        "training": {
            "pictures": len(data),
            "date": time.strftime("%Y-%m-%d"),
            **{k: row[k] for k in ("epoch", "step", "seconds", "map", "map50")},
        },
        "versions": {
            "detseg": detseg.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "timm")},
        },
    }


def _print_data(console: Console, train: Annotations, val: Annotations) -> None:
    console.print(
        f"training on {len(train)} pictures with {len(train.boxes)} objects, validating on {len(val)} with "
        f"{len(val.boxes)}",
        highlight=False,
    )
    names = ", ".join(f"{label}={c.name} (id {c.id})" for label, c in enumerate(train.categories))
    console.print(f"labels: {names}", markup=False, highlight=False)


def _print_plan(
    console: Console, config: TrainDetector, accelerator: Accelerator, freeze: int, stages: int, folder: Path
) -> None:
    length = (
        f"{config.minutes:g} minutes" if config.minutes is not None else f"{config.epochs or DEFAULT_EPOCHS} epochs"
    )
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    console.print(
        f"{config.backbone} at {config.size} px on {accelerator.device}{processes}, {length}, batches of "
        f"{config.batch_size}, {freeze} of {stages} backbone stages frozen; writing to {folder}",
        markup=False,
        highlight=False,
    )
