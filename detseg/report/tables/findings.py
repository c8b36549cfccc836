"""What was found in a data set, on the terminal: how many of each kind, and the worst of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from detseg.console import one_line
from detseg.data.checks.doubts import Kind
from detseg.report.findings import Finding, by_kind, title_of
from detseg.report.tables.builders import below_each_other, new_table

WORST = 3  # of each kind


def tables(findings: Sequence[Finding], kinds: Mapping[str, Kind]) -> Group:
    """How many there are of each kind, and below, of each, the worst."""
    if not findings:
        return Group(Text("Nothing is wrong or doubtful."))
    groups = by_kind(findings)
    return below_each_other(_counts(findings, groups, kinds), *(_worst(own, kinds) for own in groups.values()))


def _counts(findings: Sequence[Finding], groups: Mapping[str, Sequence[Finding]], kinds: Mapping[str, Kind]) -> Table:
    splits = list(dict.fromkeys(finding.split for finding in findings))
    table = new_table("What is wrong, and what is doubtful", ("kind", "", *(split or "all" for split in splits)))
    table.columns[1].justify = "left"
    for kind, own in groups.items():
        counts = Counter(finding.split for finding in own)
        cells = [str(counts[split]) if counts[split] else "·" for split in splits]
        table.add_row(Text(title_of(kind, kinds)), _level(own[0]), *cells)
    return table


def _worst(findings: Sequence[Finding], kinds: Mapping[str, Kind]) -> RenderableType:
    """The rule of a kind, and a line for each of the worst, or the first where none is worse."""
    first = findings[0]
    rule = kinds[first.kind].rule if first.kind in kinds else ""
    lines = [Text(one_line(line_of(finding)), overflow="fold") for finding in findings[:WORST]]
    if len(findings) > WORST:
        lines.append(Text(f"… {len(findings) - WORST} more", "dim"))
    head = Text(title_of(first.kind, kinds), "bold")
    return Group(head, *([Text(rule, "dim")] if rule else []), *(Padding(line, (0, 0, 0, 2)) for line in lines))


def line_of(finding: Finding) -> str:
    """Where a finding is, and what: files of one folder by their names alone."""
    if not finding.image:
        return f"{finding.split}: {finding.what}" if finding.split else finding.what
    path = Path(finding.image)
    number = "" if finding.object is None else f", object {finding.object}"
    what = finding.what.replace(f"{path.parent}/", "") if path.parent != Path() else finding.what
    return f"{path.name}{number}: {what}"


def _level(finding: Finding) -> Text:
    return Text(finding.level, {"error": "bold red", "warning": "yellow"}.get(finding.level, "dim"))
