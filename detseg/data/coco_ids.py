"""Ids of COCO files as whole numbers: files of some tools have names in their place, such as "img-001".

Digits as text are their number. Names are numbered after the largest number of their list, in its order; alone 1, 2,
3, ... In results, which may come from a model, an id may be the name or that number.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = -(2**63)  # stands for an id that a file does not give, and for one that is not in its list
_DIGITS = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class TextIds:
    """The ids of a list that are texts, and the number that each stands for."""

    numbers: dict[str, int] = field(default_factory=dict)
    named: frozenset[int] = frozenset()  # the numbers that the file does not know: those of names

    @classmethod
    def of(cls, ids: Iterable[Any]) -> "TextIds":
        """Of the ids of images or of categories, in the list's order."""
        ids = [value for value in ids if isinstance(value, int | str)]
        texts = dict.fromkeys(value for value in ids if isinstance(value, str))
        if not texts:
            return NUMBERS
        following = max([0, *(number for value in ids if isinstance(number := as_number(value), int))]) + 1
        names = [text for text in texts if isinstance(as_number(text), str)]
        named = dict(zip(names, range(following, following + len(names)), strict=True))
        return cls({text: named.get(text, as_number(text)) for text in texts}, frozenset(named.values()))

    def __bool__(self) -> bool:
        return bool(self.numbers)

    def number(self, value: Any) -> Any:
        """What an object of the file means by `value`, or an equal id of the list; what is no id stays as it is."""
        number = as_number(value)
        return self.numbers.get(number, number) if isinstance(number, str) else number

    def column(self, ids: Sequence[Any]) -> NDArray[np.int64]:
        """(n,) the numbers of ids in the file itself; `MISSING` for what is none of 64 bits or stands for a name."""
        if not self:
            try:
                return np.array(ids, dtype=np.int64)  # the usual case, a million times; reads digits as text too
            except (ValueError, TypeError, OverflowError):
                pass
        numbers = [MISSING if isinstance(value, int) and value in self.named else self.number(value) for value in ids]
        return np.array([v if isinstance(v, int) and abs(v) < 2**63 else MISSING for v in numbers], dtype=np.int64)

    def written(self, numbers: Iterable[int]) -> list[int | str]:
        """The ids (n,) as the file has them, of numbers."""
        texts: dict[int, int | str] = {number: text for text, number in self.numbers.items()}
        return [texts.get(number, number) for number in numbers]


NUMBERS = TextIds()  # of a list without texts


def as_number(value: Any) -> Any:
    """The number that digits as text stand for; anything else as it is."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
