"""A training run from its options to its best model: load, build, fit, evaluate; the same for every task.

run = train(TrainDetector(data=Path("flowers"), minutes=30))
print(run.folder, run.metrics.map)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from rich.console import Console

from detseg.console import print_line
from detseg.data.base import with_channels
from detseg.data.cache import channel_statistics
from detseg.registry import MODELS
from detseg.sharing import sharing_cores
from detseg.tasks import part
from detseg.train.callbacks.callback import Callback, Callbacks
from detseg.train.callbacks.trackers import create_trackers
from detseg.train.config import TrainConfig
from detseg.train.errors import TrainingError, faults, memory_advice
from detseg.train.extension import Extension
from detseg.train.finder import RateCurve
from detseg.train.log import RunLog
from detseg.train.loop import Settings, Trainer
from detseg.train.optim import create_optimizer, freeze_stages, norms, norms_rest, parameter_groups
from detseg.train.precision import Choice
from detseg.train.process import Process, process
from detseg.train.sampler import Batches, Progress, SizeSchedule, TrainingSamples, steps_per_epoch
from detseg.train.size import SMALLEST, affordable_size
from detseg.train.task import Run, Task

DEFAULT_EPOCHS = 30
LR, BACKBONE_LR = 1e-3, 0.1
# Fewer images than this teach the stages up to stride 8 nothing that ImageNet's million did not.
FEW_IMAGES, EARLY_STRIDE = 5000, 8

Draw = Callable[[Run], Mapping[str, Path]]


def train(
    config: TrainConfig,
    console: Console | None = None,
    *,
    draw: Draw | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train as `config` says.

    Args:
        config: the options; of a run that is resumed, its folder alone.
        console: where progress is shown; none is shown without.
        draw: draws what is trained on, once it is read and before training begins: wrong annotations show before time
            is spent. Returns captions and paths.
        callbacks: are told how the run goes, after the trackers of `config.log`; see `Callback`.

    Raises:
        ValueError: wrong options or data; the message names file, item and remedy.
        TrainingError: a loss is not finite, the backbone's weights cannot be had, or the run was stopped from outside:
            a full disk, a killed process, a folder that was removed.
    """
    with process(config, console) as this, faults(this), memory_advice(this), sharing_cores():
        callbacks = [*create_trackers(this.config.log), *callbacks]
        task: Task = part(config.task, "train")(this.config, this.console)
        train_data, val_data = (with_channels(data, this.config.channels) for data in task.load())
        architecture, model = prepare(this, task, train_data)
        if this.state is None:
            task.started(model, train_data)
        datasets = task.open(train_data, "training"), task.open(val_data, "validation")
        if this.config.normalise == "dataset":
            architecture["normalisation"] = normalisation = channel_statistics(datasets[0].images)
            model.set_normalisation(**normalisation)
            print_line(this.console, _normalisation_line(normalisation))
        this.config = task.config = task.resolved(this, model, architecture, datasets[0])
        freeze = frozen_stages(this.config, model, architecture, len(train_data))
        head_only = task.head_only(freeze == len(model.backbone.stages))
        folder = this.open_folder()
        choice = Choice("fp32", True) if head_only else this.choose_precision(architecture, freeze)
        samples = task.samples(datasets[0], this.config)
        if this.state is None:
            task.prepared(this, model, samples, head_only)
        run = Run(folder, task, this.config, *datasets, architecture, this.accelerator.is_main_process)
        told = Callbacks(callbacks if run.main else (), run, this.accelerator.device)
        trainer = make_trainer(this, run, model, samples, told, choice=choice, freeze=freeze, head_only=head_only)
        if this.state is None and not head_only and this.config.find_lr:
            run.rates = find_rates(this, trainer)
        if run.main and draw is not None:
            run.drawn = draw(run)
            print_line(this.console, "; ".join(f"{caption}: {path}" for caption, path in run.drawn.items()))
        if this.state is not None:
            trainer.require_same(this.state)
            this.keep_extension()
        with told.during(0 if this.state is None else this.state["step"]):
            with trainer.log:
                trainer.run(this.state)
            run.interrupted, run.seconds = trainer.interrupted, trainer.progress.elapsed()
            if run.main and not run.interrupted and run.metrics is None:
                run.evaluate_saved(this.accelerator.device)
            if run.main and not run.interrupted:
                task.finish(run)
        return run


