"""The page of the images to label next: one HTML file that holds them, drawn with what a detector sees."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detseg.files import write_atomically
from detseg.report.pages.findings import image_link
from detseg.report.pages.html import render
from detseg.visualize.sheets import scaled
from detseg.visualize.text import Image

TILE = 520  # pixels, twice as many as the page shows across: scores can be read


class Candidate(NamedTuple):
    """An image on the page."""

    name: str
    disagreement: float
    link: str  # data:

    @classmethod
    def of(cls, name: str, disagreement: float, drawn: Image) -> "Candidate":
        """With its drawing, made small."""
        return cls(name, disagreement, image_link(scaled(drawn, min(TILE, max(drawn.shape[:2])))[0]))


def write_next(path: Path, images: Iterable[Candidate], *, title: str, facts: Mapping[str, Any]) -> Path:
    """Write the page, the images in their order; returns its path."""
    write_atomically(path, render("next.html.j2", title=title, facts=list(facts.items()), images=list(images)))
    return path
