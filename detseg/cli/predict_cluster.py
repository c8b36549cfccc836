"""`detseg predict --engine ray`: a collection of images on a cluster, shards of results in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg.console import print_line
from detseg.options import given

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.cli.predict import Predict
    from detseg.cluster.worker import Job, Summary

# What is written of each image elsewhere, and what the cluster decides.
OF_ONE_MACHINE = (
    *("save_txt", "save_crops", "save_json", "polygons", "label_images", "boxes", "min_area"),
    *("ten_crop", "image_ids", "images", "every", "save_video", "track", "count", "device"),
)
# What decides about the results, beside the model.
OF_RESULTS = (
    *("score_threshold", "max_detections", "iou_threshold", "agnostic", "classes", "tree_threshold", "size", "tta"),
    *("tiles", "slide", "flip", "scales", "long_side"),
)
EXPORTED = {"model.xml": "openvino", "model.onnx": "onnxruntime"}  # of a run, the quickest first, and their engines
NAMED = 5  # problems that are printed in full
PATIENCE = 30.0  # seconds between two lines of progress where there is no terminal


Open = Callable[["Predict", Sequence[Path], Any, int | None], Any]
"""Opens the model of runs as options want it, given them, the runs, a console and the number of threads."""


def run(config: Predict, open_runs: Open, of_networks: Sequence[str]) -> int:
    """Predict as `config` says; returns the exit code: 1 where shards are missing in the end, or no image was read.

    Args:
        config: the options.
        open_runs: see `Open`; it is pickled.
        of_networks: options that exported models are without.

    Raises:
        ValueError: an option, a source or the model is wrong, or the output folder holds something else.
    """
    from detseg.cli.terminal import Terminal
    from detseg.cluster import ray_data
    from detseg.cluster.manifest import begin
    from detseg.cluster.sources import collect
    from detseg.cluster.units import units_of

    console = Terminal()
    _check(config)
    folder = str(Path.cwd())
    units = units_of(collect(config.sources, recursive=config.recursive), folder)
    if not units:
        raise ValueError("name the images, archives or tables, or folders of them, after the run")
    with ray_data.connected() as cluster:
        quick = not cluster.gpus and not given(config, of_networks)
        model = _quickest(config.run) if quick else config.run
        job, files, manifest = _job(replace(config, run=model), open_runs, folder, console)
        done = begin(job.output, manifest, [unit.name for unit in units])
        left = [unit for unit in units if unit.name not in done]
        actors = ray_data.actors_for(cluster, gpus=model.is_dir())
        size = f"{cluster.nodes} node{'s' * (cluster.nodes > 1)}, {cluster.cpus} CPUs, {cluster.gpus} GPUs"
        print_line(console, f"{model} on {size}: {len(left)} shards to do, {len(done)} are done already")
        totals = Totals(before=len(done))
        if left:
            for summary in _shown(ray_data.run(left, job, files, actors), len(left), totals, console):
                totals.add(summary)
    return _finish(totals, job, [unit.name for unit in units], console)


@dataclass
class Totals:
    """What came of the units of a call."""

    before: int = 0  # shards of earlier calls
    shards: int = 0
    images: int = 0
    objects: int = 0
    errors: int = 0
    at_the_cap: int = 0
    first: list[str] = field(default_factory=list)  # what is wrong with images
    failed: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, summary: Summary) -> None:
        """Add a unit."""
        if summary.failed:
            self.failed.append(summary.failed)
            return
        self.shards += 1
        self.images += summary.images
        self.objects += summary.objects
        self.errors += summary.errors
        self.at_the_cap += summary.at_the_cap
        self.first += summary.first[: NAMED - len(self.first)]

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.started

    def __str__(self) -> str:
        return f"{self.images} images, {self.images / max(self.seconds, 1e-9):.1f} a second"


def _check(config: Predict) -> None:
    """Raise ValueError for options that mean nothing here."""
    if config.engine == "local":
        raise ValueError("--shard-format is for --engine ray; add that, or leave it out")
    if options := ", ".join(given(config, OF_ONE_MACHINE)):
        raise ValueError(f"{options}: --engine ray writes shards of results and nothing else; leave it out")
    if further := [source for source in config.sources if (Path(source) / "model.json").is_file()]:
        raise ValueError(f"{further[0]}: runs are fused on one machine only; leave out --engine ray, or name one run")


def _quickest(run: Path) -> Path:
    """The exported model in the folder of a run that is no older and whose engine is installed, else the run."""
    from importlib.util import find_spec

    weights = run / "model.safetensors"
    for name, engine in EXPORTED.items() if weights.is_file() else ():
        path = run / name
        if path.is_file() and path.stat().st_mtime >= weights.stat().st_mtime and find_spec(engine) is not None:
            return path
    return run


def open_model(config: Predict, open_runs: Open, path: Path, threads: int) -> Any:
    """The model at a path, where a worker has it."""
    import cv2

    from detseg.cli.terminal import Terminal

    cv2.setNumThreads(threads)
    return open_runs(replace(config, run=path), [path], Terminal(quiet=True), threads)


def _job(config: Predict, open_runs: Open, folder: str, console: Console) -> tuple[Job, dict[str, bytes], Any]:
    """What workers need to know, the model's files, and the manifest of what they write."""
    from detseg.cli.predictions import batch_of
    from detseg.cluster.manifest import Manifest, fingerprint
    from detseg.cluster.storage import place_in
    from detseg.cluster.worker import Job, model_files
    from detseg.data.tar_shards import address_of

    model = open_runs(config, [config.run], console, None)
    job = Job(
        model=config.run.name,
        load=partial(open_model, config, open_runs),
        folder=folder,
        output=place_in(folder, address_of(config.output)),
        ending=config.shard_format,
        at_once=batch_of(model),
        options=_options(model.task, config),
        classes=config.classes,
    )
    files = model_files(config.run)
    options = {option: getattr(config, option) for option in OF_RESULTS if given(config, (option,))}
    return job, files, Manifest(str(config.run), fingerprint(files), options, model.categories, job.ending, model.task)


