"""The images of a unit, one after another: their names, and their files' content or where it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.cluster.storage import place_in, read
from detseg.cluster.units import Unit
from detseg.data.formats.image_files import IMAGE_EXTENSIONS
from detseg.data.images import decode_image
from detseg.data.tar_shards import open_shard, samples
from detseg.reading import FileError, cause
from detseg.sources.addresses import download, is_web_address

# What columns of tables are called that hold images, where they are, and what to call them; the first there is taken.
CONTENT = ("image", "jpg", "jpeg", "png", "webp", "bytes", "img", "image_bytes", "content", "data")
PLACE = ("url", "image_url", "path", "image_path", "file_name", "filename", "file", "uri", "image")
NAME = ("file_name", "filename", "path", "image_path", "__key__", "key", "name", "id", "image_id", "url", "image_url")
ROWS = 64  # of a table that are in memory at a time

Source = tuple[str, bytes | str | FileError]
"""What to call an image, and its file's content, or its address, or why there is neither."""


def images_of(unit: Unit, folder: str) -> Iterator[Source]:
    """The images of a unit; relative paths are seen from `folder`.

    What is wrong with an archive or table comes as an error of its own name, after the images before it. Raises OSError
    where its storage fails, which may be over the next time.
    """
    if unit.kind == "images":
        yield from ((name, place_in(folder, name)) for name in unit.sources)
        return
    (source,) = unit.sources
    place = place_in(folder, source)
    try:
        yield from (_of_archive if unit.kind == "archive" else _of_table)(place)
    except FileError as error:
        if (fault := error.__cause__) is not None and _of_storage(fault):
            raise fault from error
        yield source, error


def open_source(source: Source, channels: int) -> tuple[str, NDArray[np.uint8] | ValueError]:
    """The name of an image and its pixels, see `detseg.data.images.read_image`, or why there are none."""
    name, content = source
    try:
        if isinstance(content, FileError):
            return name, content
        if isinstance(content, str):
            content = download(content) if is_web_address(content) else read(content)
        return name, decode_image(content, name, channels)
    except ValueError as error:
        return name, error


def _of_archive(place: str) -> Iterator[Source]:
    with open_shard(place) as file:
        for key, files in samples(file, place):
            extension = next((ending[1:] for ending in IMAGE_EXTENSIONS if ending[1:] in files), None)
            if extension is None:
                yield key, FileError(f"{key}: no image among its files (.{', .'.join(files)})")
            else:
                yield f"{key}.{extension}", files[extension]


def _of_table(place: str) -> Iterator[Source]:
    from pyarrow import parquet

    with open_shard(place) as file:
        with _damage_of(place):
            table = parquet.ParquetFile(file)
            schema = table.schema_arrow
        image, name = columns_of(schema, place)
        rows = _rows(table, list(dict.fromkeys((image, *([name] if name else [])))), place)
        for number, row in enumerate(rows):
            yield _of_row(row[image], row[name] if name else None, f"{place}#{number}", place)


def _rows(table: Any, columns: list[str], place: str) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, some in memory at a time."""
    with _damage_of(place):
        batches = table.iter_batches(ROWS, columns=columns)
    while True:
        with _damage_of(place):
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        if batch is None:
            return
        yield from rows


@contextmanager
def _damage_of(place: str) -> Iterator[None]:
    """Turns what pyarrow raises at damaged files, which is of many kinds, into a FileError."""
    try:
        yield
    except Exception as error:
        if _of_storage(error):
            raise
        raise FileError(f"{place}: no Parquet file, or damaged: {cause(error)}") from error


def _of_storage(error: BaseException) -> bool:
    """Whether it may be over the next time; what pyarrow says of damage is an OSError too, without a number."""
    of_pyarrow = type(error) is OSError and error.errno is None
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and not of_pyarrow


def columns_of(schema: Any, place: str) -> tuple[str, str | None]:
    """The columns of a table, by its Arrow schema, with the images or where they are, and with their names if any.

    Images are binary, or as Hugging Face's data sets have them `{bytes, path}`; places are text. The first of the usual
    names is taken, else the only such column. Raises FileError where neither says which.
    """
    import pyarrow.types as of

    kinds = {field.name: field.type for field in schema}
    binary = [n for n, t in kinds.items() if of.is_binary(t) or of.is_large_binary(t) or _is_pair(t)]
    text = [n for n, t in kinds.items() if of.is_string(t) or of.is_large_string(t)]
    numbers = [n for n, t in kinds.items() if of.is_integer(t)]
    image = next((n for n in CONTENT if n in binary), binary[0] if len(binary) == 1 else None)
    if image is None and not binary:
        image = next((n for n in PLACE if n in text), text[0] if len(text) == 1 else None)
    if image is None:
        columns = ", ".join(f"{n} ({t})" for n, t in kinds.items())
        raise FileError(f"{place}: which column holds the images? Call it image; there are {columns}")
    return image, next((n for n in NAME if n in (*text, *numbers)), None)


def _is_pair(kind: Any) -> bool:
    import pyarrow.types as of

    return bool(of.is_struct(kind)) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}


def _of_row(image: Any, name: Any, number: str, place: str) -> Source:
    """A row of a table: its image or where it is, and what it is called, by default its number."""
    if isinstance(image, Mapping):
        name = name if name is not None else image.get("path")
        image = image["bytes"] if image["bytes"] is not None else image.get("path")
    called = str(image if name is None and isinstance(image, str) else number if name is None else name)
    if image is None:
        return called, FileError(f"{called}: the row has no image")
    return called, place_in(place.rpartition("/")[0] or ".", image) if isinstance(image, str) else image
