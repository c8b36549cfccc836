"""`detseg label`: labels by a trained detector, to be corrected by a person; or which images to label next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from detseg.cli.crops import require_new
from detseg.cli.devices import chosen_device
from detseg.cli.images import local_images
from detseg.data.formats.locate import PlaceImages
from detseg.options import check_score_threshold, given
from detseg.sources.addresses import is_web_address

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from detseg.data.annotations import Annotations
    from detseg.predict import Detector
    from detseg.predict.worth_labelling import Look

UNSURE = 0.5  # score from which on objects of a class without validation objects are labelled


@dataclass(frozen=True)
class Label:
    """Pre-label images with a trained detector, for a person to correct; or choose the images to label next.

    Objects are kept from the score on that gave the best F1 of their class on the run's validation images. Correct the
    result in the annotation tool, and train on it:

        detseg label runs/detector-1 photos/ --to coco --output labelled
        detseg train detector --data labelled --val-share 0.2

    The 20 images that would teach the detector most, as a list and a page:

        detseg label runs/detector-1 photos/ --next 20 --output next
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a detector."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Images, folders of images, or web addresses of images."""
    to: str = "coco"
    """Format to write, by name; formats that know scores (Label Studio's predictions) get them."""
    output: Path = Path("labelled")
    """Output folder; must be new or empty: labels of a person are never overwritten."""
    images: PlaceImages = "link"
    """How the images come into it: as links (downloaded ones as copies), as copies, or not at all (keep)."""
    score_threshold: float | None = None
    """Minimum score for all classes, in place of each class's best one."""
    next: int | None = None
    """Choose so many images, on which the detector disagrees with itself most, and write no labels."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 (or 1), mps, …."""


def run(config: Label) -> int:
    """Label or choose as `config` says; returns the exit code.

    Raises:
        ValueError: the run holds no detector, there are no images, or the output is not empty.
    """
    from detseg.cli.predictions import Reader
    from detseg.cli.terminal import Terminal
    from detseg.predict import Detector, load

    console = Terminal()
    require_new(config.output)
    _check(config)
    with local_images(config.sources) as sources:
        images = list(sources)
        if not images:
            raise ValueError("name the images to label, or folders of images, after the run")
        detector = load(config.run).to(chosen_device(config.device))
        if type(detector) is not Detector or not hasattr(detector.model, "backbone"):
            raise ValueError(f"{config.run}: holds no detector; labels are made by runs of `detseg train detector`")
        reader = Reader(images, console, sources, detector.channels)
        if config.next is None:
            _label(config, detector, reader, console)
        else:
            _choose(config, detector, reader, console)
        reader.finish()
    return 0


def _check(config: Label) -> None:
    from detseg.data.formats.write import writable_formats

    if config.to not in writable_formats():
        raise ValueError(f"--to {config.to}: no such format; there are {', '.join(sorted(writable_formats()))}")
    if config.next is not None and config.next < 1:
        raise ValueError(f"--next must be at least 1 image, not {config.next}")
    if config.next is not None and (idle := given(config, ("to", "images", "score_threshold"))):
        raise ValueError(f"--next chooses images and writes no labels; leave out {', '.join(idle)}")
    if config.score_threshold is not None:
        check_score_threshold(config.score_threshold)


# ------------------------------------------------------------------ labels


def _label(config: Label, detector: Detector, reader: Any, console: Console) -> None:
    from detseg.console import print_line, track
    from detseg.data.formats.write import write_dataset
    from detseg.files import new_folder
    from detseg.predict.detector import detect
    from detseg.predict.predictor import in_full_size

    images: PlaceImages = config.images
    if any(map(is_web_address, config.sources)):
        if images == "keep":
            raise ValueError("--images keep: images at web addresses are downloaded; choose link or copy")
        images = "copy"  # for what is downloaded is gone in the end
    thresholds = _thresholds(config, detector, console)
    read: list[int] = []
    sizes: list[tuple[int, int]] = []

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for position, image in track(reader, len(reader.images), what="labelling", console=console):
            read.append(position)
            sizes.append((image.shape[1], image.shape[0]))
            yield image

    found = []
    for objects in detect(detector.model, in_full_size(pixels()), detector.size):
        arrays = {name: objects[name].numpy() for name in ("boxes", "scores", "labels")}
        keep = arrays["scores"] >= thresholds[arrays["labels"]]
        found.append({name: values[keep] for name, values in arrays.items()})
    data, scores = pre_labels(detector, [str(reader.images[i]) for i in read], sizes, found)
    with new_folder(config.output):
        write_dataset(data, config.output, to=config.to, images=images, scores=scores)
    numbers = zip(data.names, np.bincount(data.labels, minlength=len(data.names)).tolist(), strict=True)
    counts = ", ".join(f"{count} {name}" for name, count in numbers if count)
    print_line(console, f"{len(data.ids)} objects in {len(data)} images: {counts or 'nothing'}")
    print_line(console, f"written as {config.to} to {config.output}; correct them before they teach")


