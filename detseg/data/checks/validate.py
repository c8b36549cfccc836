"""Finds everything that is wrong with a dataset before it wastes a training run, and mends what is safe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from detseg.data.annotations import AnnotationError, Annotations, Problem
from detseg.data.checks.annotation_checks import (
    Images,
    box_problems,
    category_problems,
    duplicate_problems,
    image_problems,
    outline_problems,
    sharing_problems,
)
from detseg.data.checks.repair import repair

__all__ = ["AnnotationError", "Problem", "checked", "raise_on_problems", "repair", "validate"]

log = logging.getLogger(__name__)

Set = TypeVar("Set", bound=Any)

SHOWN = 10  # problems named in a summary


def validate(annotations: Annotations, check_images: bool = True, other: Images | None = None) -> list[Problem]:
    """Every problem of a dataset, errors first.

    Args:
        annotations: the dataset.
        check_images: also open every image: it exists, is complete, and has the size the annotations say;
            and find equal files. Without it no image is touched.
        other: the other split; images that are in both are errors.
    """
    problems = [
        *annotations.read_problems,
        *category_problems(annotations),
        *box_problems(annotations),
        *outline_problems(annotations),
        *duplicate_problems(annotations),
    ]
    if check_images:
        problems += image_problems(annotations)
    problems += sharing_problems(annotations, other, read_files=check_images)
    if not len(annotations.image_index):
        what = f"{len(annotations)} images and not a single object"
        remedy = "check that this is the right file"
        problems.append(Problem(annotations.source, "", None, what, remedy, "warning", "empty"))
    return sorted(problems, key=lambda problem: problem.severity != "error")


def checked(data: Set, other: Set | None, *, mend: bool, tell: Callable[[str], None]) -> Set:
    """The annotations, masks or labels of a split, without errors.

    Args:
        data: `Annotations`, `SemanticMasks` or `LabelledImages`.
        other: the training split, when this is another one.
        mend: mend what can be mended, and tell what was done.
        tell: is given a sentence for each kind of change.

    Raises:
        AnnotationError: there are errors, or no images; the message names file, item and remedy.
    """
    problems = data.validate(other=other)
    errors = [problem for problem in problems if problem.severity == "error"]
    mended, done = data.repair(problems) if errors or mend else (data, [])
    if errors and len(data) and not len(mended):
        raise_on_problems(problems, "--repair would leave no image: correct what is told above.")
    if mend:
        data = mended
        for sentence in done:
            tell(f"mended: {sentence}")
        problems = data.validate(other=other)
    raise_on_problems(problems)
    if len(data) == 0:
        raise AnnotationError(f"{data.source}: there are no images in it")
    return data


def raise_on_problems(problems: Iterable[Problem], advice: str = "") -> None:
    """Stop on errors, log warnings.

    Args:
        problems: all there are.
        advice: what to do, where that is not what can be mended.

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
        return "--repair mends all of them and says what it did."
    if count == 0:
        return "--repair cannot mend these: correct the files."
    return f"--repair mends {count} of them and says what it did; correct the files for the others."
