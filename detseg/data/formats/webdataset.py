"""WebDataset shards: tar files of images, each followed by its annotations as JSON; reader and writer.

A sample is `street/001.jpg` with `street/001.json`, which has COCO's entries of one image:

    {"image_id": 7, "width": 640, "height": 480, "annotations": [{"bbox": [x, y, width, height], "category_id": 3}]}

Objects may have `segmentation`, `area`, `iscrowd` and `id`; a class may be given by name (`category`, `label`). The
list may also stand alone, or be `objects` with a list for every entry (Hugging Face). Classes are those of
`categories.json` or `classes.txt` beside the shards, of `categories` in the JSON, or the names that occur.
"""

import io
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from detseg.data.annotations import AnnotationError, Annotations, Problem
from detseg.data.coco_json import CocoCategory, CocoFile, CocoImage
from detseg.data.formats.coco import annotations_of, written_objects
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.layout import split_of, subfolders
from detseg.data.formats.locate import IMAGE_EXTENSIONS, PlaceImages, require_writable, unique_stems
from detseg.data.formats.records import with_shared_names
from detseg.data.shard_index import index_file, load_index, save_index, stamp_of
from detseg.data.shard_members import member_path, read_content
from detseg.data.tar_shards import (
    address_of,
    expand_shards,
    grouped,
    is_address,
    members,
    open_shard,
)
from detseg.files import replacing, write_atomically
from detseg.json_text import parse_json
from detseg.reading import FileError, reading

log = logging.getLogger(__name__)

IMAGES = frozenset(extension[1:] for extension in IMAGE_EXTENSIONS)
TRIED = 20  # samples of the first shard that are looked at before it is of another form
PER_SHARD = 1000  # samples that are written to one
NAMED = ("category", "label", "category_name", "class", "class_name")  # what a class by name may be called
COLUMNS = {"categories": "category", "labels": "label", "category_ids": "category_id"}  # spellings in `objects`
CATEGORIES, CLASSES = "categories.json", "classes.txt"


class _Sample(NamedTuple):
    """An image of a shard, its path and what its header says, with its JSON text (empty: none)."""

    path: str
    info: Any  # ImageInfo, or a text that says what is wrong
    place: str  # of the annotations, for messages
    text: bytes


# ------------------------------------------------------------------ finding


def _find(path: Path, images: Any = None) -> Sources | None:
    if not path.exists():
        return _guess(path)
    with suppress(FileError):  # a damaged tar file may lie beside a set of another form
        return _guess(path)
    return None


def _guess(path: Path, images: Any = None) -> Sources | None:
    """Where no other form is recognised, damage is one of shards."""
    splits = _splits(path)
    if not splits or not _is_ours(next(iter(splits.values()))[0]):
        return None
    readers = {
        split: partial(_read, shards, f"{path} ({split})" if split else str(path)) for split, shards in splits.items()
    }
    return with_shared_names(readers)


def _names(path: Path) -> bool:
    text = str(path)
    return is_address(address_of(path)) or (any(mark in text for mark in "{*?[") and text.endswith(".tar"))


def _splits(path: Path) -> dict[str, list[str]]:
    """The shards of each split ("" where their names tell none) at a path; empty if there are none."""
    if path.is_dir():
        below = {split: folder for folder in subfolders(path) if (split := split_of(folder.name))}
        found = {split: sorted(map(str, folder.glob("*.tar"))) for split, folder in below.items()}
        shards = sorted(map(str, path.glob("*.tar")))
        if not shards and any(found.values()):
            return {split: inside for split, inside in found.items() if inside}
    elif path.is_file():
        listed = path.suffix.lower() == ".txt" and _first_line(path).endswith(".tar")
        shards = expand_shards(path) if listed else [str(path)] if path.suffix.lower() == ".tar" else []
    else:
        shards = expand_shards(path)
    splits: dict[str, list[str]] = {}
    for shard in shards:
        name, folder = (Path(shard).stem, Path(shard).parent.name)
        splits.setdefault(split_of(name) or split_of(folder) or "", []).append(shard)
    return splits if "" not in splits else {"": shards} if shards else {}


