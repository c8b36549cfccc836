"""`detseg predict --tiles`: the detector of a run in tiles, and a line that tells which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detseg.console import print_line

if TYPE_CHECKING:
    from rich.console import Console

Tiles = int | Literal["auto", "none"]


def in_tiles(model: Any, tiles: Tiles | None, run: Path, console: Console) -> Any:
    """The model of a run, looking at images in tiles where they are asked for, or where it was trained so.

    Args:
        model: what `detseg.predict.load` gives.
        tiles: side of the tiles, pixels of the image; "auto": by the objects of training; "none": no tiles.

    Raises ValueError, naming the run, for what does not go in tiles.
    """
    from detseg.tiled import Tiled

    objects = getattr(model, "description", {}).get("objects") or {}
    if tiles == "none" or (tiles is None and "tile" not in objects):
        return model
    try:
        tiled = Tiled(model, tile=tiles if isinstance(tiles, int) else None)
    except ValueError as error:
        raise ValueError(f"{run}: {error}") from error
    tile, overlap, reason = tiled.tiling
    print_line(console, f"tiles of {tile} px that overlap by {overlap} px or more: {reason}")
    return tiled
