"""Train a detector: from annotation files to a run folder with the best model in it."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from rich.console import Console
from torch import nn

import detseg
from detseg.data.annotations import Annotations
from detseg.data.dataset import DetectionDataset, scaled_sizes
from detseg.detect.anchors import fit_anchors, fit_of
from detseg.detect.yolo import YoloDetector
from detseg.metrics import DetectionMetrics, Detections, evaluate_detections
from detseg.predict import detect
from detseg.train.checkpoint import RESUME, build_model, load_model, load_state
from detseg.train.config import TrainDetector
from detseg.train.data import fingerprint, load_data, open_pictures, print_data
from detseg.train.errors import TrainingError
from detseg.train.log import RunLog
from detseg.train.memory import keep_freed_memory
from detseg.train.optim import create_optimizer, freeze_stages, norms, parameter_groups
from detseg.train.plan import Progress, SizeSchedule, TrainingSamples, steps_per_epoch
from detseg.train.precision import Choice, choose
from detseg.train.trainer import Settings, Trainer

DEFAULT_EPOCHS = 30
# Fewer pictures than this teach the stages up to stride 8 nothing that ImageNet's million did not.
FEW_PICTURES, EARLY_STRIDE = 5000, 8
# Cached pictures are this much larger than the training size, so that zooming in finds detail.
CACHE_ZOOM = 1.25


@dataclass
class Run:
    """A finished (or interrupted) run.

    Attributes:
        folder: the run folder.
        config: its settings.
        train, val: the datasets, with their cached pictures.
        anchors: (A, 2) widths and heights, pixels at the training size.
        main: this process is the one that reports (the only one, unless there are several).
        interrupted: stopped by a signal before the end.
        metrics: of the best model on the validation pictures; None in other processes than the main one.
        predictions: of the best model, one dict a validation picture, boxes in the pictures' own pixels.
        seconds: of training, validation during it included.
    """

    folder: Path
    config: TrainDetector
    train: DetectionDataset
    val: DetectionDataset
    anchors: np.ndarray
    main: bool = True
    interrupted: bool = False
    metrics: DetectionMetrics | None = None
    predictions: list[dict[str, np.ndarray]] | None = None
    seconds: float = 0.0
    _latest: tuple[DetectionMetrics, list[dict[str, np.ndarray]]] | None = field(default=None, repr=False)


def train_detector(config: TrainDetector, console: Console | None = None) -> Run:
    """Train as `config` says.

    Args:
        config: the settings.
        console: where progress is shown; none is shown without.

    Raises:
        ValueError: wrong settings or data; the message names file, item and remedy.
        TrainingError: a loss is not finite, or the backbone's weights cannot be had.
    """
    config.check()
    folder, state = config.resume, None
    if folder is not None:
        config = TrainDetector.load(folder).check()
        state = load_state(folder / RESUME)
    accelerator = _accelerator()
    if not accelerator.is_main_process:
        logging.getLogger("detseg").setLevel(logging.ERROR)  # the first process warns for all
    console = console if console is not None and accelerator.is_main_process else Console(quiet=True)
    if folder is None and config.output is not None:
        _refuse_taken(config.output)
    try:
        return _train(config, accelerator, console, folder, state)
    finally:
        accelerator.end_training()


def _accelerator() -> Accelerator:
    """Devices and processes; --precision decides the number format, not the launcher's settings."""
    # One of several processes on a machine without a GPU has to say so: else each would believe it is alone.
    launched = "LOCAL_RANK" in os.environ
    return Accelerator(mixed_precision="no", cpu=launched and not torch.accelerator.is_available())


def _train(
    config: TrainDetector, accelerator: Accelerator, console: Console, folder: Path | None, state: dict[str, Any] | None
) -> Run:
    keep_freed_memory()
    set_seed(config.seed)
    train_data, val_data = load_data(config, console)
    print_data(console, train_data, val_data)
    architecture = _architecture(config, train_data, console)
    model, freeze = _model(architecture, config, len(train_data), fresh=state is None)
    train = open_pictures(train_data, round(config.size * CACHE_ZOOM), "training pictures", console)
    val = open_pictures(val_data, config.size, "validation pictures", console)
    folder = folder or _new_folder(config, accelerator.is_main_process)
    if state is not None:
        choice = Choice(*state["choice"])
    else:
        choice = _agree_on_choice(_spec(architecture, config, freeze, accelerator), config, console, accelerator)

    run = Run(folder, config, train, val, model.anchors.reshape(-1, 2).numpy().copy(), accelerator.is_main_process)
    _print_plan(console, config, accelerator, freeze, len(model.backbone.stages), folder)
    progress = _length(config, len(train), accelerator.num_processes)
    begun = 0.0 if state is None else progress.fraction_at(state["step"], state["elapsed"])
    with RunLog(folder, console, visible=run.main, begun=begun) as log:
        trainer = _trainer(run, model, architecture, freeze, choice, progress, accelerator, log)
        trainer.run(state)
    run.interrupted, run.seconds = trainer.interrupted, progress.elapsed()
    if run.main and not run.interrupted and run.metrics is None:
        _judge_saved(run, accelerator.device)
    return run


