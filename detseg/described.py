"""What descriptions of models have in common, those of run folders and those in exported files."""

from typing import Annotated

import msgspec

LARGEST = 8192  # side of an input, pixels
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Channels = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Size = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Category(msgspec.Struct):
    """A class of the model."""

    id: Number
    name: str


Categories = Annotated[list[Category], msgspec.Meta(min_length=1)]


class Objects(msgspec.Struct):
    """What `detseg.data.tiles.object_sizes` tells of the objects of training, and the tiles of a model on tiles."""

    sides: tuple[Positive, Positive, Positive] | None = None
    long_side: Positive | None = None
    tile: Count | None = None
    overlap: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None

    def __post_init__(self) -> None:
        if self.tile is None and (self.sides is None or self.long_side is None):
            raise ValueError("sides and long_side, or tile, must be there")
        if self.tile is not None and (self.overlap is None or self.overlap >= self.tile):
            raise ValueError("tile has an overlap below it")
