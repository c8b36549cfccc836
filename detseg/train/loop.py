"""The training loop: one for every model that returns a dict of losses.

`Trainer.run` steps through the batches of a plan, keeps an average of the weights, validates it, keeps the best,
and writes what is needed to resume after a stop: a resumed run ends with the same weights to the last bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, reduce
from torch import Tensor, nn

from detseg.models import save_model
from detseg.reading import FileError
from detseg.together import training_together
from detseg.train.exchange import exchange_in_order
from detseg.train.finder import RateCurve, find_rate
from detseg.train.optim import averaged, learning_rate_factor, train_mode
from detseg.train.precision import CANDIDATES, Choice
from detseg.train.resume import RESUME, random_states, restore_random_states, save_state
from detseg.train.sampler import Batch, Batches, Progress, groups_of
from detseg.train.signals import Stop
from detseg.train.state_check import AGAIN, fitting
from detseg.train.watch import FiniteWatch

if TYPE_CHECKING:
    from detseg.train.log import RunLog
    from detseg.train.task import Run

logger = logging.getLogger(__name__)

# Losses are read from a GPU, and processes agree on stopping, only every so many steps: each time all must wait.
CHECK_EVERY = 10
# The share of a run after which the number format is looked at again, where the first look was not clear.
CHOOSE_AGAIN = 0.05


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        choice: number format and memory layout.
        choose_again: gives another number format, in the same layout; called once, early in the run.
        schedule: of the learning rate, see `learning_rate_factor`.
        in_eval: modules that stay in evaluation mode: frozen ones, and norms that keep their statistics.
        warmup: steps.
        patience: validations without a better figure after which the run ends; None for no such end.
        ema_decay: of the average of the weights.
        clip: largest norm of the gradient.
        save_seconds: between two saves of the state.
    """

    choice: Choice = CANDIDATES[0]
    choose_again: Callable[[], Choice] | None = None
    schedule: str = "cosine"
    in_eval: Sequence[nn.Module] = ()
    warmup: int = 100
    patience: int | None = None
    ema_decay: float = 0.998
    clip: float = 10.0
    save_seconds: float = 300.0


