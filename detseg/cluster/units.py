"""Units of work: what is predicted, written and, where a machine is lost, repeated as one."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detseg.cluster.sources import Collection
from detseg.cluster.storage import place_in

# Images of a folder or list that are a unit: some minutes on a core, and a file of results worth opening.
IMAGES = 256

Kind = Literal["images", "archive", "table"]


@dataclass(frozen=True)
class Unit:
    """Images that one worker looks at, one after another.

    Attributes:
        name: of its shard of results, without the ending. It says which images these are, wherever and how often they
            are looked at: a unit that is repeated replaces its shard.
        kind: what `sources` are.
        sources: images as they were named, or one archive or table.
    """

    name: str
    kind: Kind
    sources: tuple[str, ...]


def units_of(collection: Collection, folder: str, images: int = IMAGES) -> list[Unit]:
    """The units of a collection: each archive and table, and every so many `images`; of images those of the list's end
    may be fewer.

    Args:
        collection: what is to be looked at.
        folder: that relative paths are seen from.
        images: see above.
    """
    units = [
        Unit(f"images-{number:06d}-{_digest(group, folder)}", "images", group)
        for number, group in enumerate(_groups(collection.images, images))
    ]
    shards: tuple[tuple[Kind, tuple[str, ...]], ...] = (("archive", collection.archives), ("table", collection.tables))
    for kind, sources in shards:
        units += [Unit(f"{Path(source).stem[:60]}-{_digest((source,), folder)}", kind, (source,)) for source in sources]
    return units


def _groups(names: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(names), size):
        yield tuple(names[start : start + size])


def _digest(sources: Sequence[str], folder: str) -> str:
    """Of where the sources are, as 12 letters: what shards of equal names in different folders differ in."""
    text = "\n".join(place_in(folder, source) for source in sources)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
