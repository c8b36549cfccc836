"""What can be wrong with a data set, and the message that sums it up."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from detseg.reading import FileError

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
    "duplicate-image-id": "images whose id is another's too (with all objects of that id)",
    "in-both-splits": "images that are in the other split too",
}
CHANGED = ("box-over-border", "duplicate-object-id", "unrotated", "malformed-outline", "mask-size", "duplicate-path")
REPAIRABLE = frozenset([*LEFT_OUT_OBJECTS, *LEFT_OUT_BY_READER, *LEFT_OUT_IMAGES, *CHANGED])

Severity = Literal["error", "warning"]


# What annotations are refused by: files that cannot be read, data sets with problems that must stop the work.
AnnotationError = FileError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a dataset, and how to repair it."""

    file: str  # of the annotations (for VOC and YOLO the image's own file)
    image: str  # its path, or "" when the problem concerns no single image
    object: int | None  # annotation id, or None when the problem concerns no single object
    what: str
    remedy: str
    severity: Severity = "error"  # which stops training; a warning is only logged
    kind: str = ""  # a short fixed name of the problem, for code
    image_index: int = field(default=-1, repr=False)  # position in the data set, for `repair`; -1 for none
    object_index: int = field(default=-1, repr=False)
    category: int | None = field(default=None, repr=False)  # the number that stands for no category, of such an object

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


def raise_on_problems(problems: Iterable[Problem], advice: str = "") -> None:
    """Log warnings, raise AnnotationError for errors: their number, the first ten, and what to do.

    `advice` is for what to do, where that is not what `--repair` does.
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
    if count == 0:
        return "--repair cannot repair these: correct the files."
    share, rest = ("all", "") if count == len(errors) else (count, "; correct the files for the others")
    return f"--repair repairs {share} of them and says what it did{rest}."
