"""`detseg backbones`: which networks there are, how large they are, what maps they give, where their weights are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from detseg.backbones.network import NetworkSummary

# Families shown without a pattern.
FAMILIES = 24
WEIGHTS = {
    "package": "installed",
    "cached": "downloaded",
    "download": "to download",
    "none": "none",
}


@dataclass(frozen=True)
class Backbones:
    """List networks: parameters, strides and channels of their feature maps, availability of ImageNet weights.

    By name, part of a name or wildcards; without one, detseg's own networks and the families of timm and torchvision:

        detseg backbones
        detseg backbones resnet34
        detseg backbones "tf_efficientnet_lite*" --json
    """

    pattern: Annotated[str, tyro.conf.Positional] = ""
    """Name, part of a name, or wildcard pattern."""
    limit: int = 50
    """Largest number of networks to list; each takes about 0.1 s."""
    json: bool = False
    """Print a JSON list instead of a table."""


def run(config: Backbones) -> int:
    """List as `config` says; returns the exit code.

    Raises:
        ValueError: nothing matches, or the limit is below 1.
    """
    from rich.console import Console

    from detseg.backbones.network import OWN_NETWORKS, match_networks, summarise_network
    from detseg.console import print_line, track

    if config.limit < 1:
        raise ValueError(f"--limit must be at least 1, not {config.limit}")
    console = Console()
    names = match_networks(config.pattern) if config.pattern else list(OWN_NETWORKS)
    shown = names[: config.limit]
    progress = Console(quiet=True) if config.json else console
    rows = [summarise_network(name) for name in track(shown, len(shown), what="looking", console=progress)]
    if config.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    console.print(_table(rows))
    if len(shown) < len(names):
        print_line(console, f"and {len(names) - len(shown)} more: narrow the pattern, or raise --limit")
    if not config.pattern:
        print_line(console, _overview())
    return 0


def _table(rows: Iterable[NetworkSummary]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("strides", no_wrap=True)
    table.add_column("channels")
    table.add_column("weights", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            "?" if row.parameters is None else _size(row.parameters),
            _list(row.strides),
            _list(row.channels),
            WEIGHTS[row.weights],
        )
    return table


def _size(parameters: int) -> str:
    """61 706 as 61.7 k, 25 557 032 as 25.56 M."""
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e6 else f"{parameters / 1e3:.1f} k"


def _list(values: Sequence[int]) -> str:
    return " ".join(map(str, values)) or "–"


def _overview() -> str:
    from detseg.backbones import list_backbones
    from detseg.backbones.network import families

    found = families()
    largest = ", ".join(f"{family} ({count})" for family, count in list(found.items())[:FAMILIES])
    return (
        f"These are detseg's own. With timm's and torchvision's there are {len(list_backbones())}, most of these "
        f"families: {largest}. A part of a name lists its networks: detseg backbones resnet"
    )
