"""The training loop: one for every model that returns a dict of losses.

`Trainer.run` steps through the batches of a plan, keeps an average of the weights, validates it, keeps the best,
and writes what is needed to go on after a stop: a resumed run ends with the same weights to the last bit.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detseg.models import RESUME, random_states, restore_random_states, save_model, save_state
from detseg.train.finder import RateCurve, find_rate
from detseg.train.loading import Batch, collate_with_index, groups_of, worker_options
from detseg.train.optim import averaged, learning_rate_factor, train_mode
from detseg.train.precision import Choice
from detseg.train.sampler import BatchPlan, Progress, SizeSchedule, TrainingSamples, steps_per_epoch
from detseg.train.watch import FiniteWatch

# Losses are read from a GPU, and processes agree on stopping, only every so many steps: each time all must wait.
CHECK_EVERY = 10


class Log(Protocol):
    """Where a trainer tells how it goes; see `detseg.train.log.RunLog`."""

    def step(self, step: int, fraction: float, losses: Mapping[str, float], images: int) -> None:
        """After a step whose losses were read."""

    def validated(self, row: Mapping[str, float], took: float = 0.0) -> None:
        """After a validation that took so many seconds: epoch, step, seconds, lr, losses and metrics."""

    def rewind(self, step: int) -> None:
        """Forget what was logged after a step: the run resumes there."""


@dataclass(frozen=True)
class Settings:
    """How to train; see `detseg.train.config.TrainConfig` for the meaning of each."""

    batch_size: int = 8
    seed: int = 0
    schedule: str = "cosine"
    warmup: int = 100
    ema_decay: float = 0.998
    clip: float = 10.0
    workers: int = 0
    save_seconds: float = 300.0
    accumulate: int = 1  # batches a step

    @property
    def step_size(self) -> int:
        """Images a step and process."""
        return self.batch_size * self.accumulate


@dataclass
class Trainer:
    """Everything a run needs; `run` does it.

    Attributes:
        model: returns losses for (images, targets), predictions for (images).
        samples: the training images.
        collate: makes a batch of samples: images (N, 3, H, W) and the model's targets.
        optimizer: of the model's parameters.
        accelerator: devices and processes.
        folder: where checkpoints go.
        progress: length of the run and how far it is.
        sizes: input sizes over the run.
        choice: number format and memory layout.
        settings: the rest.
        in_eval: modules that stay in evaluation mode: frozen ones, and norms that keep their statistics.
        validate: scores a model.
        goal: the score that decides which model is the best.
        describe: content of `model.json`, from the metrics; called when the model is the best so far.
        names: of the images, for messages.
        log: is told how it goes.
        fingerprint: marks of the parts of the data, by what they are called; a run only resumes with the same.
    """

    model: nn.Module
    samples: TrainingSamples
    collate: Callable[[list[Any]], tuple[Tensor, Any]]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    folder: Path
    progress: Progress
    sizes: SizeSchedule
    choice: Choice
    settings: Settings
    in_eval: Sequence[nn.Module]
    validate: Callable[[nn.Module], Mapping[str, float]]
    goal: str
    describe: Callable[[Mapping[str, float]], Mapping[str, Any]]
    names: Sequence[str]
    log: Log
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    best: float = field(default=-1.0, init=False)
    interrupted: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._validated_at = 0.0
        self._fraction = 0.0
        self._stop = threading.Event()
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self._saved_at = 0.0
        self._save_due = False
        # What must be finite: of each step the losses of its batches and the norm of its gradient.
        self._watch = FiniteWatch(self.names, CHECK_EVERY * (self.settings.accumulate + 1), self._world)
        self._layout = torch.channels_last if self.choice.channels_last else torch.contiguous_format
        self.model.to(device=self.accelerator.device, memory_format=self._layout)  # type: ignore[call-overload]
        self.average = averaged(self.model, self.settings.ema_decay, lambda: self.progress.step)

    def run(self, state: Mapping[str, Any] | None = None) -> None:
        """Train to the end of the budget, or until interrupted; the best model is in the folder then.

        Args:
            state: what `load_state` gives, to go on from there.

        Raises:
            TrainingError: a loss or gradient is not finite.
            ValueError: the state is of a run with other data or another number of processes.
        """
        self.progress.begin()
        if state is not None:
            self._restore(state)
        self._fraction = self.progress.fraction()
        ready, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        per_epoch = steps_per_epoch(len(self.samples), self.settings.step_size, self._world)
        with self._stop_on_signals():
            if state is None:
                self._save()  # a run can be resumed from its very beginning on
            for batches in groups_of(self.settings.accumulate, self.batches()):
                if self._fraction >= 1 or self.interrupted:
                    break
                # Before the step, not after the last: a run stopped in between does it when it resumes.
                self._look_back(per_epoch)
                self._step(ready, batches)
                self._agree()
            if not self.interrupted and self._validated_at < 1:
                self._validate(per_epoch)
            self._save()

    def test_rates(self) -> RateCurve:
        """Losses at rising learning rates, see `find_rate`; leaves everything as it was.

        Raises:
            TrainingError: the loss falls at none of them.
        """
        train_mode(self.model, self.in_eval)

        def losses() -> Iterator[Callable[[], Tensor]]:
            for images, targets, _ in self.batches():
                yield partial(self._loss, images, targets)

        return find_rate(self.model, self.optimizer, losses())

    def _loss(self, images: Tensor, targets: Any) -> Tensor:
        return torch.stack(list(self._losses(self.model, images, targets).values())).sum()

    def _look_back(self, per_epoch: int) -> None:
        """Validate and save where it is time to."""
        if self._validation_due(self.progress.step % per_epoch == 0):
            self._validate(per_epoch)
            self._save()
        elif self._save_due:
            self._save()

    @property
    def _world(self) -> int:
        return int(self.accelerator.num_processes)

    def batches(self) -> Iterator[Batch]:
        """Endless batches on the device, from the present step on."""
        plan = BatchPlan(
            len(self.samples),
            self.settings.step_size,
            self.sizes,
            self._fraction_at,
            seed=self.settings.seed,
            first_step=self.progress.step,
            rank=self.accelerator.process_index,
            world=self._world,
            parts=self.settings.accumulate,
        )
        loader: DataLoader[Any] = DataLoader(
            self.samples,  # type: ignore[arg-type]
            batch_sampler=plan,
            collate_fn=partial(collate_with_index, self.collate),
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that making a loader leaves torch's random state alone
            **worker_options(self.settings.workers),
        )
        for images, targets, indices in loader:
            device = self.accelerator.device
            images = images.to(device, non_blocking=True, memory_format=self._layout)
            yield images, send_to_device(targets, device, non_blocking=True), indices

    def _fraction_at(self, step: int) -> float:
        """How far the run will be at a step: known exactly when its length is given in steps."""
        return self.progress.fraction_at(step, 0.0) if self.progress.steps is not None else self._fraction

    def _step(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        train_mode(model, self.in_eval)
        factor = learning_rate_factor(self.settings.schedule, self._fraction, self.progress.step, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        for images, targets, indices in batches[:-1]:
            with self.accelerator.no_sync(model):  # processes exchange gradients once a step
                self._learn(model, images, targets, indices)
        self._learn(model, *batches[-1])
        norm = self.accelerator.clip_grad_norm_(model.parameters(), self.settings.clip)
        self._watch.add("gradient", self.progress.step + 1, [i for *_, indices in batches for i in indices], norm)
        self._check_finite()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.average.update_parameters(self.accelerator.unwrap_model(model))
        self._tell()

    def _losses(self, model: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.choice.precision == "bf16"):
            losses: dict[str, Tensor] = model(images, targets)
        return losses

    def _learn(self, model: nn.Module, images: Tensor, targets: Any, indices: list[int]) -> None:
        """Add up the gradients of a batch."""
        losses = self._losses(model, images, targets)
        loss = torch.stack(list(losses.values())).sum()
        self._watch.add("loss", self.progress.step + 1, indices, loss.detach())
        self.accelerator.backward(loss / self.settings.accumulate)
        for name, value in losses.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._summed += 1

    def _check_finite(self) -> None:
        """Look at losses and gradient when that makes no device wait, or every so many steps."""
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu or self.progress.step % CHECK_EVERY == CHECK_EVERY - 1:
            self._watch.check()

    def _tell(self) -> None:
        if self.progress.step % CHECK_EVERY == 0:
            means = {name: float(value) / self._summed for name, value in self._sums.items()}
            images = self.settings.step_size * CHECK_EVERY * self._world
            self.log.step(self.progress.step, self._fraction, means, images)

    def _agree(self) -> None:
        """Take stock of time and signals, alike in all processes so that none waits for one that has left."""
        save_due = self.progress.elapsed() - self._saved_at > self.settings.save_seconds
        if self._world == 1:
            self._fraction, self.interrupted, self._save_due = self.progress.fraction(), self._stop.is_set(), save_due
            return
        self._save_due = False
        if self.progress.steps is not None:
            self._fraction = self.progress.fraction()
        if self.progress.step % CHECK_EVERY == 0:
            local = [self.progress.fraction(), float(self._stop.is_set()), float(save_due)]
            together = self.accelerator.gather(torch.tensor([local], device=self.accelerator.device))
            self._fraction, stop, save = together.amax(0).tolist()
            self.interrupted, self._save_due = bool(stop), bool(save)

    def _validation_due(self, epoch_ends: bool) -> bool:
        """At the end of an epoch when a tenth of the run has passed since the last, or after a fifth anyhow.

        Shortly before the end there is none: the last one follows at once.
        """
        since = self._fraction - self._validated_at
        return self._fraction <= 0.95 and (since >= 0.2 or (epoch_ends and since >= 0.1))

    def _validate(self, per_epoch: int) -> None:
        started = time.monotonic()
        self._watch.check()  # the best model is saved after this
        self._share_buffers()
        metrics = self.validate(self.average.module)
        self._validated_at = self._fraction
        losses = {name: float(value) / max(1, self._summed) for name, value in self._sums.items()}
        self._sums, self._summed = {}, 0
        if not self.accelerator.is_main_process:
            return
        row = {
            "epoch": self.progress.step / per_epoch,
            "step": self.progress.step,
            "seconds": self.progress.elapsed(),
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "loss": sum(losses.values()),
            **losses,
            **metrics,
        }
        if metrics[self.goal] >= self.best:  # of equals the last, which has learnt longest
            self.best = metrics[self.goal]
            save_model(self.folder, self.average.module, self.describe(row))
        self.log.validated(row, time.monotonic() - started)

    def _share_buffers(self) -> None:
        """Give all processes the first one's batch norm statistics: each gathers its own, and only those are saved."""
        if self._world > 1:
            for buffer in self.average.module.buffers():
                broadcast(buffer)

    def _save(self) -> None:
        self._watch.check()  # or a run would resume from weights that are NaN
        self._saved_at = self.progress.elapsed()
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.progress.step,
            "elapsed": self.progress.elapsed(),
            "best": self.best,
            "validated_at": self._validated_at,
            "sums": self._sums,
            "summed": self._summed,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_states(self.accelerator.device),
            "choice": list(self.choice),
            "world": self._world,
            "fingerprint": dict(self.fingerprint),
        }
        save_state(self.folder / RESUME, state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state["world"] != self._world:
            raise ValueError(
                f"this run was started with {state['world']} processes; resume it with as many, not {self._world}"
            )
        changed = [part for part, mark in self.fingerprint.items() if state["fingerprint"].get(part) != mark]
        if changed:
            raise ValueError(
                f"the {' and the '.join(changed)} have changed since this run was started; put them back, or start a "
                "new run"
            )
        device = self.accelerator.device
        self.progress.step, self.progress.before = state["step"], state["elapsed"]
        self._saved_at = state["elapsed"]
        self.best, self._validated_at = state["best"], state["validated_at"]
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._summed = state["summed"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_random_states(state["random"], device)
        if self.accelerator.is_main_process:
            self.log.rewind(self.progress.step)

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step that is under way; a second Ctrl-C at once."""
        first = 0.0

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal first
            now = time.monotonic()
            # Launchers pass on the Ctrl-C that the terminal has sent to all processes already.
            if self._stop.is_set() and number == signal.SIGINT and now - first > 1:
                raise KeyboardInterrupt
            first = first or now
            self._stop.set()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, stop) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)
