"""WebDataset shards: tar files of images, each followed by what is known of it.

A sample is `street/001.jpg` with `street/001.json`, which has COCO's entries of one image:

    {"image_id": 7, "width": 640, "height": 480, "annotations": [{"bbox": [x, y, width, height], "category_id": 3}]}

Objects may have `segmentation`, `area`, `iscrowd` and `id`; a class may be given by name (`category`, `label`). The
list may also stand alone, or be `objects` with a list for every entry (Hugging Face). For classifiers it is
`street/001.cls`, with the number or name of a class. Classes are those of `categories.json` or `classes.txt` beside the
shards, of `categories` in the JSON, or the names that occur.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detseg.data.annotations import Annotations, Problem
from detseg.data.coco_json import CocoCategory, CocoFile, CocoImage
from detseg.data.formats.coco import annotations_of
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.layout import beginning, split_of, subfolders
from detseg.data.formats.records import with_shared_names
from detseg.data.formats.webdataset_samples import (
    CATEGORIES,
    Kind,
    Sample,
    categories_beside,
    holds,
    own_categories,
    samples_of,
)
from detseg.data.formats.webdataset_write import write_shards
from detseg.data.shard_index import indexed, stamp_of
from detseg.data.tar_shards import address_of, expand_shards, is_address
from detseg.reading import FileError, reading

log = logging.getLogger(__name__)


# ------------------------------------------------------------------ finding


def _find(path: Path, images: Any = None, *, kind: Kind) -> Sources | None:
    if not path.exists():
        return _guess(path, kind=kind)
    try:
        found = _guess(path, kind=kind)
    except FileError:  # a damaged tar file may lie beside a set of another form
        if _written_here(path):
            raise
        return None
    if found is None and _written_here(path) and (splits := _splits(path)):
        first = next(iter(splits.values()))[0]
        if not (holds(first, "json") or holds(first, "cls")):
            raise FileError(f"{first}: none of its first samples is an image with annotations; copy the file again")
    return found


def _written_here(path: Path) -> bool:
    """Whether a list of categories lies at a path, which no other form has."""
    file = path / CATEGORIES
    return file.is_file() and beginning(file, 1) == b"["


def _guess(path: Path, images: Any = None, *, kind: Kind) -> Sources | None:
    """Where no other form is recognised, damage is one of shards."""
    splits = _splits(path)
    if not splits or not holds(next(iter(splits.values()))[0], kind):
        return None
    told = {split: f"{path} ({split})" if split else str(path) for split in splits}
    sources = with_shared_names({split: partial(_read, splits[split], told[split], kind) for split in splits})
    return sources if kind == "json" else {split: partial(_labels, read) for split, read in sources.items()}


def _names(path: Path) -> bool:
    text = str(path)
    return is_address(address_of(path)) or (any(mark in text for mark in "{*?[") and text.endswith(".tar"))


def _splits(path: Path) -> dict[str, list[str]]:
    """The shards of each split ("" where their names tell none) at a path; empty if there are none."""
    if path.is_dir():
        shards = sorted(map(str, path.glob("*.tar")))
        below = (folder for folder in subfolders(path) if split_of(folder.name))
        shards = shards or sorted(str(shard) for folder in below for shard in folder.glob("*.tar"))
    elif path.is_file():
        listed = path.suffix.lower() == ".txt" and _first_line(path).endswith(".tar")
        shards = expand_shards(path) if listed else [str(path)] if path.suffix.lower() == ".tar" else []
    else:
        shards = expand_shards(path)
    # Whole paths: the index knows shards by them, from wherever it is used.
    shards = [shard if is_address(shard) else str(Path(shard).absolute()) for shard in shards]
    splits: dict[str, list[str]] = {}
    for shard in shards:
        split = split_of(Path(shard).stem) or split_of(Path(shard).parent.name) or ""
        splits.setdefault(split, []).append(shard)
    return {"": shards} if "" in splits else splits


def _first_line(file: Path) -> str:
    with reading(file), file.open("rb") as opened:
        start = opened.read(4096).decode("utf-8-sig", "replace")
    return next((line.strip() for line in start.splitlines() if line.strip() and not line.startswith("#")), "")


# ------------------------------------------------------------------ reading


def _read(shards: Sequence[str], source: str, kind: Kind) -> Annotations:
    beside = shards[0].rpartition("/")[0] if is_address(shards[0]) else str(Path(shards[0]).parent)
    categories = categories_beside(beside)

    def read() -> Annotations:
        log.info("%s: reading %d shards once", source, len(shards))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # mostly it waits
            samples = list(chain.from_iterable(pool.map(partial(samples_of, kind=kind), shards)))
        own = own_categories(samples, source, kind) if categories is None else categories
        return _assembled(samples, source, own)

    return replace(indexed(shards, kind, stamp_of(shards, repr(categories)), read), source=source)


def _assembled(samples: Sequence[Sample], source: str, categories: list[CocoCategory]) -> Annotations:
    """The data set of samples: as of one COCO file, whose checks and repairs are the same."""
    by_name = {category.name: category.id for category in categories}
    given = [one.image_id for one in samples]
    ids: list[Any] = list(range(1, len(given) + 1)) if None in given else given
    images, objects = [], []
    for image_id, one in zip(ids, samples, strict=True):
        size = one.size or ((0, 0) if isinstance(one.info, str) else one.info.size)
        images.append(CocoImage(image_id, one.path, *size))
        for meant, text in one.items:
            number = by_name.get(meant, meant) if isinstance(meant, str) else meant
            with reading(one.place, "correct it"):
                start = msgspec.json.encode({"image_id": image_id, "category_id": number})
            objects.append(msgspec.Raw(start[:-1] + (b"," if len(text) > 2 else b"") + text[1:]))
        one.items.clear()
    data = annotations_of(CocoFile(images, categories, objects), Path(source), list)
    return replace(data, read_problems=(*data.read_problems, *_image_problems(data, samples)))


def _image_problems(data: Annotations, samples: Sequence[Sample]) -> Iterator[Problem]:
    from detseg.data.checks.image_checks import image_problem, size_problems  # here: it brings OpenCV

    for row, one in enumerate(samples):
        if isinstance(one.info, str):
            yield image_problem(data, row, one.info, "replace the image or remove the entry", "damaged-image")
        else:
            yield from size_problems(data, row, one.info)
        if not one.told:
            what = f"has no .{one.place.rpartition('.')[2]} beside it in the shard"
            remedy = "add one; it counts as an image without objects"
            yield image_problem(data, row, what, remedy, "no-annotations", "warning")


def _labels(read: Any) -> Any:
    """The images with one class each that samples with a class are: of each the whole image is an object."""
    from detseg.data.labels import LabelledImages

    data: Annotations = read()
    labels = np.full(len(data), -1, np.int64)
    labels[data.image_index] = data.labels
    return LabelledImages(
        categories=data.categories,
        image_ids=data.image_ids,
        paths=data.paths,
        sizes=data.sizes,
        source=data.source,
        read_problems=tuple(problem for problem in data.read_problems if problem.kind != "unknown-category"),
        labels=labels,
    )


FORMATS = [
    Format(
        name="webdataset",
        title="WebDataset",
        looks_for="a folder of shards, train-000000.tar and val-000000.tar, or a pattern of them, "
        "train-{000000..000009}.tar or s3://bucket/train-*.tar; with x.jpg and x.json",
        find=partial(_find, kind="json"),
        guess=partial(_guess, kind="json"),
        names=_names,
        write=write_shards,
        holds=frozenset({"polygons", "masks", "crowd", "category ids", "image ids"}),
        takes_images=False,
        holds_images=True,
    ),
    Format(
        name="webdataset",
        title="WebDataset",
        looks_for="shards or a pattern of them, as for objects; with x.jpg and x.cls",
        find=partial(_find, kind="cls"),
        guess=partial(_guess, kind="cls"),
        names=_names,
        gives="labels",
        takes_images=False,
    ),
]