def _first_line(file: Path) -> str:
    with reading(file), file.open("rb") as opened:
        start = opened.read(4096).decode("utf-8-sig", "replace")
    return next((line.strip() for line in start.splitlines() if line.strip() and not line.startswith("#")), "")


def _is_ours(shard: str) -> bool:
    """Whether one of the first samples is an image with annotations."""
    with open_shard(shard) as file:
        samples = grouped(((member, None) for member in members(file, shard)), shard)
        return any(
            IMAGES & set(found) and "json" in found for _, (_, found) in zip(range(TRIED), samples, strict=False)
        )


# ------------------------------------------------------------------ reading


def _read(shards: Sequence[str], source: str) -> Annotations:
    beside = shards[0].rpartition("/")[0] if is_address(shards[0]) else str(Path(shards[0]).parent)
    categories = _categories_beside(beside)
    stamp = stamp_of(shards, repr(categories))
    file = index_file(shards, "objects")
    data = load_index(file, stamp)
    if data is None:
        log.info("%s: reading %d shards once", source, len(shards))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # mostly it waits
            samples = [sample for found in pool.map(_samples, shards) for sample in found]
        data = _assembled(samples, source, categories)
        save_index(file, stamp, data)
    return replace(data, source=source)


def _samples(shard: str) -> list[_Sample]:
    from detseg.data.images import inspect_content  # here: it brings OpenCV

    def kept(member: Any) -> Any:
        if member.extension == "json":
            return member, member.content()
        if member.extension not in IMAGES:
            return member, None
        content = member.content()
        path = member_path(shard, member, content)
        try:
            return member, (path, inspect_content(content, path))
        except ValueError as error:
            return member, (path, str(error).removeprefix(f"{path}: "))

    found = []
    with open_shard(shard) as file:
        for key, files in grouped(map(kept, members(file, shard)), shard):
            images = sorted(IMAGES & set(files))
            if len(images) > 1:
                raise FileError(f"{shard}: {key}: has several images, .{' and .'.join(images)}; leave one")
            text = files.get("json") or b""
            for path, info in (files[extension] for extension in images):
                found.append(_Sample(path, info, f"{shard}: {key}.json", text))
    return found


def _categories_beside(folder: str) -> list[CocoCategory] | None:
    """The classes that a file beside the shards lists; None without one. Names alone are numbered from 0."""
    for name in (CATEGORIES, CLASSES):
        place = f"{folder}/{name}"
        content = _content_if_there(place)
        if content is None:
            continue
        with reading(place, "save it as UTF-8"):
            listed = content.decode("utf-8-sig").split("\n") if name == CLASSES else parse_json(content, place)
        if name == CLASSES:
            listed = [line.strip() for line in listed if line.strip()]
        return _categories(
            listed["categories"] if isinstance(listed, dict) and "categories" in listed else listed, place
        )
    return None


def _content_if_there(place: str) -> bytes | None:
    with reading(place):
        if not is_address(place):
            return Path(place).read_bytes() if Path(place).is_file() else None
        import fsspec

        files, inside = fsspec.core.url_to_fs(place)
        content: bytes | None = files.cat_file(inside) if files.exists(inside) else None
        return content


def _categories(listed: Any, place: str) -> list[CocoCategory]:
    with reading(place, 'write a list of {"id": 1, "name": "dog"} or of names'):
        if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
            return [CocoCategory(number, name) for number, name in enumerate(listed)]
        return msgspec.convert(listed, list[CocoCategory])


