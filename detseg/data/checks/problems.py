"""What can be wrong with a data set, and the message that sums it up."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

log = logging.getLogger(__name__)

SHOWN = 10  # problems named in a summary

# What `repair` does, by kind of problem.
LEFT_OUT_OBJECTS = {
    "not-finite": "boxes that were not finite",
    "reversed-box": "reversed boxes",
    "zero-size-box": "boxes without area",
    "box-outside": "boxes outside their image",
    "unknown-category": "objects of unknown categories",
    "duplicate-object": "objects listed twice",
}
LEFT_OUT_BY_READER = {
    "malformed-object": "malformed objects",
    "unknown-image": "objects of unlisted images",
}
LEFT_OUT_IMAGES = {
    "missing-image": "images that do not exist",
    "damaged-image": "damaged images",
    "missing-mask": "images without a mask",
    "damaged-mask": "images with a damaged mask",
    "duplicate-image-id": "images whose id was taken (with their objects)",
    "in-both-splits": "images that are in the other split too",
}
CHANGED = ("box-over-border", "duplicate-object-id", "unrotated", "malformed-outline", "mask-size", "duplicate-path")
REPAIRABLE = frozenset([*LEFT_OUT_OBJECTS, *LEFT_OUT_BY_READER, *LEFT_OUT_IMAGES, *CHANGED])

Severity = Literal["error", "warning"]


class AnnotationError(ValueError):
    """An annotation file that cannot be read, or a dataset with problems that must stop the work."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a dataset, and how to repair it.

    Attributes:
        file: the annotation file (for VOC and YOLO the image's own file).
        image: path of the image, or "" when the problem concerns no single image.
        object: annotation id, or None when the problem concerns no single object.
        what: what is wrong.
        remedy: what to do about it.
        severity: "error" stops training, "warning" is only logged.
        kind: a short fixed name of the problem, for code.
        image_index, object_index: positions in the data set, for `repair`; -1 for none.
    """

    file: str
    image: str
    object: int | None
    what: str
    remedy: str
    severity: Severity = "error"
    kind: str = ""
    image_index: int = field(default=-1, repr=False)
    object_index: int = field(default=-1, repr=False)

    @property
    def repairable(self) -> bool:
        """Whether `repair` knows what to do."""
        return self.kind in REPAIRABLE

    def __str__(self) -> str:
        place = [self.file] if self.file else []
        if self.image:
            place.append(self.image)
        if self.object is not None:
            place.append(f"object {self.object}")
        return f"{', '.join(place)}: {self.what} ({self.remedy})"


def errors_first(problems: Iterable[Problem]) -> list[Problem]:
    """The errors, then the warnings, both in the order they have."""
    return sorted(problems, key=lambda problem: problem.severity != "error")


def raise_on_problems(problems: Iterable[Problem], advice: str = "") -> None:
    """Stop on errors, log warnings.

    Args:
        problems: all there are.
        advice: what to do, where that is not what `--repair` does.

    Raises:
        AnnotationError: there are errors; the message has their number, the first ten, and what to do.
    """
    problems = list(problems)
    errors = [problem for problem in problems if problem.severity == "error"]
    warnings = [problem for problem in problems if problem.severity != "error"]
    if warnings:
        log.warning("%s", _summary(warnings, "warning"))
    if errors:
        raise AnnotationError(f"{_summary(errors, 'error')}\n{advice or _advice(errors)}")


def _summary(problems: list[Problem], noun: str) -> str:
    head = f"{len(problems)} {noun}{'s' if len(problems) > 1 else ''} in the annotations"
    if len(problems) > SHOWN:
        head += f", the first {SHOWN} are"
    return "\n".join([f"{head}:", *(f"  {problem}" for problem in problems[:SHOWN])])


def _advice(errors: list[Problem]) -> str:
    count = sum(error.repairable for error in errors)
    if count == len(errors):
        return "--repair repairs all of them and says what it did."
    if count == 0:
        return "--repair cannot repair these: correct the files."
    return f"--repair repairs {count} of them and says what it did; correct the files for the others."
