"""`detseg train`: train a model and show how good it is."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from detseg.tasks import part

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.train.runner import Run

FOLDED = ("detector",)  # tasks with --folds


def options(name: str, words: Sequence[str]) -> type[Any]:
    """The options of ``train TASK``, with those of the model that the words ask for; ValueError where there is none."""
    from detseg.train.config import config_for
    from detseg.train.devices import launched, start_several

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model", nargs="?")
    parser.add_argument("--device", default="auto")
    known, _ = parser.parse_known_args(list(words))
    task = name.split()[1]
    if "," in known.device and not launched():
        raise SystemExit(f"error: {start_several(known.device, _without_device(name, words))}")
    kind = config_for(task, known.model)
    return with_folds(kind) if task in FOLDED else kind


def _without_device(name: str, words: Sequence[str]) -> str:
    """The command line, but for its --device."""
    kept = [w for before, w in pairwise(["", *words]) if before != "--device" and not w.startswith("--device")]
    return f"detseg {name} {shlex.join(kept)}"


def with_folds(kind: type[Any]) -> type[Any]:
    """The options of a run, and of the command that trains several."""
    about: Any = tyro.conf.arg(
        help="Cross-validation: train this many runs, OUTPUT/fold-1, fold-2, …, each validated on another part of "
        "--data (or its folds, as `detseg split --folds` writes them), and evaluate all of them together."
    )
    folds: Any = ("folds", Annotated[int | None, about], None)
    result = make_dataclass(kind.__name__, [folds], bases=(kind,), frozen=True, kw_only=True)
    result.__doc__, result.__module__ = kind.__doc__, kind.__module__
    return result


def run(config: Any) -> int:
    """Train, then show the table, where the pictures are, and what to do next; or how to go on after a stop."""
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line
    from detseg.train.runner import train

    folds = getattr(config, "folds", None)
    if hasattr(config, "folds"):  # an option of the command, not of a run
        base = type(config).__bases__[0]
        config = base(**{field.name: getattr(config, field.name) for field in fields(base)})
    console = Terminal(goes_on=True)
    if folds is not None:
        return run_folds(config, folds, console)
    run = train(config, console, draw=draw)
    folder = shlex.quote(str(run.folder))
    if run.interrupted:
        if run.main:
            print_line(console, f"interrupted; go on with: detseg train {config.task} --resume {folder}")
        return 130
    if run.metrics is not None:
        page = part(config.task, "page")(run)
        pictures = page.write()
        console.print(page.table())
        for caption, path in pictures:
            print_line(console, f"{caption}: {path}")
        print_line(console, f"use it: detseg predict {folder} image.jpg")
    return 0


def draw(run: Run) -> Mapping[str, Path]:
    """Draw what a run is trained on."""
    drawn: Mapping[str, Path] = part(run.task.name, "page")(run).draw_training()
    return drawn


def run_folds(config: Any, count: int, console: Console) -> int:
    """Train a run for each fold, then evaluate what all of them detect in images they were not trained on."""
    from detseg.cli.evaluate import Evaluate
    from detseg.cli.evaluate import run as evaluate
    from detseg.console import print_line
    from detseg.train.folds import train_folds

    def finished(number: int, run: Run) -> None:
        (_, report), *_ = part(config.task, "page")(run).write()
        figures = {figure.name: figure for figure in run.metrics.shown()}
        told = ", ".join(f"{figures[n].title} {figures[n].compute(run.metrics):.3f}" for n in run.task.headline)
        print_line(console, f"fold {number} of {count}: {told}; report: {report}")

    folds = train_folds(config, count, console, draw=draw, finished=finished)
    if folds.interrupted:
        print_line(console, "interrupted; the same command goes on, with --output " + shlex.quote(str(folds.folder)))
        return 130
    table = folds.folder / "metrics.csv"
    code = evaluate(Evaluate(detections=folds.detections, ground_truth=folds.annotations, csv=table))
    files = f"{folds.detections.name}, by the ids of {folds.annotations.name}; the figures are in {table.name}"
    print_line(console, f"{folds.folder}: {count} runs; what they detect in images they were not trained on: {files}")
    return code