def _assembled(samples: Sequence[_Sample], source: str, beside: list[CocoCategory] | None) -> Annotations:
    """The data set of samples: as of one COCO file, whose checks and repairs are the same."""
    parsed = [_Parsed.of(sample) for sample in samples]
    categories = beside if beside is not None else _own_categories(parsed, source)
    by_name = {category.name: category.id for category in categories}
    given = [one.image_id for one in parsed]
    ids: list[Any] = list(range(1, len(given) + 1)) if None in given else given
    images, objects, shapes = [], [], []
    for image_id, sample, one in zip(ids, samples, parsed, strict=True):
        shape = (0, 0) if isinstance(sample.info, str) else sample.info.size
        size = shape if one.size is None else one.size
        images.append(CocoImage(image_id, sample.path, *size))
        shapes.append(shape)
        with reading(sample.place, "correct the JSON"):
            objects += [msgspec.Raw(_with_ids(item, image_id, by_name)) for item in one.items]
    data = annotations_of(CocoFile(images, categories, objects), Path(source), list)
    return replace(data, read_problems=(*data.read_problems, *_image_problems(data, samples)))


class _Parsed(NamedTuple):
    """What the JSON text of a sample says."""

    image_id: int | str | None
    size: tuple[int, int] | None  # width, height
    items: list[Any]
    categories: Any = None

    @classmethod
    def of(cls, sample: _Sample) -> "_Parsed":
        """Raises FileError for what is no such text."""
        if not sample.text:
            return cls(None, None, [])
        content = parse_json(sample.text, sample.place)
        if isinstance(content, list):
            return cls(None, None, content)
        items = content.get("annotations", content.get("objects")) if isinstance(content, dict) else None
        if isinstance(items, dict):
            items = _rows(items, sample.place)
        if not isinstance(items, list):
            raise FileError(
                f'{sample.place}: has no list "annotations"; write {{"annotations": [{{"bbox": [x, y, width, height], '
                '"category_id": 1}]}, an empty list for an image without objects'
            )
        number = content.get("image_id")
        number = number if isinstance(number, int | str) and not isinstance(number, bool) else None
        sides = content.get("width"), content.get("height")
        known = all(isinstance(side, int) and 0 < side < 2**31 for side in sides)
        return cls(number, sides if known else None, items, content.get("categories"))


