"""`detseg explain`: the likeliest classes of images, or detections in them, and on what these rest, as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from detseg.cli.devices import chosen_device
from detseg.cli.images import free_names, local_images
from detseg.options import require_share

if TYPE_CHECKING:
    from rich.table import Table

    from detseg.predict import Predictor
    from detseg.predict.explain import Explanation


@dataclass(frozen=True)
class Explain:
    """Explain what a network answers: heat maps of the places that its answer rests on.

    Of a detector, the best detections of each image, and for each what the network looked at (ODAM). Of a classifier,
    the top-5 classes, Grad-CAM, feature maps and first-layer filters. Writes one page per image, and its parts to a
    folder beside it.

    A detector of your own:

        detseg explain runs/detector-1 garden.jpg --output explained
        detseg explain runs/detector-1 garden.jpg --top 10 --score-threshold 0.1 --classes rose

    An ImageNet network, or a classifier or localizer of your own:

        detseg explain tf_efficientnet_lite0 flower.jpg --output explained
        detseg explain runs/classifier-1 rose.jpg
        detseg explain runs/classifier-1 rose.jpg --classes rose tulip
        detseg explain resnet50 photos/ --weights resnet50.pth
    """

    model: Annotated[str, tyro.conf.Positional]
    """Run folder of a detector, classifier or localizer, or a network name (see `detseg backbones`)."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Images, folders of images, or web addresses of images."""
    output: Path = Path("explained")
    """Output folder."""
    classes: tuple[str, ...] = ()
    """Classes to explain; by default the five most likely. Of a detector: explain detections of these classes only."""
    top: int | None = None
    """Of a detector: explain this many detections per image, those with the highest scores; by default 5."""
    score_threshold: float | None = None
    """Of a detector: minimum score of a detection; by default 0.3."""
    weights: Path | None = None
    """With a network name: file of its ImageNet weights; by default from an installed package, else downloaded."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 (or 1), mps, …."""


def run(config: Explain) -> int:
    """Explain as `config` says; returns the exit code.

    Raises:
        ValueError: no such run or network, or one that neither detects nor gives a class to the whole image; no
            weights; a class that there is not; an option of detectors for something else; an image that cannot be read,
            images before it are written.
    """
    require_share(config, "score_threshold")
    with local_images(config.sources) as sources:
        return _run(config, sources)


def _run(config: Explain, sources: Mapping[Path, str]) -> int:
    """As `run`; `sources` are the files, each with what to call it."""
    from detseg.predict.explain import find_labels
    from detseg.predict.explain_detections import has_detections

    if not sources:
        raise ValueError("name images, or folders of images, after the run or network")
    predictor = _load(config)
    predictor.to(chosen_device(config.device))
    labels = find_labels(predictor.names, config.classes) if config.classes else None
    if has_detections(predictor):
        from detseg.cli.explain_detections import explain_found

        explain_found(config, predictor, sources, labels)
        return 0
    for option, value in (("--top", config.top), ("--score-threshold", config.score_threshold)):
        if value is not None:
            raise ValueError(f"{option} is for detectors; {config.model} is none: leave it out")
    _explain_classes(config, predictor, sources, labels)
    return 0


def _explain_classes(
    config: Explain, predictor: Predictor, sources: Mapping[Path, str], labels: list[int] | None
) -> None:
    """Explain a classifier or localizer."""
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line
    from detseg.data.images import read_image
    from detseg.predict.explain import explain
    from detseg.report.pages.explanation import PARTS, write_explanation
    from detseg.report.pictures import write_picture
    from detseg.visualize.heat import filter_sheet

    console, paths = Terminal(), list(sources)

    def files(name: str) -> dict[Path, str]:
        parts = (config.output / name / part for part in PARTS)
        return dict.fromkeys((config.output / f"{name}.jpg", config.output / "filters.png", *parts), "an explanation")

    pages = [config.output / f"{name}.jpg" for name in free_names(paths, files)]
    remark = f"{config.model}, images of {predictor.size} × {predictor.size} pixels"
    for number, (path, page) in enumerate(zip(paths, pages, strict=True)):
        image = read_image(path, predictor.channels)
        seen = explain(predictor, image, labels)
        written = write_explanation(seen, image, predictor.names, page, title=path.name, remark=remark)
        if number == 0:
            filters = write_picture(filter_sheet(seen.filters), config.output / "filters.png")
        print_line(console, sources[path])
        console.print(_table(seen, predictor.names))
        for path, what in zip(written, ("all of it on a page", *PARTS.values()), strict=True):
            print_line(console, f"{path}: {what}")
    print_line(console, f"{filters}: filters of the first layer")


def _load(config: Explain) -> Predictor:
    """The model of a run folder, or the network of that name."""
    from detseg.predict import load
    from detseg.predict.network import load_network

    if Path(config.model).is_dir():
        if config.weights is not None:
            raise ValueError(f"--weights is for networks by name; the run {config.model} has its own: leave it out")
        return load(config.model)
    if Path(config.model).name != config.model or Path(config.model).exists():
        raise ValueError(f"{config.model}: no such run; give the folder of a run, or the name of a network")
    return load_network(config.model, config.weights)


def _table(seen: Explanation, names: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from detseg.report.pages.explanation import shown_labels
    from detseg.report.tables.builders import name_text
    from detseg.visualize.heat import percent

    table = Table(box=SIMPLE_HEAD)
    table.add_column("", justify="right")
    table.add_column("class")
    table.add_column("probability", justify="right")
    ranks = {label: rank for rank, label in enumerate(seen.ranking.tolist(), 1)}
    for label in shown_labels(seen):
        style = "bold" if ranks[label] == 1 else None
        table.add_row(str(ranks[label]), name_text(names[label]), percent(float(seen.scores[label])), style=style)
    return table