@dataclass
class Trainer:
    """The loop of a run: `job` says where it is saved and how it is validated, `log` is told how it goes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches
    job: Run
    progress: Progress
    settings: Settings
    accelerator: Accelerator
    log: RunLog
    require_folder: Callable[[], None] = lambda: None  # raises where the run's folder is no longer there
    best: float = field(default=-1.0, init=False)
    interrupted: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.choice, self._choose_again = self.settings.choice, self.settings.choose_again
        self._validated_at, self._validated_step = 0.0, 0
        self._fraction = 0.0
        self._stop = Stop()
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self._saved_at = 0.0
        self._save_due = False
        self._stale = 0  # validations since the last that was better than all before
        self._best_epoch = 0.0
        self._world = int(self.accelerator.num_processes)
        # What must be finite: of each step the losses of its batches and the norm of its gradient.
        latest = CHECK_EVERY * (self.batches.accumulate + 1)
        self._watch = FiniteWatch(self.job.image_names(), latest, self._world)
        layout = self.choice.memory_format
        self.model.to(device=self.accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        self.fingerprint = dict(self.job.fingerprint())
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
        model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        exchange_in_order(model)
        with self._stop.on_signals():
            if state is None:
                self._save()  # a run can be resumed from its very beginning on
            for batches in groups_of(self.batches.accumulate, self.stream()):
                if self._fraction >= 1 or self.interrupted:
                    break
                # Before the step, not after the last: a run stopped in between does it when it resumes.
                self._validate_and_save_if_due()
                if self.stopped:
                    break
                self._choose_again_if_due()
                self.step(model, batches)
                self._synchronise()
            if not (self.interrupted or self.stopped) and self._validated_at < 1:
                self._validate()
            self._save()
        if self.stopped:
            self._tell_of_stop()

    @property
    def stopped(self) -> bool:
        """Whether the run ends early, since it no longer gets better."""
        patience = self.settings.patience
        return patience is not None and self._stale >= patience and self._fraction < 1

    def _tell_of_stop(self) -> None:
        title = self.job.figures[self.job.goal].partition("@")[0]
        logger.info(
            "stopped early: no better %s in %d validation%s; best %.3f at epoch %.1f",
            *(title, self._stale, "s" * (self._stale > 1), self.best, self._best_epoch),
        )

    def step(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """One step of the optimizer, on the summed gradients of some batches."""
        train_mode(model, self.settings.in_eval)
        done = self.progress.step - self.progress.first_step
        factor = learning_rate_factor(self.settings.schedule, self._fraction, done, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        for images, targets, indices in batches[:-1]:
            with self.accelerator.no_sync(model):  # processes exchange gradients once a step
                self._backward(model, images, targets, indices)
        self._backward(model, *batches[-1])
        norm = self.accelerator.clip_grad_norm_(model.parameters(), self.settings.clip)
        self._watch.add("gradient", self.progress.step + 1, [i for *_, indices in batches for i in indices], norm)
        self._check_finite()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.average.update_parameters(self.accelerator.unwrap_model(model))
        self._log_step()

    def losses(self, model: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """The named losses of a batch, in the run's number format."""
        bf16 = self.choice.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            losses: dict[str, Tensor] = model(images, targets)
        return losses

    def _means(self) -> dict[str, float]:
        """The losses since the last validation, of the images of all processes."""
        sums = self._sums
        if self._world > 1 and sums:
            sums = dict(zip(sums, reduce(torch.stack(list(sums.values())), "mean"), strict=True))
        return {name: float(value) / max(1, self._summed) for name, value in sums.items()}

    def _backward(self, model: nn.Module, images: Tensor, targets: Any, indices: list[int]) -> None:
        """Add up the gradients of a batch."""
        with training_together(self._world):
            losses = self.losses(model, images, targets)
        loss = torch.stack(list(losses.values())).sum()
        self._watch.add("loss", self.progress.step + 1, indices, loss.detach())
        self.accelerator.backward(loss / self.batches.accumulate)
        for name, value in losses.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._summed += 1

    def stream(self) -> Iterator[Batch]:
        """Endless batches on the device, from the present step on."""
        return self.batches.stream(self.accelerator, self.progress.step, self._fraction_at)

    def test_rates(self) -> RateCurve:
        """Losses at rising learning rates, see `find_rate`; leaves everything as it was.

        Raises:
            TrainingError: the loss falls at none of them.
        """
        train_mode(self.model, self.settings.in_eval)

        def losses() -> Iterator[Callable[[], Tensor]]:
            for images, targets, _ in self.stream():
                yield partial(self._loss, images, targets)

        return find_rate(self.model, self.optimizer, losses())

    def _choose_again_if_due(self) -> None:
        """Look at the number format again; what follows from it is saved, so that no later look can differ."""
        if self._choose_again is not None and self._fraction >= CHOOSE_AGAIN:
            self.choice, self._choose_again = self._choose_again(), None
            self._save()

    def _loss(self, images: Tensor, targets: Any) -> Tensor:
        return torch.stack(list(self.losses(self.model, images, targets).values())).sum()

    def _fraction_at(self, step: int) -> float:
        """How far the run will be at a step: known exactly when its length is given in steps."""
        return self.progress.fraction_at(step, 0.0) if self.progress.steps is not None else self._fraction

    def _check_finite(self) -> None:
        """Look at losses and gradient when that makes no device wait, or every so many steps."""
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu or self.progress.step % CHECK_EVERY == CHECK_EVERY - 1:
            self._watch.check()

    def _log_step(self) -> None:
        if self.progress.step % CHECK_EVERY == 0:
            self.require_folder()
            images = self.batches.step_size * CHECK_EVERY * self._world
            self.log.step(self.progress.step, self._fraction, self._means(), images)

    def _synchronise(self) -> None:
        """Synchronise elapsed time and stop signals across processes, so that none waits for one that has left."""
        save_due = self.progress.elapsed() - self._saved_at > self.settings.save_seconds
        if self._world == 1:
            self._fraction, self.interrupted, self._save_due = self.progress.fraction(), self._stop.is_set(), save_due
            return
        self._save_due = False
        if self.progress.step % CHECK_EVERY == 0:
            local = [self.progress.fraction(), float(self._stop.is_set()), float(save_due)]
            together = self.accelerator.gather(torch.tensor([local], device=self.accelerator.device))
            self._fraction, stop, save = together.amax(0).tolist()
            self.interrupted, self._save_due = bool(stop), bool(save)
        if self.progress.steps is not None:  # to all digits, as when a run is resumed: what was gathered has 7
            self._fraction = self.progress.fraction()

    # ------------------------------------------------------------------ validation

    def _validate_and_save_if_due(self) -> None:
        if self._validation_due(self.progress.step % self.batches.per_epoch(self._world) == 0):
            self._validate()
            self._save()
        elif self._save_due:
            self._save()

    def _validation_due(self, epoch_ends: bool) -> bool:
        """At the end of an epoch when a tenth of the run has passed since the last, or after a fifth anyhow.

        Shortly before the end there is none: the last one follows at once.
        """
        since = self._fraction - self._validated_at
        return self._fraction <= 0.95 and (since >= 0.2 or (epoch_ends and since >= 0.1))

    def _validate(self) -> None:
        started = time.monotonic()
        self._watch.check()  # the best model is saved after this
        self._share_buffers()
        metrics = self.job.validate(self.average.module, self.accelerator)
        self._validated_at, self._validated_step = self._fraction, self.progress.step
        losses = self._means()
        self._sums, self._summed = {}, 0
        if self.accelerator.is_main_process:
            self._record(metrics, losses, started)
        if self._world > 1:  # all stop or none does
            self._stale = int(broadcast(torch.tensor(self._stale, device=self.accelerator.device)))

    def _record(self, metrics: Mapping[str, float], losses: Mapping[str, float], started: float) -> None:
        """Log a validation, and keep the model if it is the best."""
        self.require_folder()
        row = {
            "epoch": self.progress.step / self.batches.per_epoch(self._world),
            "step": self.progress.step,
            "seconds": self.progress.elapsed(),
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "loss": sum(losses.values()),
            **losses,
            **metrics,
        }
        figure = metrics[self.job.goal]
        self._stale = 0 if figure > self.best else self._stale + 1
        if figure >= self.best:  # of equals the last, which has learnt longest
            self.best, self._best_epoch = figure, row["epoch"]
            self.job.keep_latest()
            save_model(self.job.folder, self.average.module, self.job.describe(row))
        self.log.validated(row, time.monotonic() - started)

    def _share_buffers(self) -> None:
        """Give all processes the first one's batch norm statistics: each gathers its own, and only those are saved."""
        if self._world > 1:
            for buffer in self.average.module.buffers():
                broadcast(buffer)

    # ------------------------------------------------------------------ saving and resuming

    def _save(self) -> None:
        self._watch.check()  # or a run would resume from weights that are NaN
        self._saved_at = self.progress.elapsed()
        # All processes have done this step when these have come together. Weights are the same in all, and before each
        # step they are given the first one's batch norm statistics, so that nothing else is each one's own.
        sums = {name: value.cpu() for name, value in self._sums.items()}
        processes = gather_object([{"random": random_states(self.accelerator.device), "sums": sums}])
        if not self.accelerator.is_main_process:
            return
        self.require_folder()
        state = {
            "step": self.progress.step,
            "elapsed": self.progress.elapsed(),
            "best": self.best,
            "best_epoch": self._best_epoch,
            "stale": self._stale,
            "validated_at": self._validated_at,
            "validated_step": self._validated_step,
            "summed": self._summed,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "processes": processes,
            "choice": list(self.choice),
            "unsure": self._choose_again is not None,
            "world": self._world,
            "fingerprint": self.fingerprint,
            "architecture": dict(self.job.architecture),
        }
        save_state(self.job.folder / RESUME, state)

    def require_same(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError where a state is of a run with other data or another number of processes."""
        if state["world"] != self._world:
            raise ValueError(
                f"this run was started with {state['world']} processes; resume it with as many, not {self._world}"
            )
        # Early states say "pictures".
        saved = {part.replace("pictures", "images"): mark for part, mark in state["fingerprint"].items()}
        changed = [part for part, mark in self.fingerprint.items() if saved.get(part) != mark]
        if changed:
            raise ValueError(
                f"the {' and the '.join(changed)} have changed since this run was started; put them back, or start a "
                f"new run from what this one has learnt: --weights {self.job.folder}"
            )

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.require_same(state)
        parts = {"model": self.model, "average": self.average}
        optimizer = fitting(state, parts, self.optimizer, self.job.folder / RESUME)
        if state["step"] > self.progress.last_step:
            raise FileError(
                f"{self.job.folder / RESUME}: step: is {state['step']:,}, after the run's last, "
                f"{self.progress.last_step:,} ({AGAIN})"
            )
        device = self.accelerator.device
        self.progress.step, self.progress.before = state["step"], state["elapsed"]
        self._saved_at = state["elapsed"]
        self.best, self._best_epoch = state["best"], state.get("best_epoch", 0.0)
        if state["step"] > self.progress.first_step:  # else an extension begins
            self._validated_at, self._stale = state["validated_at"], state.get("stale", 0)
        self._summed = state["summed"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(optimizer)
        processes = state["processes"]
        own = processes[min(self.accelerator.process_index, len(processes) - 1)]
        restore_random_states(own["random"], device)
        self._sums = {name: value.to(device) for name, value in own["sums"].items()}
        # A validation after this state is done, and logged, once more.
        self._validated_step = state.get("validated_step", state["step"])
        if self.accelerator.is_main_process:
            self.log.rewind(self._validated_step)
