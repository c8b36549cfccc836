"""The content of a COCO JSON file as records: what has another form than usual is understood or reported.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from detseg.data.annotations import AnnotationError, Problem

MISSING = -(2**63)  # stands for an annotation id the file does not give


class CocoImage(msgspec.Struct, gc=False):
    """An entry of `images`; `file_name` may hold folders."""

    id: int
    file_name: str = ""
    width: int | None = 0
    height: int | None = 0


class CocoCategory(msgspec.Struct, gc=False):
    """An entry of `categories`."""

    id: int
    name: str


class CocoRle(msgspec.Struct, gc=False):
    """A run-length mask: `size` is height, width; `counts` are compressed (text) or plain."""

    size: tuple[int, int]
    counts: str | list[int]


class CocoAnnotation(msgspec.Struct, gc=False):
    """An entry of `annotations`; `bbox` is x, y, width, height."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    id: int = MISSING
    area: float | None = None
    iscrowd: bool | int | None = 0
    segmentation: list[list[float]] | CocoRle | None = None


_MANY = msgspec.json.Decoder(list[CocoAnnotation])


class CocoFile(msgspec.Struct, gc=False):
    """The whole file, its annotations still unread."""

    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[msgspec.Raw] = []


def load_file(path: Path) -> tuple[CocoFile, Callable[[Any], CocoAnnotation]]:
    """The file's parts, and the function that reads one of its annotations."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=CocoFile), msgspec.json.Decoder(
            CocoAnnotation
        ).decode
    except msgspec.MsgspecError:
        return _load_leniently(data, path), lambda item: msgspec.convert(item, CocoAnnotation, strict=False)


def _load_leniently(data: bytes, path: Path) -> CocoFile:
    """Read with the standard library, which takes NaN and Infinity, and say exactly what is wrong."""
    try:
        content = json.loads(data.decode(json.detect_encoding(data)))
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: byte {error.start} is not {error.encoding} text") from error
    if isinstance(content, list):
        raise AnnotationError(
            f"{path}: holds a list, as COCO detection results do. Annotations are an object with "
            '"images", "annotations" and "categories"'
        )
    lists: dict[str, list[Any]] = {}
    for key in ("images", "categories", "annotations"):
        part = content.get(key) if isinstance(content, dict) else None
        if part is None and key == "annotations" and isinstance(content, dict):
            part = []
        if not isinstance(part, list):
            raise AnnotationError(f'{path}: no list "{key}"; this is not a COCO annotation file')
        lists[key] = part
    return CocoFile(
        images=_convert(lists["images"], CocoImage, f"{path}: images"),
        categories=_convert(lists["categories"], CocoCategory, f"{path}: categories"),
        annotations=lists["annotations"],
    )


def _convert(items: list[Any], kind: type[Any], place: str) -> list[Any]:
    converted = []
    for position, item in enumerate(items):
        try:
            converted.append(msgspec.convert(item, kind, strict=False))
        except msgspec.ValidationError as error:
            raise AnnotationError(f"{place}[{position}]: {error}") from error
    return converted


def parse_chunk(
    items: Sequence[Any], start: int, parse: Callable[[Any], CocoAnnotation], path: Path, problems: list[Problem]
) -> list[CocoAnnotation]:
    """Read annotations, the first of which is number `start`; adds those that cannot be read to `problems`."""
    if items and isinstance(items[0], msgspec.Raw):
        try:
            return _MANY.decode(b"[" + b",".join(items) + b"]")
        except msgspec.ValidationError:
            pass  # one of them is odd: find out which
    chunk = []
    for position, item in enumerate(items, start):
        try:
            chunk.append(parse(item))
        except msgspec.ValidationError:
            annotation = _parse_leniently(item, position, path, problems)
            if annotation is not None:
                chunk.append(annotation)
    return chunk


def _parse_leniently(item: Any, position: int, path: Path, problems: list[Problem]) -> CocoAnnotation | None:
    """Read an annotation with odd types (numbers as text); without a usable outline if that is the fault."""
    fields = _as_meant(msgspec.json.decode(item) if isinstance(item, msgspec.Raw) else item)
    try:
        return msgspec.convert(fields, CocoAnnotation, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error)
    known = fields if isinstance(fields, dict) else {}
    number, image_id = (v if type(v := known.get(key)) is int else None for key in ("id", "image_id"))
    malformed = Problem(
        str(path),
        "",
        number,
        f"annotations[{position}] is malformed: {reason}",
        "correct or remove it",
        kind="malformed-object",
        image_index=-1 if image_id is None else image_id,
    )
    if "$.segmentation" in reason and known.get("bbox"):
        remedy = "correct the outline; the object keeps only its box"
        problems.append(replace(malformed, remedy=remedy, severity="warning", kind="malformed-outline"))
        rest = {key: value for key, value in known.items() if key != "segmentation"}
        return _parse_leniently(rest, position, path, problems)
    problems.append(malformed)
    return None


def _as_meant(fields: Any) -> Any:
    """An annotation without what some tools write in other words: no box as [], no id as null, one flat polygon."""
    if not isinstance(fields, dict):
        return fields
    left_out = {key for key, nothing in (("id", None), ("bbox", [])) if fields.get(key, 0) == nothing}
    fields = {key: value for key, value in fields.items() if key not in left_out}
    outline = fields.get("segmentation")
    if isinstance(outline, list) and len(outline) >= 6 and all(isinstance(v, int | float) for v in outline):
        fields["segmentation"] = [outline]
    return fields
