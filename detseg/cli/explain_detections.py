"""`detseg explain` of a detector: its best detections in images, and on what each rests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from detseg.cli.images import free_names
from detseg.cli.terminal import Terminal
from detseg.console import print_line
from detseg.data.images import read_image
from detseg.predict.explain_detections import LEAST_SCORE, TOP, DetectionExplanation, explain_detections
from detseg.report.pages.detection_explanation import PART, write_detections
from detseg.report.tables.builders import name_text
from detseg.visualize.heat import percent

if TYPE_CHECKING:
    from detseg.cli.explain import Explain
    from detseg.predict import Predictor
    from detseg.results import Results


def explain_found(
    config: Explain, predictor: Predictor, sources: Mapping[Path, str], labels: Collection[int] | None
) -> None:
    """Print and draw the best detections of each image as `config` says, of some labels or of all.

    Raises:
        ValueError: an option that makes no sense, or an image that cannot be read, images before it are written.
    """
    top = TOP if config.top is None else config.top
    threshold = LEAST_SCORE if config.score_threshold is None else config.score_threshold
    if top < 1:
        raise ValueError(f"--top must be at least 1, the number of detections to explain, not {top}")
    console, paths = Terminal(), list(sources)

    def files(name: str) -> dict[Path, str]:
        parts = (config.output / name / PART.format(number) for number in range(1, top + 1))
        return dict.fromkeys((config.output / f"{name}.jpg", *parts), "an explanation")

    def choose(found: Results) -> Sequence[int]:
        rows: list[int] = np.flatnonzero(np.isin(found.labels, list(labels or ()))).tolist()
        return range(len(found)) if labels is None else rows

    pages = [config.output / f"{name}.jpg" for name in free_names(paths, files)]
    remark = f"{config.model}, images fitted into {predictor.size} × {predictor.size} pixels"
    for path, page in zip(paths, pages, strict=True):
        image = read_image(path, predictor.channels)
        seen = explain_detections(predictor, image, top=top, score_threshold=threshold, choose=choose)
        whole, *parts = write_detections(seen, image, predictor.names, page, title=path.name, remark=remark)
        print_line(console, sources[path])
        if parts:
            console.print(_table(seen, predictor.names))
        else:
            print_line(console, f"nothing found with a score of {threshold:g} or more; lower --score-threshold")
        print_line(console, f"{whole}: all of it on a page")
        for number, part in enumerate(parts, 1):
            print_line(console, f"{part}: what detection {number} rests on")


def _table(seen: DetectionExplanation, names: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for head in ("", "class", "score", "box", "heat in the box"):
        table.add_column(head, justify="left" if head == "class" else "right")
    found = seen.found
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), seen.shares().tolist(), strict=True)
    for number, (label, score, box, share) in enumerate(rows, 1):
        corners = " ".join(f"{side:.0f}" for side in box)
        told = "–" if share != share else percent(share)
        table.add_row(str(number), name_text(names[label]), f"{score:.2f}", corners, told)
    return table
