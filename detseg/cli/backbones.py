"""`detseg backbones`: which networks there are, how large they are, what maps they give, where their weights are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from detseg.options import require_positive

if TYPE_CHECKING:
    from rich.table import Table

    from detseg.backbones.cost import NetworkCost
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

    What a batch of it takes, in memory and in multiplications:

        detseg backbones resnet18 --size 320 --batch-size 8
    """

    pattern: Annotated[str, tyro.conf.Positional] = ""
    """Name, part of a name, or wildcard pattern."""
    limit: int = 50
    """Largest number of networks to list; each takes about 0.1 s."""
    size: tuple[int, ...] = ()
    """Image size, one number or height and width: also list memory and multiplications (of the whole classifier)."""
    batch_size: int = 1
    """Images per batch, for --size."""
    json: bool = False
    """Print a JSON list instead of a table."""


def run(config: Backbones) -> int:
    """List as `config` says; returns the exit code.

    Raises:
        ValueError: nothing matches, or the limit is below 1.
    """
    from detseg.backbones.network import OWN_NETWORKS, match_networks, summarise_network
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, track

    if len(config.size) > 2 or any(side < 1 for side in config.size):
        raise ValueError(f"--size is one number, or height and width, not {' '.join(map(str, config.size))}")
    require_positive(config, "batch_size")
    if config.limit < 1:
        raise ValueError(f"--limit must be at least 1, not {config.limit}")
    console = Terminal()
    names = match_networks(config.pattern) if config.pattern else list(OWN_NETWORKS)
    shown = names[: config.limit]
    progress = Terminal(quiet=True) if config.json else console
    rows = [summarise_network(name) for name in track(shown, len(shown), what="looking", console=progress)]
    costs = [_cost(name, config) for name in shown] if config.size else []
    if config.json:
        with_costs = [{"cost": asdict(cost)} for cost in costs] or [{} for _ in rows]
        print(json.dumps([asdict(row) | cost for row, cost in zip(rows, with_costs, strict=True)], indent=1))
        return 0
    console.print(_table(rows))
    if costs:
        console.print(_cost_table(shown, costs, config))
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


def _cost(name: str, config: Backbones) -> NetworkCost:
    """What a batch takes of a network; ValueError where it cannot run on images of this size."""
    from detseg.backbones.cost import network_cost
    from detseg.backbones.network import unbuilt_network

    try:
        return network_cost(unbuilt_network(name), (config.size * 2)[:2], batch_size=config.batch_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _cost_table(names: Sequence[str], costs: Sequence[NetworkCost], config: Backbones) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    height, width = (config.size * 2)[:2]
    batch = f"{config.batch_size} image{'s' if config.batch_size > 1 else ''} of {height} x {width} pixels"
    caption = (
        f"{batch} in float32, MB. Training: parameters, gradients, AdamW's averages, and the activations kept for the "
        "backward pass. Inference: the most activations that are alive at a time."
    )
    table = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("parameters", "with AdamW", "activations in training", "in inference", "multiplications an image"):
        table.add_column(heading, justify="right")
    for name, cost in zip(names, costs, strict=True):
        values = (cost.parameter_bytes, cost.optimizer_bytes, cost.training_bytes, cost.inference_bytes)
        table.add_row(name, *(f"{value / 1e6:,.1f}" for value in values), f"{cost.multiplications / 1e6:,.1f} M")
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
