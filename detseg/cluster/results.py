"""Shards of results: a row for each image, in Parquet or JSON Lines, written by one unit and read by anyone."""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detseg.cluster.storage import file_names, place_in, read
from detseg.console import text_of_bytes
from detseg.json_text import ODD_JSON
from detseg.reading import FileError, cause, reading
from detseg.results import Classification, Results, Segmentation

FORMATS = ("parquet", "jsonl")
LIKELIEST = 5  # classes of an image
REMEDY = "remove the file and predict again with the same command"


class Mask(msgspec.Struct):
    """COCO run lengths."""

    size: list[int]  # height, width
    counts: str


class Row(msgspec.Struct):
    """What is known of an image: D objects, best first, its D likeliest classes, or the D classes of its pixels, the
    largest first; or why it could not be read."""

    image: str  # as it was named; in archives its name in there, of tables as they call it
    width: int | None = None
    height: int | None = None
    boxes: list[tuple[float, float, float, float]] = []  # (D, 4) xyxy in its pixels, of objects only
    scores: list[float] = []  # (D,) of classes of pixels their mean confidence
    labels: list[int] = []  # (D,) positions in the categories of the manifest
    names: list[str] = []  # (D,) of the labels
    masks: list[Mask] | None = None  # (D,); None of models that find boxes alone
    error: str | None = None


class Columns(NamedTuple):
    """The rows of a shard, N images and D objects, as arrays."""

    images: list[str]  # (N,)
    errors: list[str | None]  # (N,)
    counts: NDArray[np.int64]  # (N,) objects of each image
    boxes: NDArray[np.float64]  # (D, 4) xyxy
    scores: NDArray[np.float64]  # (D,)
    labels: NDArray[np.int64]  # (D,)
    masks: list[dict[str, Any]] | None  # (D,)


def row_of(image: str, size: Sequence[int], found: Results | Classification | Segmentation) -> Row:
    """What was found in an image of `size` (height, width), all digits kept."""
    boxes: Any = []
    masks = None
    if isinstance(found, Classification):
        labels, scores = found.labels[:LIKELIEST].tolist(), found.scores[:LIKELIEST].tolist()
    elif isinstance(found, Segmentation):
        every = found.to_coco()
        labels, scores = list(found.pixels()), [one["score"] for one in every]
        masks = [Mask(**one["segmentation"]) for one in every]
    else:
        labels, scores, boxes = found.labels.tolist(), found.scores.tolist(), found.boxes.tolist()
        if found.masks is not None:
            masks = [Mask(**one["segmentation"]) for one in found.to_coco()]
    names = [found.names[label] for label in labels]
    return Row(text_of_bytes(image), size[1], size[0], boxes, scores, labels, names, masks)


def encode(rows: Sequence[Row], ending: str) -> bytes:
    """The content of a shard in one of `FORMATS`."""
    if ending == "jsonl":
        return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    pyarrow = _pyarrow("shards in Parquet are")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([msgspec.to_builtins(row) for row in rows], _schema(pyarrow))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def _schema(pyarrow: Any) -> Any:
    number, text, some = pyarrow.float32(), pyarrow.string(), pyarrow.list_
    whole = pyarrow.int32()
    return pyarrow.schema(
        {
            "image": text,
            "width": whole,
            "height": whole,
            "boxes": some(some(number)),
            "scores": some(number),
            "labels": some(whole),
            "names": some(text),
            "masks": some(pyarrow.struct({"size": some(whole), "counts": text})),
            "error": text,
        }
    )


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{what} written and read by pyarrow: pip install 'detseg[cluster]'") from error
    return pyarrow


def shards_in(folder: str) -> dict[str, str]:
    """The file names of the shards of results in a folder by the names of their units, sorted."""
    names = (name for name in file_names(folder) if not name.startswith("."))
    return {name.rpartition(".")[0]: name for name in sorted(names) if name.rpartition(".")[2] in FORMATS}


def read_columns(address: str) -> Columns:
    """The rows of a shard; raises FileError."""
    content = read(address)
    with reading(address, REMEDY):
        columns = _from_lines(content, address) if address.endswith(".jsonl") else _from_parquet(content, address)
    if columns.masks is not None and len(columns.masks) != len(columns.scores):
        raise FileError(f"{address}: some results have masks and others none ({REMEDY})")
    return columns


def read_all(folder: str) -> Iterator[tuple[str, Columns]]:
    """The shards of a folder, one after another, each with its address; raises FileError."""
    for name in shards_in(folder).values():
        address = place_in(folder, name)
        yield address, read_columns(address)


def _from_lines(content: bytes, address: str) -> Columns:
    decoder = msgspec.json.Decoder(Row)
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = decoder.decode(line)
        except ODD_JSON as error:
            raise FileError(f"{address}: line {number}: {cause(error)} ({REMEDY})") from error
        numbers = [len(row.scores), len(row.labels), len(row.boxes) or len(row.scores)]
        _require_equal(numbers + ([] if row.masks is None else [len(row.masks)]), f"{address}: line {number}")
        rows.append(row)
    masks = [msgspec.to_builtins(mask) for row in rows for mask in row.masks or ()]
    return Columns(
        [row.image for row in rows],
        [row.error for row in rows],
        np.array([len(row.scores) for row in rows], np.int64),
        np.array([box for row in rows for box in row.boxes], np.float64).reshape(-1, 4),
        np.array([score for row in rows for score in row.scores], np.float64),
        np.array([label for row in rows for label in row.labels], np.int64),
        masks if any(row.masks is not None for row in rows) else None,
    )


def _require_equal(numbers: Iterable[int], place: str) -> None:
    """Raise FileError where an image has not as many scores as labels, boxes and masks."""
    if len(set(numbers)) > 1:
        raise FileError(f"{place}: there are not as many scores as labels, boxes and masks ({REMEDY})")


def _from_parquet(content: bytes, address: str) -> Columns:
    pyarrow = _pyarrow("shards in Parquet are")
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(content), schema=_schema(pyarrow)).combine_chunks()
    columns = {name: table.column(name) for name in table.column_names}
    lengths = {name: _lengths(columns[name]) for name in ("scores", "labels", "boxes", "masks")}
    for number, (scores, labels, boxes, found) in enumerate(zip(*lengths.values(), strict=True)):
        _require_equal(
            (scores, labels, boxes or scores, scores if found is None else found), f"{address}: row {number}"
        )
    masks, names = columns["masks"], columns["image"].to_pylist()
    found = [mask for one in masks.to_pylist() for mask in one or ()]
    if None in names or any(mask is None or None in mask.values() for mask in found):
        raise FileError(f"{address}: an image has no name, or a mask no size or run lengths ({REMEDY})")
    return Columns(
        names,
        columns["error"].to_pylist(),
        np.array(lengths["scores"], np.int64),
        _flat(columns["boxes"], 2).astype(np.float64).reshape(-1, 4),
        _flat(columns["scores"]).astype(np.float64),
        _flat(columns["labels"]).astype(np.int64),
        None if masks.null_count == len(masks) else found,
    )


def _lengths(column: Any) -> list[int | None]:
    import pyarrow.compute

    lengths: list[int | None] = pyarrow.compute.list_value_length(column).to_pylist()
    return lengths


def _flat(column: Any, depth: int = 1) -> NDArray[Any]:
    """What is in the lists of a column, or in the lists in them."""
    import pyarrow.compute

    for _ in range(depth):
        column = pyarrow.compute.list_flatten(column)
    values: NDArray[Any] = column.to_numpy()
    return values
