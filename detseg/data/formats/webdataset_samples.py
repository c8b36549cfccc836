"""What the samples of a WebDataset shard say, as `detseg.data.formats.webdataset` tells: image by image.

Objects are kept as JSON texts: a million of them as Python objects would take gigabytes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from detseg.data.coco_json import CocoCategory
from detseg.data.formats.locate import IMAGE_EXTENSIONS
from detseg.data.shard_members import member_path
from detseg.data.tar_shards import Member, file_system, grouped, is_address, members, open_shard
from detseg.json_text import parse_json
from detseg.reading import FileError, reading

Kind = Literal["json", "cls"]  # the extension of what says of an image: its objects, or its class

IMAGES = frozenset(extension[1:] for extension in IMAGE_EXTENSIONS)
TRIED = 20  # samples of the first shard that are looked at before it is of another form
NAMED = ("category", "label", "category_name", "class", "class_name")  # what a class by name may be called
COLUMNS = {"categories": "category", "labels": "label", "category_ids": "category_id"}  # spellings in `objects`
ENTRIES = ("id", "bbox", "area", "iscrowd", "segmentation")
CATEGORIES, CLASSES = "categories.json", "classes.txt"


class Item(NamedTuple):
    """An object: its class as the sample says it, an id or a name, and a JSON text of the rest."""

    meant: Any
    text: bytes


class Sample(NamedTuple):
    """An image of a shard."""

    path: str
    info: Any  # what its header says, an ImageInfo; or a text that says what is wrong
    place: str  # of what is said of it, for messages
    told: bool  # whether anything is
    image_id: int | str | None
    size: tuple[int, int] | None  # width and height as they are said
    items: list[Item]
    categories: list[CocoCategory] | None


def holds(shard: str, kind: Kind) -> bool:
    """Whether one of the first samples is an image of which something of this kind is said."""
    with open_shard(shard) as file:
        wanted = ((member, member.content() if member.extension == "json" else b"") for member in members(file, shard))
        for _, (_, files) in zip(range(TRIED), grouped(wanted, shard), strict=False):
            if IMAGES & set(files) and kind in files:
                # Beside a class, JSON may hold anything.
                return kind == "cls" or "cls" not in files or _objects(parse_json(files["json"], shard)) is not None
    return False


def samples_of(shard: str, kind: Kind) -> list[Sample]:
    """All images of a shard; raises FileError, but for damaged images, which are told."""
    found = []
    with open_shard(shard) as file:
        read = ((member, _content(member, shard, kind)) for member in members(file, shard))
        for key, files in grouped(read, shard):
            images = sorted(IMAGES & set(files))
            if len(images) > 1:
                raise FileError(f"{shard}: {key}: has several images, .{' and .'.join(images)}; leave one")
            for path, info in (files[extension] for extension in images):
                place = f"{shard}: {key}.{kind}"
                with reading(place, "correct it"):
                    found.append(_sample(path, info, place, files.get(kind), kind))
    return found


def _content(member: Member, shard: str, kind: Kind) -> Any:
    """Of an image its path and what its header says, of what is wanted of it the text."""
    from detseg.data.images import inspect_content  # here: it brings OpenCV

    if member.extension == kind:
        return member.content()
    if member.extension not in IMAGES:
        return None
    content = member.content()
    path = member_path(shard, member, content)
    try:
        return path, inspect_content(content, path)
    except ValueError as error:
        return path, str(error).removeprefix(f"{path}: ")


def _sample(path: str, info: Any, place: str, text: bytes | None, kind: Kind) -> Sample:
    if not text:
        return Sample(path, info, place, False, None, None, [], None)
    if kind == "cls":
        word = text.decode("utf-8-sig").strip()
        width, height = (1, 1) if isinstance(info, str) else info.size
        item = {"category": int(word) if word.isdecimal() and word.isascii() else word, "bbox": [0, 0, width, height]}
        return Sample(path, info, place, True, None, None, [_item(item)], None)
    content = parse_json(text, place)
    items = _objects(content)
    if isinstance(items, dict):
        items = _rows(items, place)
    if not isinstance(items, list):
        raise FileError(
            f'{place}: has no list "annotations"; write {{"annotations": [{{"bbox": [x, y, width, height], '
            '"category_id": 1}]}, an empty list for an image without objects'
        )
    more = content if isinstance(content, dict) else {}
    number, sides = more.get("image_id"), (more.get("width"), more.get("height"))
    size: Any = sides if all(isinstance(side, int) and 0 < side < 2**31 for side in sides) else None
    listed = more.get("categories")
    return Sample(
        path,
        info,
        place,
        True,
        number if isinstance(number, int | str) and not isinstance(number, bool) else None,
        size,
        [_item(item) for item in items],
        None if listed is None else categories_of(listed, place),
    )


def _objects(content: Any) -> Any:
    """The objects that a JSON text lists, None if it lists none."""
    if isinstance(content, dict):
        return content.get("annotations", content.get("objects"))
    return content if isinstance(content, list) else None


def _rows(columns: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Objects from lists of what they have."""
    lists = {COLUMNS.get(name, name): values for name, values in columns.items() if isinstance(values, list)}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise FileError(f"{place}: the lists of objects have different lengths: {lengths}; correct them")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _item(item: Any) -> Item:
    """An object as COCO has it, without image and class."""
    if not isinstance(item, dict):
        return Item(None, msgspec.json.encode({"of": item}))  # which is told as malformed
    entry = {name: item[name] for name in ENTRIES if name in item}
    box = entry.get("bbox")
    if item.get("bbox_mode") == 0 and isinstance(box, list) and len(box) == 4:  # Detectron2's corners
        with_numbers = all(isinstance(value, int | float) for value in box)
        entry["bbox"] = [*box[:2], box[2] - box[0], box[3] - box[1]] if with_numbers else box
    return Item(_class_of(item), msgspec.json.encode(entry))


