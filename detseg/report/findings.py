"""What was found in a data set, wrong or doubtful, as rows: of the terminal's tables, the CSV file and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detseg.csv_text import csv_text
from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet
from detseg.data.checks.doubts import Doubt, Kind
from detseg.data.checks.problems import Problem

COPIES = ("duplicate-image", "in-both-splits")  # problems: files that are equal, which near-duplicates are too

COLUMNS = ("level", "kind", "split", "image", "object", "class", "what", "remedy", "score")


class Finding(NamedTuple):
    """A problem or a doubt."""

    level: str  # "error", "warning" or "doubt"
    kind: str
    split: str
    image: str  # its path; "" where no single image is meant
    object: int | None  # annotation id
    category: str
    what: str
    remedy: str
    score: float
    drawn: Doubt | None = None  # what the page shows of it


def as_csv(findings: Sequence[Finding]) -> str:
    """All findings as a CSV file; doubts have scores."""
    rows: list[tuple[Any, ...]] = [COLUMNS]
    for f in findings:
        score = f"{f.score:.4g}" if f.level == "doubt" else ""
        number = "" if f.object is None else f.object
        rows.append((f.level, f.kind, f.split, f.image, number, f.category, f.what, f.remedy, score))
    return csv_text(rows)


def findings_of(
    splits: Mapping[str, ImageSet], problems: Mapping[str, Sequence[Problem]], doubts: Sequence[Doubt]
) -> list[Finding]:
    """Errors first, then warnings, then doubts in their order; copies that are problems are not doubted too."""
    found = [_of_problem(splits[split], split, problem) for split, own in problems.items() for problem in own]
    known = {(split, p.image_index) for split, own in problems.items() for p in own if p.kind in COPIES}
    new = [d for d in doubts if d.kind not in ("leak", "near-duplicate") or (d.split, d.image) not in known]
    order = ("error", "warning")
    return sorted(found, key=lambda f: order.index(f.level)) + [_of_doubt(splits, doubt) for doubt in new]


def by_kind(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """The findings of each kind, in their order."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds


def title_of(kind: str, kinds: Mapping[str, Kind]) -> str:
    """What a kind is called; kinds of problems have names that say it."""
    return kinds[kind].title if kind in kinds else kind.replace("-", " ")


def _of_problem(data: ImageSet, split: str, p: Problem) -> Finding:
    category = _category(data, p.object_index)
    drawn = Doubt(p.kind, p.what, 0.0, split, p.image_index, p.object_index)
    return Finding(p.severity, p.kind, split, p.image or p.file, p.object, category, p.what, p.remedy, 0.0, drawn)


def _of_doubt(splits: Mapping[str, ImageSet], d: Doubt) -> Finding:
    if d.image < 0:
        return Finding("doubt", d.kind, d.split, "", None, "", d.what, "", d.score, d)
    data = splits[d.split]
    number = int(data.ids[d.object]) if isinstance(data, Annotations) and d.object >= 0 else None
    category = _category(data, d.object)
    return Finding("doubt", d.kind, d.split, str(data.paths[d.image]), number, category, d.what, "", d.score, d)


def _category(data: ImageSet, row: int) -> str:
    if not isinstance(data, Annotations) or not 0 <= row < len(data.labels):
        return ""
    label = int(data.labels[row])
    return data.names[label] if 0 <= label < len(data.names) else ""