def _rows(columns: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Objects from lists of what they have."""
    lists = {COLUMNS.get(name, name): values for name, values in columns.items() if isinstance(values, list)}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise FileError(f"{place}: the lists of objects have different lengths: {lengths}; correct them")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _own_categories(parsed: Sequence[_Parsed], source: str) -> list[CocoCategory]:
    """The classes that the JSON texts list, or the names that their objects have, by the alphabet."""
    listed: dict[Any, CocoCategory] = {}
    for one in parsed:
        for category in _categories(one.categories, source) if one.categories is not None else ():
            if listed.setdefault(category.id, category) != category:
                what = f"the category id {category.id} is {listed[category.id].name!r} and {category.name!r}"
                raise FileError(f"{source}: {what}; give each class one id")
    if listed:
        return sorted(listed.values(), key=lambda category: (isinstance(category.id, str), category.id))
    names = {name for one in parsed for item in one.items if isinstance(name := _class_of(item), str)}
    if not names and any(one.items for one in parsed):
        raise FileError(
            f"{source}: its objects have category ids without names; put {CATEGORIES} beside the shards, a list of "
            f'{{"id": 1, "name": "dog"}}, or {CLASSES}, a name a line, whose ids count from 0'
        )
    return [CocoCategory(number, name) for number, name in enumerate(sorted(names), 1)]


def _class_of(item: Any) -> Any:
    if not isinstance(item, dict):
        return None
    value = item.get("category_id")
    value = next((item[name] for name in NAMED if name in item), None) if value is None else value
    return value.get("name", value.get("id")) if isinstance(value, dict) else value


def _with_ids(item: Any, image_id: int | str, by_name: dict[str, int | str]) -> bytes:
    """The JSON text of an object as COCO has it."""
    if not isinstance(item, dict):
        return msgspec.json.encode({"image_id": image_id, "category_id": None, "of": item})
    meant = _class_of(item)
    entry = {"image_id": image_id, "category_id": by_name.get(meant, meant) if isinstance(meant, str) else meant}
    entry |= {name: item[name] for name in ("id", "bbox", "area", "iscrowd", "segmentation") if name in item}
    box = entry.get("bbox")
    if item.get("bbox_mode") == 0 and isinstance(box, list) and len(box) == 4:  # detectron2's corners
        with_numbers = all(isinstance(value, int | float) for value in box)
        entry["bbox"] = [*box[:2], box[2] - box[0], box[3] - box[1]] if with_numbers else box
    return msgspec.json.encode(entry)


def _image_problems(data: Annotations, samples: Sequence[_Sample]) -> Iterator[Problem]:
    from detseg.data.checks.image_checks import image_problem, size_problems

    for row, sample in enumerate(samples):
        if isinstance(sample.info, str):
            yield image_problem(data, row, sample.info, "replace the image or remove the entry", "damaged-image")
        else:
            yield from size_problems(data, row, sample.info)
        if not sample.text:
            what, remedy = "has no .json beside it in the shard", "add one; it counts as an image without objects"
            yield image_problem(data, row, what, remedy, "no-annotations", "warning")


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """Images are always put into the shards."""
    require_writable(annotations, folder)
    categories = [
        {"id": number, "name": name}
        for number, name in zip(
            annotations.category_texts.written(category.id for category in annotations.categories),
            annotations.names,
            strict=True,
        )
    ]
    content, file = msgspec.json.format(msgspec.json.encode(categories)), folder / CATEGORIES
    if file.is_file() and file.read_bytes() != content:
        raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    objects, keys = written_objects(annotations), _keys(annotations)
    for number, first in enumerate(range(0, max(1, len(annotations)), PER_SHARD)):
        rows = range(first, min(first + PER_SHARD, len(annotations)))
        with replacing(folder / f"{split}-{number:06}.tar") as temporary, tarfile.open(temporary, "w") as tar:
            for row in rows:
                _add(tar, annotations, row, keys[row], objects[annotations.objects(row)])
    write_atomically(file, content)


def _keys(annotations: Annotations) -> list[str]:
    """A key for every image, its name without points: what follows the first is the extension."""
    found: dict[str, None] = {}
    for stem in unique_stems(annotations, set()):
        key = stem.replace(".", "_")
        while key in found:
            key += "_"
        found[key] = None
    return list(found)


def _add(tar: tarfile.TarFile, annotations: Annotations, row: int, key: str, objects: list[dict[str, Any]]) -> None:
    path = str(annotations.paths[row])
    extension = Path(path).suffix.lower()
    if extension not in IMAGE_EXTENSIONS:
        raise ValueError(f"{path}: its ending is none of an image's, by which a shard tells what is one; rename it")
    width, height = annotations.sizes[row].tolist()
    image_id = annotations.image_texts.written([int(annotations.image_ids[row])])[0]
    for item in objects:
        del item["image_id"]  # said once
    text = {"image_id": image_id, "width": width, "height": height, "annotations": objects}
    try:
        content = read_content(path)
    except OSError as error:
        raise ValueError(f"{path}: the image cannot be put into a shard: {error.strerror}") from error
    for ending, held in ((extension, content), (".json", msgspec.json.encode(text))):
        info = tarfile.TarInfo(f"{key}{ending}")
        info.size, info.mode = len(held), 0o644
        tar.addfile(info, io.BytesIO(held))


FORMAT = Format(
    name="webdataset",
    title="WebDataset",
    looks_for="a folder of shards, train-000000.tar and val-000000.tar, or a pattern of them, "
    "train-{000000..000009}.tar or s3://bucket/train-*.tar; with x.jpg and x.json",
    find=_find,
    guess=_guess,
    names=_names,
    write=_write,
    holds=frozenset({"polygons", "masks", "crowd", "category ids", "image ids"}),
    takes_images=False,
)
