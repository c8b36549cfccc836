"""Find everything that is wrong with a data set before it wastes a training run; repair what is safe, if asked."""

from collections.abc import Callable, Iterable
from typing import Any

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet, Set
from detseg.data.checks.annotation_checks import annotation_problems
from detseg.data.checks.class_checks import label_problems, mask_problems
from detseg.data.checks.problems import AnnotationError, Problem, raise_on_problems
from detseg.data.checks.repair import left_out_images, repair_once
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks

__all__ = ["checked", "raise_on_problems", "repair", "validate"]


def validate(data: ImageSet, check_images: bool = True, other: ImageSet | None = None) -> list[Problem]:
    """Every problem of `Annotations`, `SemanticMasks` or `LabelledImages`, errors first.

    Args:
        check_images: also open every image (and mask file): it exists, is complete, and has the size the annotations
            say; and find equal files. Without it no file is touched. Packed images were checked when packed.
        other: the training split, when this is another one; images that are in both are errors.
    """
    problems: Any = {SemanticMasks: mask_problems, LabelledImages: label_problems, Annotations: annotation_problems}
    found: list[Problem] = problems[type(data)](data, check_images, other)
    return sorted(found, key=lambda problem: problem.severity != "error")


def repair(data: Set, problems: Iterable[Problem]) -> tuple[Set, list[str]]:
    """Repair the problems that `validate` found in this set, and those that come of it, as far as that is safe.

    Boxes over the border are clipped; objects and images that cannot be used are left out, so are all images that share
    an id, with its objects; entries of the same image are joined; boxes drawn on unturned pixels are turned; broken
    polygons are removed; repeated object ids are renumbered. Of labelled images, those with errors are left out. Mask
    files are not changed. Problems whose `repairable` is False stay, with all that `common_causes` explains by one of
    them. The second thing returned is one sentence for each kind of change.
    """
    done: list[str] = []
    while changes := repair_once(data, problems):
        data, sentences = changes
        done += sentences
        # A clipped box may have no area left, a joined image every object twice.
        problems = validate(data, check_images=False)
    return data, done


def checked(data: Set, other: ImageSet | None, *, repairing: bool, print_line: Callable[[str], None]) -> Set:
    """The annotations, masks or labels of a split, without errors; arguments as of `validate`.

    With `repairing`, what can be repaired is, and `print_line` is given a sentence for each kind of change.
    AnnotationError, if errors are left or no images, names file, item and remedy.
    """
    problems = validate(data, other=other)
    if len(data) and len(left_out_images(data, problems)) == len(data):
        raise_on_problems(problems, "--repair would leave no image: correct what is listed above.")
    if repairing:
        data, done = repair(data, problems)
        for sentence in done:
            print_line(f"repaired: {sentence}")
        problems = validate(data, other=other) if done else problems
    raise_on_problems(problems)
    if len(data) == 0:
        raise AnnotationError(f"{data.source}: there are no images in it")
    return data