def prepare(this: Process, task: Task, data: Any) -> tuple[dict[str, Any], Any]:
    """The architecture and the model of a run, and the input size of one that is given none."""
    given = this.config.size
    if given is None:
        this.config = task.config = replace(this.config, size=task.wanted_size(data))
    architecture = architecture_of(this, data)
    model = this.build(architecture, data.names)
    if given is None:
        wanted = this.config.size
        this.config = task.config = replace(this.config, size=_affordable(this, model, architecture, len(data)))
        if this.config.size != wanted:
            return prepare(this, task, data)
    return architecture, model


def _affordable(this: Process, model: Any, architecture: Mapping[str, Any], images: int) -> int:
    """The size that the objects ask for, or a smaller one if the minutes are too short for it; prints which."""
    config = this.config
    size, reason = config.size, "by the sizes of the objects"
    if config.minutes is not None and size > SMALLEST:
        this.choose_precision(architecture, frozen_stages(config, model, architecture, images))
        if this.images_per_second is not None:
            rate = this.images_per_second * this.accelerator.num_processes / _sizes(config).cost
            size = affordable_size(config.size, images, 60 * config.minutes, rate)
        if size < config.size:
            reason = f"the objects ask for {config.size} px, of which {config.minutes:g} minutes hold too few images"
    print_line(this.console, f"size: {size} px, {reason}; --size sets another")
    return int(size)


def architecture_of(this: Process, data: Any) -> dict[str, Any]:
    """The architecture of the model of a run: of a new one as its start and its options say."""
    if this.start is not None:
        return this.start.architecture(len(data.categories), partial(describe, this.config, data))
    assert this.state is not None
    kept = this.state.get("architecture")  # early states have none
    return describe(this.config, data) if kept is None else dict(kept)


def describe(config: Any, data: Any) -> dict[str, Any]:
    """The architecture of a new model, see `detseg.models.build_model`."""
    return {
        "kind": config.model,
        "backbone": config.backbone,
        # Pretrained statistics are kept: batches are too small, and images too few, for better ones.
        "folded": config.weights != "none",
        **({} if config.channels == 3 else {"in_channels": config.channels}),
        "num_classes": len(data.categories),
        **MODELS[config.model].options_for(data, config),
    }


def _normalisation_line(found: Mapping[str, list[float]]) -> str:
    shown = (f"{name} {' '.join(f'{value:.3f}' for value in values)}" for name, values in found.items())
    return f"normalisation by the training images: {', '.join(shown)}"


def frozen_stages(config: Any, model: Any, architecture: Mapping[str, Any], images: int) -> int:
    """How many stages of the backbone keep their weights; raises ValueError where it has fewer than asked for."""
    stages = len(model.backbone.stages)
    freeze = {"all": stages, "none": 0}.get(str(config.freeze), config.freeze)
    if freeze is None:
        few = norms_rest(architecture) and images < FEW_IMAGES
        freeze = sum(stride <= EARLY_STRIDE for stride in model.backbone.stage_strides) if few else 0
    if freeze > stages:
        raise ValueError(f"--freeze {freeze}: {config.backbone} has {stages} stages")
    return int(freeze)


