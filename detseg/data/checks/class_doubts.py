"""Doubtful lists of classes: names that may mean the same, classes with few examples, or none in a split."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from detseg.data.checks.doubts import Doubt, Kind

FEW = 10  # examples
IMBALANCE = 100
TYPO_LENGTH = 6  # letters of names from which one letter more, less or other is no other word
TYPO_LONGEST = 100  # letters; shortened by each of theirs, longer names take memory by the square of their length
TYPO_RATIO = 5  # the right name is used so many times as often

KINDS = {
    "similar-names": Kind(
        "class names that may mean the same",
        f"they differ by case, spaces, signs or plural, or, with {TYPO_LENGTH} letters or more and one "
        f"{TYPO_RATIO} times rarer, by one letter",
    ),
    "absent": Kind("classes that a split lacks", "no example in a split, and some in another"),
    "few-examples": Kind("classes with few examples", f"fewer than {FEW} in training; score: how many fewer"),
    "imbalance": Kind("extreme imbalance", f"the largest class has {IMBALANCE} times the examples of the smallest"),
}

Counts = Mapping[str, Mapping[str, int]]
"""Examples of each class name in each split."""


def counted(names: tuple[str, ...], labels: NDArray[np.integer]) -> dict[str, int]:
    """Examples of each class, by name; labels that are no class are not counted."""
    counts = np.bincount(labels[(labels >= 0) & (labels < len(names))], minlength=len(names))
    total: dict[str, int] = defaultdict(int)
    for name, count in zip(names, counts.tolist(), strict=True):
        total[name] += count
    return dict(total)


def class_doubts(counts: Counts, noun: str) -> list[Doubt]:
    """Everything doubtful about the classes of all splits; an example is a `noun`, "object" say."""
    first = "train" if "train" in counts else next(iter(counts))
    return [
        *_similar(_summed(counts)),
        *_absent(counts, noun),
        *_few(first, counts[first], noun),
        *_imbalance(first, counts[first], noun),
    ]


def _summed(counts: Counts) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for split in counts.values():
        for name, count in split.items():
            total[name] += count
    return dict(total)


def _absent(counts: Counts, noun: str) -> Iterator[Doubt]:
    total = _summed(counts)
    for split, own in counts.items():
        for name in [name for name, count in total.items() if count and not own.get(name)]:
            others = ", ".join(f"{part[name]} in {other}" for other, part in counts.items() if part.get(name))
            consequence = "cannot be learnt" if split == "train" else "its accuracy cannot be measured"
            what = f"{name}: no {noun} in {split}, but {others}: {consequence}"
            yield Doubt("absent", what, float(total[name]), split)


def _few(split: str, counts: Mapping[str, int], noun: str) -> Iterator[Doubt]:
    for name, count in counts.items():
        if count < FEW:
            some = f"only {count} {noun}{'s' if count != 1 else ''}" if count else f"no {noun}"
            yield Doubt("few-examples", f"{name}: {some}", float(FEW - count), split)


def _imbalance(split: str, counts: Mapping[str, int], noun: str) -> Iterator[Doubt]:
    used = {name: count for name, count in counts.items() if count}
    if not used:
        return
    most, least = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
    ratio = used[most] / used[least]
    if ratio >= IMBALANCE:
        what = f"{used[most]} {noun}s of {most}, {used[least]} of {least}: {ratio:.0f} times as many"
        yield Doubt("imbalance", what, ratio, split)


def _similar(counts: Mapping[str, int]) -> Iterator[Doubt]:
    """Pairs of names that are one word but for how it is written."""
    names = list(counts)
    plain = [_folded(name) for name in names]
    groups: dict[str, set[int]] = defaultdict(set)
    for position, word in enumerate(plain):
        for variant in {word, *_shortened(word)}:
            groups[variant].add(position)
    pairs = {(i, j) for group in groups.values() for i in group for j in group if i < j}
    for i, j in sorted(pairs):
        more, less = sorted((counts[names[i]], counts[names[j]]), reverse=True)
        alike = plain[i] == plain[j] or (more >= TYPO_RATIO * less and _typo(plain[i], plain[j]))
        if alike:
            what = f"{names[i]!r} ({counts[names[i]]} times) and {names[j]!r} ({counts[names[j]]} times)"
            yield Doubt("similar-names", what, 2.0 if plain[i] == plain[j] else 1.0)


def _folded(name: str) -> str:
    """Without case, signs and the end of a plural."""
    word = " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", name).casefold().replace("_", " ")))
    if word.endswith(("xes", "ches", "shes", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _shortened(word: str) -> set[str]:
    """The word without any one of its letters; two words with one of these in common differ by one letter."""
    return {word[:k] + word[k + 1 :] for k in range(len(word))} if TYPO_LENGTH <= len(word) <= TYPO_LONGEST else set()


def _typo(one: str, other: str) -> bool:
    """Whether one letter of two words that share a shortened form differs by mistake: no number, and not the first."""
    digits = [re.sub(r"\D", "", word) for word in (one, other)]
    return digits[0] == digits[1] and one[:1] == other[:1] and min(len(one), len(other)) >= TYPO_LENGTH - 1
