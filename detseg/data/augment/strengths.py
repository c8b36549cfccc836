"""Augmentations and their strengths as words of the command line: `--augment rotate=10 zoom=1.1`.

strengths(("rotate=10", "noise=0"), OF_BOXES)  # {"rotate": 10.0, "noise": 0.0}: the others keep their strength
strengths(("rotate", "light=0.3"), OF_BOXES)   # rotation as usual, light, and nothing else
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Strength(NamedTuple):
    """An option of a transform that says how strong an augmentation is."""

    option: str
    usual: Any  # where it is named without a strength
    off: Any
    value: Callable[[float], Any] = float  # of the option, from the number that is written


def _zoom_both_ways(factor: float) -> tuple[float, float]:
    return (1 / factor, factor) if factor >= 1 else (factor, 1 / factor)


PHOTOMETRIC = {
    "light": Strength("light", 0.2, 0.0),
    "colour": Strength("colour", 0.2, 0.0),
    "blur": Strength("blur", 0.05, 0.0),
    "noise": Strength("noise", 0.1, 0.0),
}
OF_BOXES = {  # of `TrainTransform`
    "zoom": Strength("scale", (0.6, 1.4), (1.0, 1.0), _zoom_both_ways),
    "aspect": Strength("aspect", 0.1, 0.0),
    "rotate": Strength("rotate", 5.0, 0.0),
    **PHOTOMETRIC,
}
OF_MASKS = OF_BOXES | {  # the same, stronger: masks follow a rotation exactly, boxes do not
    "zoom": OF_BOXES["zoom"]._replace(usual=(0.7, 1.6)),
    "rotate": OF_BOXES["rotate"]._replace(usual=15.0),
}
OF_CLASSES = {  # of `ClassificationTransform`
    "patch": Strength("patch", True, False, bool),
    "scale": Strength("area", (0.35, 1.0), None, lambda least: (least, 1.0)),
    "rotate": Strength("rotate", 10.0, 0.0),
    "zoom": Strength("zoom", 1.25, 1.0),
    "warp": Strength("warp", 0.1, 0.0),
    **PHOTOMETRIC,
}


def strengths(words: Sequence[str], known: Mapping[str, Strength]) -> dict[str, Any]:
    """The options of a transform that words ask for.

    `name=number` sets a strength, 0 switches off, the others stay as they are. Where names stand alone, those and no
    others are on; "none" is the name of nothing.

    Raises:
        ValueError: an unknown name, or a strength that is none.
    """
    alone = [word for word in words if "=" not in word]
    options = {entry.option: entry.off for entry in known.values()} if alone else {}
    for word in words if tuple(words) != ("none",) else ():
        name, given, text = word.partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}."
            hint = "images are mirrored by --flip." if name.startswith("flip") else hint
            raise ValueError(f"--augment {word}: there is no augmentation {name!r}; {hint}")
        entry = known[name]
        options[entry.option] = entry.usual if not given else _strength(name, text, entry)
    return options


def _strength(name: str, text: str, entry: Strength) -> Any:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(
            f"--augment {name}={text}: a strength is a number, at least 0, such as {name}={_example(entry)}"
        )
    return entry.value(number) if number else entry.off


def _example(entry: Strength) -> str:
    usual = entry.usual[-1] if entry.option == "scale" else entry.usual[0] if entry.option == "area" else entry.usual
    return f"{usual:g}"