def make_trainer(
    this: Process,
    run: Run,
    model: Any,
    samples: TrainingSamples,
    told: Callbacks,
    *,
    choice: Choice,
    freeze: int,
    head_only: bool = False,
) -> Trainer:
    """The loop of a run, ready to start: optimizer, batches, schedule and log as its options say.

    Args:
        this: the process.
        run: the run.
        model: the model, whose `backbone` has `stages`.
        samples: training images.
        told: the callbacks.
        choice: number format and layout.
        freeze: stages of the backbone that keep their weights.
        head_only: there is nothing left to train; the model is evaluated and saved.
    """
    config: Any = this.config
    stages = model.backbone.stages
    if head_only and this.extension is not None:
        raise ValueError(f"{run.folder}: the head was solved at once, and there is nothing to train longer")
    progress = Progress(0, None) if head_only else _length(this, len(samples))
    if not head_only:
        _print_plan(this, freeze, len(stages), run.folder)
    groups = parameter_groups(
        model,
        lr=LR if config.lr is None else config.lr,
        weight_decay=config.weight_decay,
        backbone_lr=BACKBONE_LR if config.backbone_lr is None else config.backbone_lr,
        stage_decay=1.0 if config.stage_decay is None else config.stage_decay,
    )
    frozen = freeze_stages(stages, freeze)  # after the groups: a state holds all parameters, however many are frozen
    optimizer = create_optimizer(config.optimizer, groups)
    batches = Batches(
        samples,
        run.task.collate,
        _sizes(config),
        config.batch_size,
        accumulate=config.accumulate,
        seed=config.seed,
        workers=_workers(config, this.accelerator.device),
        memory_format=choice.memory_format,
    )
    settings = Settings(
        choice=choice,
        choose_again=this.choose_again,
        schedule=config.schedule,
        patience=config.patience,
        in_eval=[*frozen, *norms(model.backbone)] if norms_rest(run.architecture) else frozen,
    )
    begun = 0.0 if this.state is None else progress.fraction_at(this.state["step"], this.state["elapsed"])
    log = RunLog(
        run.folder,
        this.console,
        run.figures,
        printed=len(run.task.headline),
        visible=run.main,
        begun=begun,
        callbacks=told,
    )
    return Trainer(model, optimizer, batches, run, progress, settings, this.accelerator, log, this.require_folder)


def _length(this: Process, images: int) -> Progress:
    config = this.config
    length = this.extension or Extension(config.epochs or DEFAULT_EPOCHS, config.minutes)
    steps, seconds = None, None
    if length.minutes is not None:
        seconds = length.minutes * 60
    else:
        assert length.epochs is not None
        step_size = config.batch_size * config.accumulate
        steps = length.epochs * steps_per_epoch(images, step_size, this.accelerator.num_processes)
    return Progress(steps, seconds, first_step=length.step, first_second=length.seconds)


def _sizes(config: Any) -> SizeSchedule:
    size = config.size
    smallest = min(size, max(64, round(size * 0.6 / 32) * 32)) if config.multi_scale else size
    mosaic, mixup, pasted = (float(getattr(config, name, 0.0)) for name in ("mosaic", "mixup", "copy_paste"))
    return SizeSchedule(size, smallest, mosaic=mosaic, mixup=mixup, copy_paste=pasted, seed=config.seed)


def _workers(config: Any, device: torch.device) -> int:
    """Processes that augment images; on a CPU they would take the cores that training needs."""
    if config.workers is not None:
        return int(config.workers)
    return 0 if device.type == "cpu" else min(8, torch.multiprocessing.cpu_count())


def find_rates(this: Process, trainer: Trainer) -> RateCurve | None:
    """Set the learning rates by a test in the first process; returns its curve, if a rate was found."""
    tested = LR if this.config.lr is None else this.config.lr
    found, curve = [1.0], None
    if this.accelerator.is_main_process:
        try:
            # The test tells the highest rate of all; --lr is that of the new layers, which --backbone-lr may exceed.
            highest = max(group["initial_lr"] for group in trainer.optimizer.param_groups)
            curve = trainer.test_rates().scaled(tested / highest)
        except TrainingError as error:
            print_line(this.console, f"{error}; --lr stays {tested:g}")
        else:
            print_line(this.console, f"learning rate: {curve.suggestion:.2g}, where the loss has made most of its fall")
            found = [curve.suggestion / tested]
    broadcast_object_list(found)
    for group in trainer.optimizer.param_groups:
        group["initial_lr"] *= found[0]
    return curve


def _print_plan(this: Process, freeze: int, stages: int, folder: Path) -> None:
    config, accelerator = this.config, this.accelerator
    length = f"{config.epochs or DEFAULT_EPOCHS} epochs"
    if config.minutes is not None:
        length = f"{config.minutes:g} minutes"
    if this.extension is not None:
        length = str(this.extension)
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    added = f" x {config.accumulate}" if config.accumulate > 1 else ""
    print_line(
        this.console,
        f"{config.backbone} at {config.size} px on {accelerator.device}{processes}, {length}, batches of "
        f"{config.batch_size}{added}, {freeze} of {stages} backbone stages frozen; writing to {folder}",
    )