def _trainer(
    run: Run,
    model: YoloDetector,
    architecture: Mapping[str, Any],
    freeze: int,
    choice: Choice,
    progress: Progress,
    accelerator: Accelerator,
    log: RunLog,
) -> Trainer:
    config = run.config
    groups = parameter_groups(model, lr=config.lr, weight_decay=config.weight_decay, backbone_lr=config.backbone_lr)
    frozen = freeze_stages(model.backbone.stages, freeze)
    smallest = max(64, round(config.size * 0.6 / 32) * 32) if config.multi_scale else config.size

    def describe(row: Mapping[str, float]) -> dict[str, Any]:
        assert run._latest is not None
        run.metrics, run.predictions = run._latest
        return _describe(architecture, config, run.train.annotations, row)

    return Trainer(
        model=model,
        samples=TrainingSamples(run.train, {}, config.seed),
        optimizer=create_optimizer(config.optimizer, groups),
        accelerator=accelerator,
        folder=run.folder,
        progress=progress,
        sizes=SizeSchedule(config.size, smallest, mosaic=config.mosaic, seed=config.seed),
        choice=choice,
        settings=Settings(config.batch_size, config.seed, config.schedule, workers=_workers(config, accelerator)),
        in_eval=[*frozen, *norms(model.backbone)] if config.weights != "none" else frozen,
        validate=lambda model: _validate(model, run, accelerator),
        describe=describe,
        names=[str(path) for path in run.train.annotations.paths],
        log=log,
        fingerprint=fingerprint(run.train.annotations),
    )


def _architecture(config: TrainDetector, data: Annotations, console: Console) -> dict[str, Any]:
    """What `build_model` needs, with anchors fitted to the data."""
    sizes = scaled_sizes(data, config.size)
    anchors = fit_anchors(sizes, len(config.strides), config.anchors, seed=config.seed)
    fit = fit_of(sizes, anchors.reshape(-1, 2))
    console.print(
        f"anchors: mean best IoU {fit.mean_iou:.3f}, {fit.best_recall:.1%} of objects above 0.5",
        highlight=False,
        soft_wrap=True,
    )
    return {
        "kind": "yolo",
        "backbone": config.backbone,
        "strides": list(config.strides),
        # Pretrained statistics are kept: batches are too small, and pictures too few, for better ones.
        "folded": config.weights != "none",
        "num_classes": len(data.categories),
        "anchors": anchors.round(2).tolist(),
        "reach": config.reach,
    }


def _model(
    architecture: Mapping[str, Any], config: TrainDetector, pictures: int, *, fresh: bool
) -> tuple[YoloDetector, int]:
    """The model, and how many stages of its backbone are to be frozen."""
    pretrained: bool | str = {"pretrained": True, "none": False}.get(config.weights, config.weights)
    try:
        model = build_model(architecture, pretrained=pretrained if fresh else False)
    except RuntimeError as error:  # no network and no installed weights
        raise TrainingError(f"{config.backbone}: {error}") from error
    stages = model.backbone.stages
    freeze = config.freeze if config.freeze is not None else _stages_to_freeze(model.backbone, config, pictures)
    if freeze > len(stages):
        raise ValueError(f"--freeze {freeze}: {config.backbone} has {len(stages)} stages")
    return model, freeze


def _spec(
    architecture: Mapping[str, Any], config: TrainDetector, freeze: int, accelerator: Accelerator
) -> dict[str, Any]:
    """What `detseg.train.precision` is to time."""
    return {
        "architecture": architecture,
        "freeze": freeze,
        "norms_rest": config.weights != "none",
        "size": config.size,
        "batch_size": config.batch_size,
        "device": accelerator.device.type,
    }


def _refuse_taken(folder: Path) -> None:
    """Raise ValueError where a run would be overwritten."""
    if (folder / RESUME).exists():
        raise ValueError(f"{folder}: holds a run already; go on with it by --resume {folder} or give another --output")


def _new_folder(config: TrainDetector, main: bool) -> Path:
    """Make the run folder and write the settings into it; the same in all processes."""
    chosen: list[Any] = [None]
    if main:
        folder = config.output or _numbered_folder(Path("runs"), "detector")
        folder.mkdir(parents=True, exist_ok=True)
        config.save(folder)
        chosen = [str(folder)]
    broadcast_object_list(chosen)
    return Path(chosen[0])


def _numbered_folder(parent: Path, name: str) -> Path:
    """Make the next free of name-1, name-2, …; two runs that start together get two folders."""
    number = 1
    while True:
        with contextlib.suppress(FileExistsError):
            (parent / f"{name}-{number}").mkdir(parents=True)
            return parent / f"{name}-{number}"
        number += 1


def _stages_to_freeze(backbone: nn.Module, config: TrainDetector, pictures: int) -> int:
    """The stages up to stride 8 of a pretrained backbone when there are few pictures, else none."""
    if config.weights == "none" or pictures >= FEW_PICTURES:
        return 0
    return sum(stride <= EARLY_STRIDE for stride in backbone.stage_strides)  # type: ignore[union-attr]


def _agree_on_choice(spec: dict[str, Any], config: TrainDetector, console: Console, accelerator: Accelerator) -> Choice:
    """Measure in the first process, tell the others."""
    result: list[Any] = [None]
    if accelerator.is_main_process:
        with console.status("timing a few training steps") if console.is_terminal else contextlib.nullcontext():
            choice, times = choose(spec, config.precision)
        best = times[choice]
        others = ", ".join(f"{o} {best / t:.2f} x as fast" for o, t in times.items() if o != choice)
        console.print(
            f"precision: {choice}, {config.batch_size / best:.1f} pictures/s" + (f" ({others})" if others else ""),
            highlight=False,
            soft_wrap=True,
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
    run._latest = metrics, ordered
    return {"map": _number(metrics.map), "map50": _number(metrics.map50)}


def _judge_saved(run: Run, device: torch.device) -> None:
    """Metrics of the saved model, where an earlier sitting of the run found it."""
    model = load_model(run.folder)[0].to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run.predictions = predict_dataset(model, run.val, range(len(run.val)), run.config.size)
    run.metrics = score(run.val, run.predictions)


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
        soft_wrap=True,
    )