def _class_of(item: dict[str, Any]) -> Any:
    value = item.get("category_id")
    value = next((item[name] for name in NAMED if name in item), None) if value is None else value
    return value.get("name", value.get("id")) if isinstance(value, dict) else value


# ------------------------------------------------------------------ classes


def categories_beside(folder: str) -> list[CocoCategory] | None:
    """The classes that a file beside the shards lists; None without one. Names alone are numbered from 0."""
    for name in (CATEGORIES, CLASSES):
        place = f"{folder}/{name}"
        content = _content_if_there(place)
        if content is None:
            continue
        if name == CATEGORIES:
            listed = parse_json(content, place)
            return categories_of(listed.get("categories") if isinstance(listed, dict) else listed, place)
        with reading(place, "save it as UTF-8"):
            return categories_of(
                [line.strip() for line in content.decode("utf-8-sig").split("\n") if line.strip()], place
            )
    return None


def _content_if_there(place: str) -> bytes | None:
    with reading(place):
        if not is_address(place):
            return Path(place).read_bytes() if Path(place).is_file() else None
        files, inside = file_system(place)
        content: bytes | None = files.cat_file(inside) if files.exists(inside) else None
        return content


def categories_of(listed: Any, place: str) -> list[CocoCategory]:
    """The classes of a list of COCO's entries or of names; raises FileError."""
    with reading(place, 'list the classes as {"id": 1, "name": "dog"} or by their names'):
        if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
            return [CocoCategory(number, name) for number, name in enumerate(listed)]
        return msgspec.convert(listed, list[CocoCategory])


def own_categories(samples: Sequence[Sample], source: str, kind: Kind) -> list[CocoCategory]:
    """The classes that the samples list, or the names that they give, by the alphabet."""
    listed: dict[Any, CocoCategory] = {}
    for one in samples:
        for category in one.categories or ():
            if listed.setdefault(category.id, category) != category:
                what = f"the category id {category.id} is {listed[category.id].name!r} and {category.name!r}"
                raise FileError(f"{one.place}: {what}; give each class one id")
    if listed:
        return sorted(listed.values(), key=lambda category: (isinstance(category.id, str), category.id))
    meant = {item.meant for one in samples for item in one.items if isinstance(item.meant, int | str)}
    names = sorted(one for one in meant if isinstance(one, str))
    numbers = sorted(one for one in meant if isinstance(one, int))
    if kind == "cls":
        return [CocoCategory(number, str(number)) for number in numbers] + _numbered(names, max(numbers, default=0) + 1)
    if numbers and not names:
        raise FileError(
            f"{source}: its objects have category ids without names; put {CATEGORIES} beside the shards, a list of "
            f'{{"id": 1, "name": "dog"}}, or {CLASSES}, a name a line, whose ids count from 0'
        )
    return _numbered(names, 1)


def _numbered(names: Iterable[str], first: int) -> list[CocoCategory]:
    return [CocoCategory(number, name) for number, name in enumerate(names, first)]
