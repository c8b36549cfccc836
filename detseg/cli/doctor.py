"""`detseg doctor`: what is wrong with an annotated set, and what is doubtful; nothing is ever changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.data.base import ImageSet
    from detseg.report.findings import Finding

UNREADABLE = ("missing-image", "damaged-image", "duplicate-image-id")


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine an annotated data set: what is wrong, and what is doubtful. Nothing is changed.

    Writes OUTPUT/index.html (the worst of each kind, drawn) and OUTPUT/doctor.csv (everything):

        detseg doctor flowers/
        detseg doctor flowers-masks/ --output examined

    With detections also labels that are probably wrong or missing; a run that has not seen the images finds most:

        detseg doctor flowers/ --run runs/detector-1
        detseg doctor flowers/val.json --detections dt.json

    The doubtful images as a set to correct, in OUTPUT/review:

        detseg doctor flowers/ --run runs/detector-1 --output examined --review coco
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Data set, as for training: boxes, masks or labelled images; a folder or file."""
    images: Path | None = None
    """Folder of the images, where they are not beside the annotations or the CSV table."""
    masks: str | None = None
    """Masks: name of the mask folder beside images/; by default masks, or as the set has them."""
    output: Path = Path("doctor")
    """Output folder; only files of earlier calls are overwritten."""
    run: Path | None = None
    """Run folder of a detector, whose confident detections are compared with the boxes."""
    detections: Path | None = None
    """COCO results JSON file of detections down to low scores, in place of --run; out-of-fold ones are best."""
    review: str | None = None
    """Also write the doubtful images as a data set in this format: coco, voc, yolo, …."""
    device: str = "auto"
    """Device of --run: auto, cpu, cuda, cuda:1 (or 1), mps, …."""


def run(config: Doctor) -> int:
    """Examine the set; returns the exit code, 0 whatever is found.

    Raises:
        ValueError: nothing readable is there, an option contradicts another, or detections are of other images.
    """
    from detseg.cli.crops import own_folder
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, track
    from detseg.data.base import refuse_pack
    from detseg.data.checks.find_doubts import KINDS, find_doubts
    from detseg.data.checks.validate import validate
    from detseg.files import new_folder, write_atomically
    from detseg.metrics.detection import label_errors
    from detseg.report.findings import as_csv, findings_of
    from detseg.report.pages.findings import write_findings
    from detseg.report.tables.findings import tables

    _check(config)
    console = Terminal()
    splits = _read(config)
    for split, data in splits.items():
        refuse_pack(data.pack)
        print_line(console, f"{split or 'images'}: {counts_of(data)}")
    train = splits.get("train")
    with console.status("checking"):
        problems = {split: validate(data, other=None if data is train else train) for split, data in splits.items()}
    look, masks = (partial(track, what=what, console=console) for what in ("looking at images", "reading masks"))
    doubts = find_doubts(splits, images=look, masks=masks)
    if config.run is not None or config.detections is not None:
        from detseg.cli.label_errors import find_label_errors

        doubts = [*find_label_errors(config, splits, problems, console), *doubts]
    kinds = label_errors.KINDS | KINDS
    findings = findings_of(splits, problems, doubts)

    console.print(tables(findings, kinds))
    table, page = config.output / "doctor.csv", config.output / "index.html"
    facts = {split or "images": counts_of(data) for split, data in splits.items()}
    drawing = partial(track, what="drawing", console=console)
    title = f"Doctor: {config.source}"
    with own_folder(config.output):
        write_findings(page, splits, findings, kinds, title=title, facts=facts, track=drawing)
        write_atomically(table, as_csv(findings))
    print_line(console, f"{page}: the worst of each kind, drawn")
    print_line(console, f"{table}: all {len(findings)} findings")
    if config.review is not None:
        with new_folder(config.output / "review"):
            _write_review(config, splits, findings, console)
    return 0


def _check(config: Doctor) -> None:
    """Raise ValueError where options contradict each other, before any work."""
    from detseg.cli.crops import require_new, require_own
    from detseg.data.formats.write import writable_formats

    require_own(config.output)
    if config.run is not None and config.detections is not None:
        raise ValueError("--run and --detections are two sources of detections: leave out one of them")
    if config.review is not None:
        if config.review not in writable_formats():
            raise ValueError(f"--review: {config.review!r} is none of {', '.join(sorted(writable_formats()))}")
        require_new(config.output / "review")


def _read(config: Doctor) -> dict[str, ImageSet]:
    """All splits of the set, of the first kind that is there: masks, if they are asked for, boxes, masks, labels."""
    from detseg.data.formats import NotRecognisedError, find_label_sources, find_mask_sources, find_sources
    from detseg.data.formats.mask_folders import has_mask_files

    def masks() -> Any:
        return find_mask_sources(config.source, config.masks, images=config.images)

    boxed = (config.source / "Annotations").is_dir()  # a VOC folder may hold masks of some images too
    if config.masks is not None or (config.source.is_dir() and not boxed and has_mask_files(config.source)):
        return {split: read() for split, read in masks().items()}
    message = ""
    boxes, labels = (partial(find, config.source, config.images) for find in (find_sources, find_label_sources))
    for find in (boxes, masks, labels):
        try:
            return {split: read() for split, read in find().items()}
        except NotRecognisedError as error:
            message = message or str(error)
    raise NotRecognisedError(message)


def counts_of(data: ImageSet) -> str:
    """How much is in a split."""
    from detseg.data.annotations import Annotations

    objects = f", {len(data.ids)} objects" if isinstance(data, Annotations) else ""
    return f"{len(data)} images{objects}, {len(data.categories)} classes"


def _write_review(
    config: Doctor, splits: Mapping[str, ImageSet], findings: Sequence[Finding], console: Console
) -> None:
    """The images with findings as a set of their own, repaired as far as it could not be written otherwise."""
    from detseg.console import print_line
    from detseg.data.annotations import Annotations
    from detseg.data.checks.validate import repair, validate
    from detseg.data.formats.write import write_dataset

    assert config.review is not None
    folder, written = config.output / "review", 0
    for split, data in splits.items():
        if not isinstance(data, Annotations):
            raise ValueError(f"{config.source}: --review is for sets of boxes; doctor.csv names the doubtful images")
        lost = {f.image for f in findings if f.split == split and f.kind in UNREADABLE}
        named = {f.image for f in findings if f.split == split} - lost
        chosen = data.subset([row for row, path in enumerate(data.paths.tolist()) if path in named])
        chosen, done = repair(chosen, validate(chosen, check_images=False))
        for sentence in done:
            print_line(console, f"{folder}: repaired in this copy: {sentence}")
        if len(chosen):
            write_dataset(chosen, folder, split or "train", to=config.review, images="link", crowd="keep")
        written += len(chosen)
    print_line(console, f"{folder}: {written} images to correct")