def _thresholds(config: Label, detector: Detector, console: Console) -> NDArray[np.float64]:
    """(K,) the score from which on an object of each class is kept."""
    from detseg.cli.evaluate_detections import analysis_of_run
    from detseg.console import print_line

    if config.score_threshold is not None:
        return np.full(len(detector.names), config.score_threshold)
    try:
        best = analysis_of_run(config.run, console).thresholds
    except ValueError as error:
        raise ValueError(f"{error}\nWithout validation images give --score-threshold, such as 0.5") from error
    scores = np.array([row.score for row in best.per_class])
    unknown = [name for name, score in zip(detector.names, scores, strict=True) if np.isnan(score)]
    if unknown:
        print_line(console, f"no validation objects of {', '.join(unknown)}: kept from a score of {UNSURE} on")
    shown = ", ".join(f"{n} {s:.2f}" for n, s in zip(detector.names, scores, strict=True) if not np.isnan(s))
    print_line(console, f"best scores on the validation images: {shown}")
    return np.where(np.isnan(scores), UNSURE, scores)


def pre_labels(
    detector: Detector, paths: Sequence[str], sizes: Sequence[tuple[int, int]], found: Sequence[Mapping[str, Any]]
) -> tuple[Annotations, NDArray[np.float64]]:
    """Detections of N images as annotations of M objects, and their scores (M,).

    Args:
        paths: (N,) of the images; sizes: (N,) their widths and heights.
        found: (N,) what `predict` gives.
    """
    from detseg.data.annotations import Category
    from detseg.data.formats.assemble import Assembler

    assembler = Assembler()
    for path, size, objects in zip(paths, sizes, found, strict=True):
        assembler.add_image(path, "", size)
        for box, label in zip(objects["boxes"].tolist(), objects["labels"].tolist(), strict=True):
            assembler.add_object(box, label)
            assembler.segments.add_nothing()
    data = assembler.build([Category(*category) for category in detector.categories], Path("detections"))
    return data, np.concatenate([np.zeros(0), *(objects["scores"] for objects in found)])


# ------------------------------------------------------------------ what to label next


def _choose(config: Label, detector: Detector, reader: Any, console: Console) -> None:
    from detseg.console import print_line, track
    from detseg.csv_text import csv_text
    from detseg.files import write_atomically
    from detseg.predict.worth_labelling import choose, look_at
    from detseg.report.pages.next import Candidate, write_next

    read: list[int] = []

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for position, image in track(reader, len(reader.images), what="looking", console=console):
            read.append(position)
            yield image

    assert config.next is not None
    looks = list(look_at(detector, pixels()))
    chosen = choose(looks, config.next)
    rows = ((rank, reader.names[read[i]], f"{looks[i].disagreement:.4f}") for rank, i in enumerate(chosen, 1))
    write_atomically(config.output / "next.csv", csv_text([("rank", "image", "disagreement"), *rows]))
    for rank, i in enumerate(chosen[:10], 1):
        print_line(console, f"{rank:3} {looks[i].disagreement:.3f} {reader.names[read[i]]}")
    drawn = (
        Candidate.of(name, looks[i].disagreement, _drawn(reader.images[read[i]], looks[i], detector))
        for i, name in ((i, reader.names[read[i]]) for i in chosen)
    )
    title = f"To label next: {len(chosen)} of {len(looks)} images"
    facts = {"run": config.run, "classes": ", ".join(detector.names)}
    page = write_next(config.output / "index.html", drawn, title=title, facts=facts)
    print_line(console, f"{len(chosen)} of {len(looks)} images: {config.output / 'next.csv'}, and drawn: {page}")


def _drawn(path: Path, look: Look, detector: Detector) -> NDArray[np.uint8]:
    """An image with what the detector sees in it, faintly too."""
    from detseg.data.images import read_image
    from detseg.predict.worth_labelling import SEEN
    from detseg.visualize import draw_boxes

    keep = look.found["scores"] >= SEEN
    boxes, scores, labels = (look.found[name][keep] for name in ("boxes", "scores", "labels"))
    return draw_boxes(read_image(path, detector.channels), boxes, labels, detector.names, scores)