def _options(task: str, config: Predict) -> dict[str, Any]:
    """What the `stream` of a model of a task is given."""
    from detseg.cli.predictions import SCORE_THRESHOLD, given_only, segmenter_options

    if task == "segment":
        return segmenter_options(config)
    if task == "classify":
        return {}
    threshold = SCORE_THRESHOLD if config.score_threshold is None else config.score_threshold
    return given_only(size=config.size, tta=config.tta or None, score_threshold=threshold, run_lengths=True)


def _shown(summaries: Iterable[Summary], units: int, totals: Totals, console: Console) -> Iterator[Summary]:
    """The same, with a progress bar on a terminal, and a line now and then elsewhere."""
    if not console.is_terminal:
        told = time.monotonic()
        for summary in summaries:
            yield summary
            if time.monotonic() - told > PATIENCE:
                told = time.monotonic()
                print_line(console, f"{totals.shards} of {units} shards: {totals}")
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("predicting", total=units)
        for summary in summaries:
            yield summary
            progress.update(bar, advance=1, description=f"predicting: {totals}")


def _finish(totals: Totals, job: Job, units: Sequence[str], console: Console) -> int:
    """Print what came of it, and remove what workers that died left behind; returns the exit code."""
    from detseg.cluster.results import shards_in
    from detseg.cluster.storage import remove_leftovers

    console.print(_table(totals))
    for problem in totals.first:
        print_line(console, problem)
    if more := totals.errors - len(totals.first):
        print_line(console, f"and {more} more images that cannot be read; their rows have an error")
    for problem in totals.failed[:NAMED]:
        print_line(console, f"failed: {problem}")
    missing = set(units) - set(shards_in(job.output))
    if missing:
        unseen = len(missing) - len(totals.failed)
        if unseen > 0:
            remedy = "the machines do not share this folder; give an address that all of them see, such as s3://…"
            print_line(console, f"{job.output}: {unseen} shards that were written are not here: {remedy}")
        print_line(console, f"{len(missing)} of {len(units)} shards are missing; the same command goes on with them")
        return 1
    remove_leftovers(job.output, {f"{unit}.{job.ending}" for unit in units})
    print_line(console, f"{len(units)} shards are in {job.output}")
    return 1 if totals.errors and not totals.images else 0


def _table(totals: Totals) -> Any:
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "shards written": totals.shards,
        "shards of earlier calls": totals.before,
        "images": totals.images,
        "objects": totals.objects,
        "images that cannot be read": totals.errors,
        "shards that failed": len(totals.failed),
    }
    for name, value in rows.items():
        table.add_row(name, f"{value:,}".replace(",", " "))
    table.add_row("seconds", f"{totals.seconds:.1f}")
    table.add_row("images per second", f"{totals.images / max(totals.seconds, 1e-9):.1f}")
    return table
