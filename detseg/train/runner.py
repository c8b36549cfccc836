"""What every training run does, whatever is trained: settings, devices, the run folder, number format, the loop.

A task's module (`detseg.train.tasks.detector` and its siblings) has the rest: data, model, and how it is judged
(`detseg.train.task`).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from rich.console import Console

from detseg.models import DESCRIPTION, RESUME, WEIGHTS, build_model, load_state
from detseg.train.config import SETTINGS
from detseg.train.errors import TrainingError
from detseg.train.log import METRICS, RunLog
from detseg.train.loop import Settings, Trainer
from detseg.train.memory import keep_freed_memory
from detseg.train.optim import create_optimizer, freeze_stages, norms, parameter_groups
from detseg.train.precision import Choice, choose
from detseg.train.sampler import Progress, SizeSchedule, TrainingSamples, steps_per_epoch
from detseg.train.task import Config, Run

DEFAULT_EPOCHS = 30
LR, BACKBONE_LR = 1e-3, 0.1
# Fewer images than this teach the stages up to stride 8 nothing that ImageNet's million did not.
FEW_IMAGES, EARLY_STRIDE = 5000, 8


@dataclass
class Session(Generic[Config]):
    """One sitting of a run.

    Attributes:
        config: its settings; of a resumed run those it was started with.
        accelerator: devices and processes.
        console: where progress is shown.
        folder: of the run that is resumed; of a new one None until `open_folder`.
        state: to resume from.
        claimed: the folder was made this run's own, by its `config.json`.
    """

    config: Config
    accelerator: Accelerator
    console: Console
    folder: Path | None
    state: dict[str, Any] | None
    claimed: bool = False

    def make(self, architecture: Mapping[str, Any]) -> Any:
        """The model of an architecture, with trained weights if the run begins with such.

        Raises:
            TrainingError: they cannot be had.
        """
        weights = self.config.weights
        pretrained: bool | str = {"pretrained": True, "none": False}.get(weights, weights)
        try:
            return build_model(architecture, pretrained=pretrained if self.state is None else False)
        except RuntimeError as error:  # no network and no installed weights
            raise TrainingError(f"{self.config.backbone}: {error}") from error

    def build(self, architecture: Mapping[str, Any], images: int) -> tuple[Any, int]:
        """The model, and how many stages of its backbone are to be frozen.

        Args:
            architecture: see `build_model`.
            images: number of images to train on.
        """
        config, model = self.config, self.make(architecture)
        if config.weights not in ("pretrained", "none") and self.state is None:
            tell(self.console, str(model.backbone.weight_report))
        stages = len(model.backbone.stages)
        freeze = {"all": stages, "none": 0}.get(str(config.freeze), config.freeze)
        if freeze is None:
            freeze = 0
            if config.weights != "none" and images < FEW_IMAGES:
                freeze = sum(stride <= EARLY_STRIDE for stride in model.backbone.stage_strides)
        assert isinstance(freeze, int)
        if freeze > stages:
            raise ValueError(f"--freeze {freeze}: {config.backbone} has {stages} stages")
        return model, freeze

    def open_folder(self) -> Path:
        """The run folder, made and with the settings in it if the run is new; the same in all processes.

        Raises:
            ValueError: another run has been started there meanwhile.
        """
        if self.folder is None:
            chosen: list[Any] = [None]
            if self.accelerator.is_main_process:
                folder = self.config.output or _numbered_folder(Path("runs"), self.config.task)
                folder.mkdir(parents=True, exist_ok=True)
                self._claim(folder)
                chosen = [str(folder)]
            broadcast_object_list(chosen)
            self.folder = Path(chosen[0])
        return self.folder

    def _claim(self, folder: Path) -> None:
        """Write the settings: of two runs that are started at once, only one can make that file."""
        try:
            self.config.save(folder)
        except FileExistsError:
            _refuse_taken(folder)
            raise
        self.claimed = True

    def release(self) -> None:
        """Leave a folder in which nothing was saved to the next try."""
        if self.claimed and self.folder is not None and not (self.folder / RESUME).exists():
            (self.folder / SETTINGS).unlink(missing_ok=True)

    def choose_precision(self, architecture: Mapping[str, Any], freeze: int) -> Choice:
        """Number format and layout: measured in the first process, or what the resumed run has used."""
        if self.state is not None:
            return Choice(*self.state["choice"])
        spec = {
            "architecture": architecture,
            "freeze": freeze,
            "norms_rest": self.config.weights != "none",
            "size": self.config.size,
            "batch_size": self.config.batch_size,
            "device": self.accelerator.device.type,
        }
        result: list[Any] = [None]
        if self.accelerator.is_main_process:
            console = self.console
            with console.status("timing a few training steps") if console.is_terminal else contextlib.nullcontext():
                choice, times = choose(spec, self.config.precision)
            tell(console, f"precision: {choice}{self._timed(choice, times)}")
            result = [(choice.precision, choice.channels_last)]
        broadcast_object_list(result)
        return Choice(*result[0])

    def _timed(self, choice: Choice, times: Mapping[Choice, float]) -> str:
        """How fast a choice is, and others beside it."""
        if not times:
            return f"; not timed, as {self.config.backbone} is no backbone of detseg's own: --precision chooses"
        best = times[choice]
        others = ", ".join(f"{o} {best / t:.2f} x as fast" for o, t in times.items() if o != choice)
        return f", {self.config.batch_size / best:.1f} images/s" + (f" ({others})" if others else "")

    def fit(
        self,
        run: Run[Config],
        model: Any,
        architecture: Mapping[str, Any],
        *,
        freeze: int,
        choice: Choice,
        samples: TrainingSamples,
        collate: Callable[[list[Any]], tuple[torch.Tensor, Any]],
        mosaic: float = 0.0,
        mixup: float = 0.0,
        trained: bool = False,
    ) -> None:
        """Draw what is trained on, then train to the end of the budget.

        `run` then holds how good the best model is, which is in its folder.

        Args:
            run: the run; its `validate` judges the model on the way.
            model: the model, whose `backbone` has `stages`.
            architecture: what `build_model` made it from.
            freeze: stages of the backbone that keep their weights.
            choice: number format and layout.
            samples: training images.
            collate: samples to a batch and its targets.
            mosaic: share of mosaics.
            mixup: share of samples with another laid over them.
            trained: there is nothing left to learn; judge and save the model.
        """
        config, accelerator = self.config, self.accelerator
        if run.main:
            run.drawn = run.draw()
            tell(self.console, "; ".join(f"{caption}: {path}" for caption, path in run.drawn.items()))
        progress = Progress(0, None) if trained else self._length(len(samples))
        if not trained:
            self._print_plan(freeze, len(model.backbone.stages), run.folder)
        groups = self._groups(model)
        frozen = freeze_stages(model.backbone.stages, freeze)

        def describe(row: Mapping[str, float]) -> dict[str, Any]:
            run.keep_latest()
            return run.describe(architecture, row)

        begun = 0.0 if self.state is None else progress.fraction_at(self.state["step"], self.state["elapsed"])
        with RunLog(run.folder, self.console, run.FIGURES, visible=run.main, begun=begun) as log:
            trainer = Trainer(
                model=model,
                samples=samples,
                collate=collate,
                optimizer=create_optimizer(config.optimizer, groups),
                accelerator=accelerator,
                folder=run.folder,
                progress=progress,
                sizes=self._sizes(mosaic, mixup),
                choice=choice,
                settings=self._settings(),
                in_eval=[*frozen, *norms(model.backbone)] if config.weights != "none" else frozen,
                validate=lambda model: run.validate(model, accelerator),
                goal=next(iter(run.FIGURES)),
                describe=describe,
                names=[str(path) for path in run.data.paths],
                log=log,
                fingerprint=run.fingerprint(),
            )
            if config.find_lr and self.state is None and not trained:
                self._find_rate(trainer, run.folder)
            trainer.run(self.state)
        run.interrupted, run.seconds = trainer.interrupted, progress.elapsed()
        if run.main and not run.interrupted and run.metrics is None:
            run.judge_saved(accelerator.device)

    def _find_rate(self, trainer: Trainer, folder: Path) -> None:
        """Set the learning rates by a test in the first process, and draw its curve."""
        from detseg.report.plots.rates import plot_rates

        found, tested = [1.0], LR if self.config.lr is None else self.config.lr
        if self.accelerator.is_main_process:
            try:
                # The test tells the highest rate of all; --lr is that of what is new, which --backbone-lr may exceed.
                highest = max(group["initial_lr"] for group in trainer.optimizer.param_groups)
                curve = trainer.test_rates().scaled(tested / highest)
            except TrainingError as error:
                tell(self.console, f"{error}; --lr stays {tested:g}")
            else:
                path = plot_rates(curve, folder / "learning_rate.png")
                tell(self.console, f"learning rate: {curve.suggestion:.2g}, where the loss falls fastest ({path})")
                found = [curve.suggestion / tested]
        broadcast_object_list(found)
        for group in trainer.optimizer.param_groups:
            group["initial_lr"] *= found[0]

    def _length(self, images: int) -> Progress:
        config = self.config
        if config.minutes is not None:
            return Progress(None, config.minutes * 60)
        per_epoch = steps_per_epoch(images, config.batch_size * config.accumulate, self.accelerator.num_processes)
        return Progress((config.epochs or DEFAULT_EPOCHS) * per_epoch, None)

    def _groups(self, model: Any) -> list[dict[str, Any]]:
        config = self.config
        return parameter_groups(
            model,
            lr=LR if config.lr is None else config.lr,
            weight_decay=config.weight_decay,
            backbone_lr=BACKBONE_LR if config.backbone_lr is None else config.backbone_lr,
            stage_decay=1.0 if config.stage_decay is None else config.stage_decay,
        )

    def _sizes(self, mosaic: float, mixup: float) -> SizeSchedule:
        size = self.config.size
        smallest = min(size, max(64, round(size * 0.6 / 32) * 32)) if self.config.multi_scale else size
        return SizeSchedule(size, smallest, mosaic=mosaic, mixup=mixup, seed=self.config.seed)

    def _settings(self) -> Settings:
        config, workers = self.config, self.config.workers
        if workers is None:
            on_cpu = self.accelerator.device.type == "cpu"
            workers = 0 if on_cpu else min(8, torch.multiprocessing.cpu_count())
        return Settings(config.batch_size, config.seed, config.schedule, workers=workers, accumulate=config.accumulate)

    def _print_plan(self, freeze: int, stages: int, folder: Path) -> None:
        config, accelerator = self.config, self.accelerator
        length = f"{config.epochs or DEFAULT_EPOCHS} epochs"
        if config.minutes is not None:
            length = f"{config.minutes:g} minutes"
        processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
        added = f" x {config.accumulate}" if config.accumulate > 1 else ""
        tell(
            self.console,
            f"{config.backbone} at {config.size} px on {accelerator.device}{processes}, {length}, batches of "
            f"{config.batch_size}{added}, {freeze} of {stages} backbone stages frozen; writing to {folder}",
        )


@contextmanager
def session(config: Config, console: Console | None = None) -> Iterator[Session[Config]]:
    """A sitting of the run that `config` asks for, new or resumed.

    Args:
        config: the settings.
        console: where progress is shown; none is shown without.

    Raises:
        ValueError: settings that contradict each other, or a run that cannot be resumed or would be overwritten.
    """
    config.check()
    folder, state = config.resume, None
    if folder is not None:
        config = type(config).load(folder).check()
        state = load_state(folder / RESUME)
    if folder is None and config.output is not None:
        _refuse_taken(config.output)  # before the processes meet, after which the first one writes there
    accelerator = _accelerator()
    if not accelerator.is_main_process:
        logging.getLogger("detseg").setLevel(logging.ERROR)  # the first process warns for all
    console = console if console is not None and accelerator.is_main_process else Console(quiet=True)
    keep_freed_memory()
    set_seed(config.seed)
    sitting = Session(config, accelerator, console, folder, state)
    try:
        yield sitting
    finally:
        sitting.release()
        accelerator.end_training()


def tell(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no colours, no line breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _accelerator() -> Accelerator:
    """Devices and processes; --precision decides the number format, not the launcher's settings."""
    # One of several processes on a machine without a GPU has to say so: else each would believe it is alone.
    launched = "LOCAL_RANK" in os.environ
    return Accelerator(mixed_precision="no", cpu=launched and not torch.accelerator.is_available())


def _refuse_taken(folder: Path) -> None:
    """Raise ValueError where a run would be overwritten."""
    taken = [name for name in (RESUME, WEIGHTS, DESCRIPTION, METRICS, SETTINGS) if (folder / name).exists()]
    if RESUME in taken:
        raise ValueError(f"{folder}: holds a run already; go on with it by --resume {folder} or give another --output")
    if taken == [SETTINGS]:
        raise ValueError(
            f"{folder}: holds a {SETTINGS} already, of a run that has saved nothing yet or of something else; give "
            "another --output, or delete that file"
        )
    if taken:
        raise ValueError(f"{folder}: holds {taken[0]} of an earlier run, without {RESUME}; give another --output")


def _numbered_folder(parent: Path, name: str) -> Path:
    """Make the next free of name-1, name-2, …; two runs that start together get two folders."""
    number = 1
    while True:
        with contextlib.suppress(FileExistsError):
            (parent / f"{name}-{number}").mkdir(parents=True)
            return parent / f"{name}-{number}"
        number += 1
